"""`caption --json`, `--output` and `--sidecar`: what is written, and how a rerun goes on with it."""

import csv
import io
import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from written import records

from captioner import Captioner
from captioner.api import Caption
from captioner.commands.caption_outputs import Captioned

COLUMNS = "path, caption, confidence, score, truncated"


def test_standard_input(run, texts, monkeypatch):
    data = io.BytesIO(Path("b.jpg").read_bytes())
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=data))
    assert run("-") == (0, [texts["b.jpg"]], [])


@pytest.mark.parametrize(("data", "reason"), [(b"", "is empty (0 bytes)"), (b"notes", "is not an image")])
def test_what_is_no_image_on_standard_input_is_called_so(run, monkeypatch, data, reason):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(data)))
    status, output, errors = run("-")
    assert (status, output) == (1, [])
    assert errors[0].startswith(f"standard input: {reason}")


def test_json_marks_captions_that_are_cut_off():
    whole = Caption("A dog", confidence=0.5, score=-1.23456, tokens=(5, 6), truncated=False)
    cut = replace(whole, text="A dog with a", confidence=0.0, truncated=True)
    record = Captioned("a.png", [whole, cut]).record()
    assert record["candidates"] == [
        {"caption": "A dog", "confidence": 0.5, "score": -1.2346, "truncated": False},
        {"caption": "A dog with a", "confidence": 0.0, "score": -1.2346, "truncated": True},
    ]
    assert record["truncated"] is False
    assert Captioned("a.png", [cut]).record()["truncated"] is True


def test_log_probabilities_of_tokens(run, export, folder):
    found = Captioner.from_pretrained(export).caption("a.png")
    status, (line,), errors = run("a.png", "--json", "--log-probabilities")
    tokens = json.loads(line)["tokens"]
    assert (status, errors) == (0, [])
    assert "".join(one["token"] for one in tokens).replace("<end>", "").split() == found.text.lower().split()
    assert [one["log_probability"] for one in tokens] == [round(value, 4) for value in found.log_probabilities]
    assert run("a.png", "--output", "out.jsonl", "--log-probabilities")[0] == 0
    assert records("out.jsonl")[0]["tokens"] == tokens
    (blank,) = run("a.png", "--json", "--log-probabilities", "--min-confidence", "1")[1]
    assert "tokens" not in json.loads(blank)  # they would tell what was left blank


def test_json_has_the_confidence_and_candidates(run, texts):
    status, output, errors = run("a.png", "--json", "--candidates", "2")
    record = json.loads(output[0])
    assert (status, errors, len(output)) == (0, [], 1)
    assert record["path"] == "a.png"
    assert record["candidates"][0] == {name: value for name, value in record.items() if name in record["candidates"][0]}
    assert {"caption", "confidence"} <= record["candidates"][0].keys()
    assert len(record["candidates"]) == 2
    assert 0 <= record["confidence"] <= 1


def test_jsonl_output_goes_on_where_it_stopped(run, texts):
    assert run("a.png", "--output", "out.jsonl") == (0, [], [])
    (line,) = Path("out.jsonl").read_text().splitlines()
    Path("out.jsonl").write_text(line + '\n{"path": "b.jpg", "capt')
    assert run(".", "--output", "out.jsonl") == (0, [], ["1 of 3 images are in out.jsonl already"])
    assert {record["path"]: record["caption"] for record in records("out.jsonl")} == texts
    assert len(records("out.jsonl")) == 3
    assert run(".", "--output", "out.jsonl") == (0, [], ["3 of 3 images are in out.jsonl already"])


def test_a_jsonl_line_that_lacks_only_its_end_is_written_again(run, texts):
    Path("out.jsonl").write_text('{"path": "a.png", "caption": "x", "confidence": 0.5}')
    assert run("a.png", "b.jpg", "--output", "out.jsonl")[0] == 0
    assert [record["caption"] for record in records("out.jsonl")] == [texts["a.png"], texts["b.jpg"]]


def test_csv_output_goes_on_where_it_stopped(run, texts):
    assert run("a.png", "--output", "out.csv", "--candidates", "2") == (0, [], [])
    with open("out.csv", "a") as file:
        file.write('b.jpg,"A to')
    assert run(".", "--output", "out.csv") == (0, [], ["1 of 3 images are in out.csv already"])
    with open("out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["path"]: row["caption"] for row in rows} == texts
    assert len(rows) == 3
    assert {row["truncated"] for row in rows} == {"true"}
    assert all(float(row["score"]) < 0 for row in rows)


def test_a_csv_header_that_was_cut_off(run):
    Path("out.csv").write_text("path,cap")
    assert run("a.png", "--output", "out.csv")[0] == 0
    assert Path("out.csv").read_text().splitlines()[0] == "path,caption,confidence,score,truncated"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("out.txt", None, "--output out.txt: the name must end in .jsonl or .csv"),
        ("no/out.csv", None, "--output no/out.csv: there is no folder no; make it first"),
        ("out.jsonl", "shopping\nlist\n", "out.jsonl line 1 is not a caption record; write to another file"),
        (
            "out.jsonl",
            '{"path": "a", "confidence": "x"}\n',
            "out.jsonl line 1 is not a caption record; write to another file",
        ),
        ("out.csv", "image,text\n", f"out.csv has other columns than {COLUMNS}; write to another file"),
        ("out.csv", "notes", f"out.csv has other columns than {COLUMNS}; write to another file"),
    ],
)
def test_what_is_no_output_file_is_left_alone(run, folder, name, content, message):
    if content:
        Path(name).write_text(content)
    assert run("a.png", "--output", name) == (2, [], [f"error: {message}"])
    assert not content or Path(name).read_text() == content


def test_sidecars(run, texts, folder):
    shutil.copy("a.png", "a.bmp.png")
    Image.open("a.png").save("a.bmp")
    Path("c.txt").write_text("my own words")
    assert run(".", "--sidecar") == (0, [], ["1 of 5 images are in .txt files beside them already"])
    assert Path("b.txt").read_text(encoding="utf-8") == texts["b.jpg"] + "\n"
    assert Path("c.txt").read_text() == "my own words"
    assert Path("a.png.txt").read_text(encoding="utf-8") == texts["a.png"] + "\n"
    assert Path("a.bmp.txt").exists()
    assert Path("a.bmp.png.txt").exists()
    assert not Path("a.txt").exists()


def test_a_file_and_sidecars_together_get_what_each_lacks(run, texts, folder):
    assert run("a.png", "--output", "out.jsonl")[0] == 0
    Path("b.txt").write_text("my own words")
    assert run(".", "--output", "out.jsonl", "--sidecar")[0] == 0
    assert {record["path"]: record["caption"] for record in records("out.jsonl")} == texts
    assert len(records("out.jsonl")) == 3
    assert Path("a.txt").read_text(encoding="utf-8") == texts["a.png"] + "\n"
    assert Path("b.txt").read_text() == "my own words"
