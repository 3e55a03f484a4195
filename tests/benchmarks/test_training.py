import json
from dataclasses import replace

import pytest
import torch

from benchmarks.training import main
from benchmarks.training_systems import SYSTEMS, build_peer
from benchmarks.training_work import open_work, prepare_work
from captioner.models.captioner import build_model


def test_every_system_trains_by_turns_and_is_reported(tmp_path, capsys):
    output = tmp_path / "figures.json"
    words = ["--tiny", "--images", "4", "--batch-images", "2", "--rounds", "1", "--seconds", "0", "--systems"]
    systems = [name for name in SYSTEMS if name != "compiled"]  # half a minute, and tested with the loop
    assert main([*words, *systems, "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    rows = {row["system"]: row for row in content["rows"]}
    assert list(rows) == systems
    for name, row in rows.items():
        assert row["steps"] == 1
        assert row["first_step_seconds"] > 0
        assert row["pairs"] == 10, name
        assert 10 * 5 < row["tokens"] < 10 * 64
        assert row["flickr30k_epoch_seconds"] == pytest.approx(145_000 / row["pairs_per_second"])
    assert rows["cached"]["first_is_faster_by"] == 1.0
    assert "VisionEncoderDecoder, pixels" in capsys.readouterr().out


@pytest.mark.parametrize("full_size", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_peer_has_the_same_shapes(tmp_path, full_size):
    work = prepare_work(
        tmp_path, data=None, images=4, batch_images=2, precision="fp32", device="cpu", tiny=not full_size
    )
    resources = open_work(work)
    ours = build_model(work.settings, encoder=resources.encoder, vocabulary_size=work.vocabulary)
    peer = build_peer(work, resources.tokenizer)

    def sizes(module):
        return sum(parameter.numel() for parameter in module.parameters())

    assert sizes(ours.decoder) == sizes(peer.decoder)
    # Without layers on top of the tokens, which neither trains.
    assert sizes(ours.encoder) == sum(
        parameter.numel() for name, parameter in peer.encoder.named_parameters() if "pooler" not in name
    )


def test_the_same_weights_everywhere(tmp_path):
    work = prepare_work(tmp_path, data=None, images=4, batch_images=2, precision="fp32", device="cpu", tiny=True)
    first, second = (open_work(replace(work, images=images)).encoder for images in (4, 3))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
