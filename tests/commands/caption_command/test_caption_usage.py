"""`caption` typed wrongly, and its help."""

import os
import shutil
from pathlib import Path

import pytest

from captioner.commands import caption

PRINTS_NOTHING = "nothing is printed beside files; drop it (--output FILE.jsonl writes JSON)"


PRINTS_NOTHING = "nothing is printed beside files; drop it (--output FILE.jsonl writes JSON)"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.jpg"], "gone.jpg: no such file or folder; check the path"),
        (["empty"], "empty: the folder holds no images; name one with JPEG, PNG or other image files"),
        (["a.png", "--beams", "0"], "--beams 0: use 1 or more"),
        (["a.png", "--min-confidence", "50"], "--min-confidence 50: use a number from 0 to 1"),
        (["a.png", "b.jpg", "--explain", "x.png"], "--explain: one panel a word needs one image; name a single file"),
        (["a.png", "--explain", "no/x.png"], "no/x.png: there is no folder no; make it first"),
        (["a.png", "--explain", "empty"], "empty: is a folder; name a file in it"),
        (["a.png", "--explain", "x.jpg"], "--explain x.jpg: the name must end in .png"),
        (
            ["a.png", "--explain", "x.png", "--explain-layers", "all"],
            "--explain-layers all: use numbers with commas between, like 0,2",
        ),
        (
            ["a.png", "--explain", "x.png", "--explain-layers", "7"],
            "the decoder has no layer 7; its 1 layers are 0 to 0",
        ),
        (["a.png", "--explain-layers", "0"], "--explain-layers 0: there is nothing to draw; give --explain too"),
        (["a.png", "--output", "out.csv", "--json", "--log-probabilities"], f"--json: {PRINTS_NOTHING}"),
        (["a.png", "--output", "out.jsonl", "--json"], f"--json: {PRINTS_NOTHING}"),
        (["a.png", "--sidecar", "--json"], f"--json: {PRINTS_NOTHING}"),
        (
            ["a.png", "--log-probabilities", "--sidecar"],
            "--log-probabilities: only JSON has room for them; give --json or --output FILE.jsonl too",
        ),
        (
            ["a.png", "--log-probabilities", "--output", "out.csv"],
            "--log-probabilities: only JSON has room for them; give --json or --output FILE.jsonl too",
        ),
        (
            ["a.png", "--samples", "1", "--temperature", "1e-40"],
            "decoding.temperature=1e-40 is not in [0.01, 100]; the default is 1.0",
        ),
        (
            ["a.png", "--samples", "1", "--seed", "99999999999999999999999"],
            "decoding.seed=99999999999999999999999 is too large; use 9223372036854775807 or less",
        ),
        (["a.png", "--length-penalty", "300"], "decoding.length_penalty=300.0 is too large; use 10 or less"),
        (
            ["a.png", "--temperature", "0.7"],
            "decoding.temperature=0.7 has no effect on a search; set decoding.samples too, or drop it",
        ),
        (
            ["a.png", "--samples", "3", "--beam-groups", "3"],
            "decoding.beam_groups=3 has no effect on samples; drop it, or decoding.samples",
        ),
        (
            ["a.png", "--min-length", "5", "--max-length", "5"],
            "decoding.min_length=5 leaves no room in decoding.max_length=5, which counts the end token too; "
            "use at most 4",
        ),
        (
            ["a.png", "--prefix", "a red", "--banned-words", "red"],
            "decoding.prefix 'a red' has 'red', which decoding.banned_words bans; drop one of them",
        ),
        (["a.png", "--candidates", "3", "--beams", "2"], "2 beams cannot give 3 candidates; use beams=3 or more"),
        (["a.png", "--batch-size", "few"], "--batch-size: invalid int value: 'few'; see caption --help"),
        (["-", "--sidecar"], "--sidecar: an image from standard input has no place beside it; use --output"),
        ([], "the following arguments are required: IMAGE|FOLDER|-; see caption --help"),
    ],
)
def test_wrong_usage_is_one_line(run, folder, words, message):
    (folder / "empty").mkdir()
    assert run(*words) == (2, [], [f"error: {message}"])
    assert not list(folder.glob("out.*")) + list(folder.glob("*.txt"))


def test_a_device_that_is_not_there(run, folder):
    status, output, (line,) = run("a.png", "--device", "toaster")
    assert (status, output) == (2, [])
    assert line.startswith("error: --device toaster: ")
    assert line.endswith("use auto or cpu")


def test_without_a_model_the_newest_is_taken(export, texts, folder, capsys):
    for number, name in enumerate(["old", "new"]):
        shutil.copytree(export, folder / "checkpoints" / name / "best")
        os.utime(folder / "checkpoints" / name / "best" / "config.json", (number, number))
    assert caption.main(["a.png"]) == 0
    captured = capsys.readouterr()
    assert captured.out == texts["a.png"] + "\n"
    assert captured.err == f"model: {Path('checkpoints/new/best')}\n"


def test_without_any_model_it_is_told_how_to_get_one(folder, told):
    assert caption.main(["a.png"]) == 2
    line = told()
    assert line.startswith("error: there is no model under checkpoints/: train one with `captioner train`")
    assert "--model" in line


def test_help_fits_a_screen_and_shows_examples(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        caption.main(["--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 80
    assert lines.index("examples:") > 0
    assert sum(line.startswith("  caption ") for line in lines) >= 3
