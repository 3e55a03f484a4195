"""`caption --min-confidence`: what is left blank, and filled in again."""

import csv
import shutil
from pathlib import Path

import pytest
from written import records

from captioner.api import Caption
from captioner.commands import caption
from captioner.commands.caption_outputs import Captioned, open_output


def test_doubtful_captions_are_left_blank(doubting, capsys):
    model, texts, sure = doubting
    blank = f"{3 - len(sure)} of 3 captions are left blank: confidence below 0.5\n"
    assert 0 < len(sure) < 3
    assert caption.main([*texts, "--model", model, "--min-confidence", "0.5"]) == 0
    expected = "".join(f"{name}\t{text if name in sure else ''}\n" for name, text in texts.items())
    assert capsys.readouterr() == (expected, blank)
    assert caption.main([*texts, "--model", model, "--min-confidence", "0.5", "--output", "out.jsonl"]) == 0
    assert [bool(record["caption"]) for record in records("out.jsonl")] == [name in sure for name in texts]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_a_lower_threshold_fills_in_what_was_left_blank(doubting, name, capsys):
    model, texts, sure = doubting

    def run(*words: str) -> tuple[dict[str, str], str]:
        assert caption.main([*words, "--model", model, "--output", name]) == 0
        with open(name, newline="") as file:
            found = list(csv.DictReader(file)) if name.endswith("csv") else records(name)
        assert len(found) == len({record["path"] for record in found})
        return {record["path"]: record["caption"] for record in found}, capsys.readouterr().err

    blanked = {path: text if path in sure else "" for path, text in texts.items()}
    doubtful = next(path for path in texts if path not in sure)
    assert run(*texts, "--min-confidence", "0.5")[0] == blanked
    found, told = run(*texts, "--min-confidence", "0.5")
    assert (found, told) == (blanked, f"3 of 3 images are in {name} already\n")
    assert run(sure[0])[0] == blanked
    found, told = run(*texts, "--min-confidence", "0")
    assert (found, told) == (texts, f"{len(sure)} of 3 images are in {name} already\n")
    assert run(doubtful)[1] == f"1 of 1 images are in {name} already\n"


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
@pytest.mark.parametrize("confidence", [0.49994, 0.49996, 0.5, 0.50004])
def test_a_confidence_beside_the_threshold_is_settled_by_one_run(folder, name, confidence):
    found = Caption("A dog", confidence=confidence, score=-1.0, tokens=(5, 6))
    for least in (0.49996, 0.5, 0.50001):
        Path(name).unlink(missing_ok=True)
        open_output(name, least=least).write(Captioned("a.png", [found]).without_doubtful(least))
        assert open_output(name, least=least).done == {"a.png"}
    (kept,) = Captioned("a.png", [found]).without_doubtful(0.5).captions
    assert bool(kept.text) == (confidence > 0.49995)


def test_a_blank_sidecar_is_filled_in(doubting, capsys):
    model, texts, sure = doubting
    words = [*texts, "--model", model, "--sidecar"]
    assert caption.main([*words, "--min-confidence", "0.5"]) == 0
    sidecars = {name: Path(name).with_suffix(".txt") for name in texts}
    assert [path.read_text() for path in sidecars.values()] == [
        f"{text if name in sure else ''}\n" for name, text in texts.items()
    ]
    assert caption.main(words) == 0
    assert [path.read_text() for path in sidecars.values()] == [f"{text}\n" for text in texts.values()]


def test_confidence_that_was_fitted_to_another_decoding_is_told_once(run, texts):
    told = (
        "confidence was fitted to another decoding (beam search, 2 beams, length penalty 0.7, 1 to 6 tokens) and may "
        "be off; `captioner evaluate` with these settings tells by how much"
    )
    for words in (["--beams", "1"], ["--samples", "1"], ["--prefix", "a"], ["--candidates", "3"]):
        assert run("a.png", "b.jpg", "--json", *words)[2] == [told]
    assert run("a.png", "--output", "out.jsonl", "--beams", "1")[2] == [told]
    assert run("a.png", "--min-confidence", "0", "--beams", "1")[2] == [told]
    assert run("a.png", "--beams", "1")[2] == []  # no confidence is shown
    assert run("a.png", "--json", "--beams", "2", "--max-length", "5", "--precision", "fp32")[2] == []


def test_one_doubtful_caption_is_an_empty_line(run, folder):
    assert run("a.png", "--min-confidence", "1") == (0, [""], ["the caption is left blank: confidence below 1"])


def test_without_a_calibration_there_is_no_least_confidence(export, folder, told):
    shutil.copytree(export, "plain")
    Path("plain/confidence.json").unlink()
    assert caption.main(["a.png", "--model", "plain", "--min-confidence", "0.5"]) == 2
    assert "is not calibrated; run `captioner calibrate` on its export" in told()
