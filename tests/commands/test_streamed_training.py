"""`captioner train --data.streaming`: trains on shards, and goes on within an epoch as if it had never stopped."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_models import TINY_ENCODERS
from tiny_shards import write_shards

from captioner.commands import evaluate, train
from captioner.data import shard_files
from captioner.settings import ScheduleSettings
from captioner.training.checkpoint import find_checkpoint

VIT = {"config": json.dumps({**TINY_ENCODERS["vit"], "image_size": 16}), "trainable": False, "views": 2}


@pytest.fixture(params=["parquet", "tar"])
def settings(request, workshop, tmp_path):
    """A frozen encoder reads parquet, a trained one .tar files: 11 images in 4 batches an epoch, in two windows."""
    pattern = write_shards(tmp_path / "shards", request.param, [6, 5], first=100)
    settings = workshop.preset(
        data={"streaming": pattern, "shuffle_buffer": 6},
        encoder=VIT if request.param == "parquet" else {"views": 2},
        decoder={"dropout": 0.3},
        trainer={"batch_images": 3, "max_steps": 8, "epochs": 9, "folder": str(tmp_path), "log_every": 1},
    )
    return replace(settings, schedule=ScheduleSettings(kind="constant", warmup=0.0))


def test_a_streamed_run_goes_on_as_if_it_had_never_stopped(workshop, settings, tmp_path, capsys, monkeypatch):
    presets = {"tiny": settings}
    assert train.main(["tiny", "--trainer.run", "whole"], presets=presets) == 0
    told = capsys.readouterr().err
    assert f"Training {tmp_path / 'whole'} on 11 images in 2 " in told
    assert "8 steps, which are 2 epochs of 4 batches (padding " in told
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["train/pairs"] for line in lines if "train/pairs" in line and line["step"] <= 4) == 22
    assert len([line for line in lines if "validation/CIDEr-D" in line]) == 2

    assert (workshop.data / "photos" / "streams" / "counts.jsonl").exists()
    monkeypatch.setattr(shard_files, "COUNTERS", {})  # nothing is counted again
    torch.manual_seed(5)  # a resumed run depends on no seed of its process
    assert train.main(["tiny", "--trainer.run", "parts", "--trainer.max-steps", "7"], presets=presets) == 0
    _, state = find_checkpoint(tmp_path / "parts")
    assert (state["position"], state["place"]["epoch"], state["place"]["window"]) == (3, 1, 0)
    words = ["--resume", str(tmp_path / "parts"), "--trainer.max-steps", "8"]
    assert train.main(words, presets=presets) == 0
    weights = [load_file(find_checkpoint(tmp_path / run)[0] / "model.safetensors") for run in ("whole", "parts")]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_nobody_knows_what_a_streamed_run_saw(workshop, settings, tmp_path, told, capsys):
    """Its prepared dataset is for validation: it saw none of that one's training images."""
    words = ["--trainer.run", "streamed", "--trainer.max-steps", "1"]
    assert train.main(["tiny", *words], presets={"tiny": settings}) == 0
    best, output = str(tmp_path / "streamed" / "best"), tmp_path / "scores.json"
    capsys.readouterr()
    words = [best, "--data", str(workshop.data / "photos"), "--split", "train", "--metrics", "BLEU"]
    assert evaluate.main(words) == 2
    assert told() == (
        "error: the captioner was trained on a stream of shards, whose images nobody listed: nobody knows whether it "
        "saw split train of photos; give --allow-overlap to evaluate on it all the same\n"
    )
    assert evaluate.main([*words, "--allow-overlap", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["training_overlap"].startswith("0 known, others not checked: the captioner")


def test_shards_that_are_not_there_are_one_line(workshop, tmp_path, told):
    assert workshop.train("--data.streaming", str(tmp_path / "*.tar"), "--trainer.run", "none") == 2
    assert "no .parquet or .tar files there" in told()


def test_a_tokenizer_can_be_named(workshop, trained, settings, tmp_path):
    words = ["--trainer.run", "named", "--tokenizer.file", str(trained / "tokenizer.json"), "--trainer.max-steps", "1"]
    assert train.main(["tiny", *words], presets={"tiny": settings}) == 0
    assert (tmp_path / "named" / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
