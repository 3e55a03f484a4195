"""Captioners as ONNX files: the step's graph against the decoder, and ONNX Runtime's captions against torch's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TINY_ENCODERS, make_captioner

from captioner import Captioner
from captioner.commands import export as command
from captioner.errors import CheckpointError
from captioner.onnx_captioner import OnnxCaptioner
from captioner.onnx_export import EncoderGraph, StepGraph
from captioner.settings import EncoderSettings


@pytest.fixture
def folder(tiny_settings, tiny_tokenizer, tmp_path) -> Path:
    """An export of a captioner with a class token."""
    config = json.dumps(TINY_ENCODERS["vit"] | {"image_size": 32})
    settings = replace(tiny_settings, encoder=EncoderSettings(config=config, image_size=32, trainable=True))
    make_captioner(settings, tiny_tokenizer).save_pretrained(tmp_path / "best")
    return tmp_path / "best"


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_steps_give_what_the_decoder_gives_at_once(tiny_settings, tiny_tokenizer, pictures, positions):
    settings = replace(tiny_settings, decoder=replace(tiny_settings.decoder, positions=positions))
    captioner = make_captioner(settings, tiny_tokenizer)
    decoder, pixels = captioner.model.decoder, captioner.processor(pictures[:2])
    tokens = torch.tensor([[1, 7, 9, 20], [1, 8, 8, 30]])
    with torch.inference_mode():
        expected = decoder(tokens, captioner.model.remember(pixels))
        cross = EncoderGraph(captioner.model)(pixels)
        keys = torch.full((2, 2, 4, 12, 8), 1e4)  # rows, layers, heads, places, head; what is unread must not matter
        values = keys.clone()
        for place in range(4):
            positions = torch.tensor([place, place])
            logits, key, value = StepGraph(decoder)(tokens[:, place], positions, keys, values, *cross)
            assert torch.allclose(logits, expected[:, place], atol=1e-4)
            keys[:, :, :, place], values[:, :, :, place] = key, value


@pytest.mark.slow
def test_onnx_runtime_says_the_same_of_a_hundred_images(folder, tmp_path, capsys):
    assert command.main([str(folder), "--format", "onnx", "--output", str(tmp_path / "onnx")]) == 0
    assert "encoder.onnx and decoder_step.onnx" in capsys.readouterr().out
    noise = np.random.default_rng(0)
    images = [Image.fromarray(noise.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((40, 30)) for _ in range(100)]
    expected, found = Captioner.from_pretrained(folder), OnnxCaptioner(tmp_path / "onnx", threads=1)
    for settings in ({"beams": 1}, {"beams": 3, "batch_size": 7}, {"beams": 4, "length_penalty": 1.3, "min_length": 4}):
        wanted = expected.caption(images, precision="fp32", **settings)
        got = found.caption(images, **settings)
        assert [one.tokens for one in got] == [one.tokens for one in wanted]
        assert [one.score for one in got] == pytest.approx([one.score for one in wanted], abs=1e-4)
        assert len({one.tokens for one in wanted}) > 1
    assert list(found.stream(images[0]))[-1] == found.caption(images[0]).text
    (tmp_path / "onnx" / "encoder.onnx").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="its ONNX files are missing or damaged; export it again"):
        OnnxCaptioner(tmp_path / "onnx")


def test_a_folder_that_holds_something_is_left_alone(folder, capsys, monkeypatch):
    monkeypatch.setattr("captioner.onnx_export.PACKAGES", ())
    assert command.main([str(folder), "--output", str(folder)]) == 2
    assert capsys.readouterr().err == f"error: {folder} is not empty; name a new folder\n"


def test_missing_packages_are_named(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("captioner.onnx_export.PACKAGES", ("no_such_package",))
    assert command.main([str(folder), "--output", str(tmp_path / "onnx")]) == 2
    expected = "error: exporting to ONNX needs no_such_package; run `pip install 'captioner[onnx]'`\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "onnx").exists()
