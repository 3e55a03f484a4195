"""The decoding benchmark in small: its systems find the same captions, and its figures are written."""

import json

import pytest

from benchmarks import decoding, decoding_work
from benchmarks.decoding_systems import BEHIND_GENERATE, ENCODER_DECODER, OURS, SEPARATE
from captioner.settings import DecoderSettings


def test_all_systems_caption_alike_and_are_told_of(tmp_path, monkeypatch, capsys):
    small = DecoderSettings(width=32, layers=2, heads=2, feedforward=2, dropout=0.0, max_length=30)
    monkeypatch.setattr(decoding_work, "SYNTHETIC", small)
    monkeypatch.setattr(decoding_work, "VOCABULARY", 80)
    path = tmp_path / "figures.json"
    words = ["--images", "9", "--batches", "2", "16", "--beams", "1", "3", "--precisions", "fp32", "int8"]
    assert decoding.main([*words, "--synthetic-steps", "8", "--output", str(path)]) == 0
    content = json.loads(path.read_text())
    rows = content["rows"]
    assert {row["system"] for row in rows} == {OURS, SEPARATE, BEHIND_GENERATE, ENCODER_DECODER}
    assert len(rows) == 2 * 2 * (4 + 2)
    for row in rows:
        assert row["same_captions"] == 1.0, row
        assert row["images"] == 9
        assert row["captions_per_second"] == pytest.approx(9 / row["seconds"])
    printed = capsys.readouterr().out
    assert "int8, 3 beams, batch 16: 9 images" in printed
    assert "ceilings: fp32" in printed
