"""`caption` as it is typed: what comes on standard output, what on standard error, and the exit status."""

import csv
import io
import json
import os
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from PIL import Image
from tiny_models import end_captions

from captioner import Captioner
from captioner.api import Caption
from captioner.commands import caption
from captioner.commands.caption_outputs import Captioned, open_output
from captioner.confidence import Calibration, LogisticModel, describe_alone


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three images in the working directory."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["a.png", "b.jpg", "c.webp"]):
        Image.new("RGB", (20, 16), (90 * number, 10, 60)).save(name)
    return tmp_path


@pytest.fixture
def run(export, folder, capsys):
    """Type ``caption …`` with the tiny captioner; gives the status and the lines of output and error."""

    def run(*words: str) -> tuple[int, list[str], list[str]]:
        status = caption.main([*words, "--model", str(export)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out.splitlines(), captured.err.splitlines()

    return run


@pytest.fixture
def texts(export, folder) -> dict[str, str]:
    """What the captioner says of the three images."""
    captioner = Captioner.from_pretrained(export)
    return {name: captioner.caption(name).text for name in ("a.png", "b.jpg", "c.webp")}


PRINTS_NOTHING = "nothing is printed beside files; drop it (--output FILE.jsonl writes JSON)"
COLUMNS = "path, caption, confidence, score, truncated"


def lines_of(texts: dict[str, str], *names: str) -> list[str]:
    return [f"{name}\t{texts[name]}" for name in names]


def records(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_one_image_gives_its_bare_caption(run, texts):
    assert run("a.png") == (0, [texts["a.png"]], [])


def test_several_images_give_path_and_caption(run, texts):
    assert run("c.webp", "a.png", "c.webp") == (0, lines_of(texts, "c.webp", "a.png"), [])


def test_a_folder_is_captioned_in_order(run, texts, folder):
    (folder / "notes.txt").write_text("")
    assert run(".") == (0, lines_of(texts, "a.png", "b.jpg", "c.webp"), [])


@pytest.mark.parametrize("again", ["a.png", "./a.png", "../FOLDER/a.png"])
def test_an_image_that_is_named_twice_is_captioned_once(run, texts, folder, again):
    assert run(".", again.replace("FOLDER", folder.name), "--output", "out.jsonl") == (0, [], [])
    assert [record["path"] for record in records("out.jsonl")] == list(texts)
    assert run("./a.png", str(folder / "a.png")) == (0, [texts["a.png"]], [])


def test_a_folder_of_one_image_still_gives_its_path(run, texts, folder):
    (folder / "one").mkdir()
    shutil.copy("a.png", "one")
    assert run("one") == (0, [f"one/a.png\t{texts['a.png']}"], [])


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


Doubting = tuple[str, dict[str, str], list[str]]


@pytest.fixture
def doubting(export, folder) -> Doubting:
    """An export that is sure of the likelier captions of the three images only; its captions; the images of those."""
    found = end_captions(Captioner.from_pretrained(export))
    captions = {name: found.caption(name) for name in ("a.png", "b.jpg", "c.webp")}
    means = {name: describe_alone(caption)[0] for name, caption in captions.items()}
    least, *others = sorted(set(means.values()))
    limit = (least + others[0]) / 2
    weights = LogisticModel((limit, *[0.0] * 5), (1e-9, *[1.0] * 5), (1.0, *[0.0] * 5), bias=0.0)
    found.calibration = Calibration(weights, weights)
    found.save_pretrained("doubting")
    texts = {name: caption.text for name, caption in captions.items()}
    return "doubting", texts, [name for name, mean in means.items() if mean > limit]


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


def test_an_explanation_is_drawn(run, texts):
    assert run("a.png", "--explain", "why.png", "--explain-layers", "0,-1") == (0, [texts["a.png"]], [])
    with Image.open("why.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 400


def test_an_explanation_is_drawn_of_what_is_captioned_already(run, texts):
    for words in (["--output", "out.jsonl"], ["--sidecar"]):
        assert run("a.png", *words)[0] == 0
        status, output, (told,) = run("a.png", *words, "--explain", "why.png")
        assert (status, output) == (0, [])
        assert told.startswith("1 of 1 images are in ")
        Path("why.png").unlink()
    assert [record["caption"] for record in records("out.jsonl")] == [texts["a.png"]]


def test_candidates_are_a_line_each(run, texts):
    status, output, _ = run("a.png", "b.jpg", "--candidates", "2")
    assert status == 0
    assert [line.split("\t")[0] for line in output] == ["a.png", "a.png", "b.jpg", "b.jpg"]
    assert output[0] == f"a.png\t{texts['a.png']}"


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


def test_unreadable_images_are_named_and_the_others_captioned(run, texts, folder):
    Path("text.jpg").write_text("I am a text")
    whole = Path("b.jpg").read_bytes()
    Path("torn.jpg").write_bytes(whole[: len(whole) // 2])
    status, output, errors = run("text.jpg", "a.png", "torn.jpg", "gone.png", "b.jpg")
    assert status == 1
    assert output == lines_of(texts, "a.png", "b.jpg")
    assert [line.split(":")[0] for line in errors[:3]] == ["text.jpg", "torn.jpg", "gone.png"]
    assert errors[3:] == ["3 of 5 images could not be captioned"]


def test_only_unreadable_images(run, folder):
    Path("text.jpg").write_text("I am a text")
    assert run("text.jpg") == (1, [], ["text.jpg: is not an image in a known format; convert it to JPEG or PNG"])


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


def write_odd_images() -> list[str]:
    image = Image.new("RGB", (20, 16), (200, 30, 60))
    image.convert("CMYK").save("cmyk.jpg")
    Image.fromarray(numpy.full((16, 20), 40000, dtype=numpy.uint16)).save("deep.png")
    image.quantize(4).save("palette.gif")
    image.save("animated.gif", save_all=True, append_images=[Image.new("RGB", (20, 16))])
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save("turned.jpg", exif=turned)
    return ["cmyk.jpg", "deep.png", "palette.gif", "animated.gif", "turned.jpg"]


def test_odd_kinds_of_images_are_simply_captioned(run, folder):
    names = write_odd_images()
    status, output, errors = run(*names)
    assert (status, errors) == (0, [])
    assert [line.split("\t")[0] for line in output] == names
    assert all(line.split("\t")[1] for line in output)


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
