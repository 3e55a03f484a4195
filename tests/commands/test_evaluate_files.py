"""`captioner evaluate --predictions` and `captioner compare`."""

import errno
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.commands import compare, evaluate

CAPTIONS = {"8.png": "a blue square on a wall", "9.png": "the red picture", "10.png": "a green square"}
QUICK = ["--metrics", "BLEU,ROUGE-L,CIDEr-D"]


@pytest.fixture
def predictions(tmp_path):
    def write(captions=CAPTIONS, name="theirs.json"):
        path = tmp_path / name
        path.write_text(json.dumps([{"image_id": image, "caption": text} for image, text in captions.items()]))
        return str(path)

    return write


@pytest.fixture
def references(workshop):
    return str(workshop.data / "photos")


def test_captions_of_any_system_are_scored_without_a_model(references, predictions, tmp_path, capsys):
    output = tmp_path / "result.json"
    words = [
        "--predictions",
        predictions(),
        "--references",
        references,
        "--output",
        str(output),
        "--bootstrap-seed",
        "4",
        *QUICK,
    ]
    assert evaluate.main(words) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "test: 3 images, photos test"
    assert [line.split()[0] for line in shown[1:]] == [
        *(f"BLEU-{order}" for order in range(1, 5)),
        "ROUGE-L",
        "CIDEr-D",
    ]
    assert all(" [" in line for line in shown[1:])
    content = json.loads(output.read_text())
    # Every word is in a reference; 12 words against 6 + 5 + 5 of the closest ones.
    assert content["metrics"]["BLEU-1"] == pytest.approx(math.exp(1 - 16 / 12))
    assert 0 < content["metrics"]["CIDEr-D"] <= 10
    assert content["decoding"] is None
    assert content["seed"] == 4
    assert content["training_overlap"] == "not checked: no model"
    assert content["model-index"][0]["name"] == "theirs"
    assert [image["image_id"] for image in content["per_image"]] == list(CAPTIONS)


def test_captions_of_the_training_split_are_not_new(references, predictions, tmp_path, capsys):
    novel = {**CAPTIONS, "9.png": "a red square on a wall"}
    output = str(tmp_path / "result.json")
    words = ["--predictions", predictions(novel), "--metrics", "diversity", "--output", output]
    assert evaluate.main([*words, "--references", references]) == 0
    shown = capsys.readouterr().out
    content = json.loads((tmp_path / "result.json").read_text())
    assert 0 < content["metrics"]["novel_captions"] < 1
    vocabulary = content["metrics"]["vocabulary"]
    assert isinstance(vocabulary, int)
    assert f"  vocabulary      {vocabulary}\n" in shown
    images = [{"image_id": name, "caption": text} for name, text in CAPTIONS.items()]
    (tmp_path / "coco.json").write_text(json.dumps({"annotations": images}))
    assert evaluate.main([*words, "--references", str(tmp_path / "coco.json")]) == 0
    assert "  novel_captions  unavailable: no training captions to compare with" in capsys.readouterr().out


def test_empty_captions_are_counted(references, predictions, capsys):
    words = ["--predictions", predictions({**CAPTIONS, "9.png": " "}), "--references", references, *QUICK]
    assert evaluate.main(words) == 0
    assert capsys.readouterr().err == "1 of the 3 captions are empty; they score 0\n"


def test_a_part_is_scored_only_when_asked_for(references, predictions, capsys, told):
    path = predictions({name: CAPTIONS[name] for name in ("8.png", "10.png")})
    words = ["--predictions", path, "--references", references, *QUICK]
    assert evaluate.main(words) == 2
    assert told().startswith(
        "error: predictions do not fit the references: 1 image (9.png) of the references of split test without a"
    )
    assert evaluate.main([*words, "--allow-different-set"]) == 0
    assert capsys.readouterr().out.startswith("test: 2 of the 3 images, photos test\n")


def test_a_split_with_only_the_name_of_a_published_one_is_refused(predictions, tmp_path, capsys, told):
    sentences = {name: [{"raw": text}] for name, text in CAPTIONS.items()}
    entries = [{"filename": name, "split": "test", "sentences": texts} for name, texts in sentences.items()]
    references = tmp_path / "dataset_flickr30k.json"
    references.write_text(json.dumps({"dataset": "flickr30k", "images": entries}))
    words = ["--predictions", predictions(), "--references", str(references), *QUICK]
    assert evaluate.main(words) == 2
    assert told().startswith(
        "error: split test of flickr30k has 3 images, the Karpathy test of flickr30k has 1,000: figures would not"
    )
    assert evaluate.main([*words, "--allow-different-set"]) == 0
    assert capsys.readouterr().out.startswith("test: 3 images, flickr30k test, not the Karpathy split\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a model, or --predictions with --references; see captioner evaluate --help"),
        (["model", "--predictions", "p.json"], "name a model, or --predictions with --references"),
        (["--predictions", "p.json"], "--predictions and --references belong together; give both"),
        (["model", "--references", "r.json"], "--predictions and --references belong together; give both"),
        (["--predictions", "p.json", "--references", "r", "--beams", "3"], "--beams needs a model; leave it out with"),
        (["--predictions", "p.json", "--references", "r", "--top-k", "0"], "--top-k needs a model; leave it out with"),
        (["--predictions", "p.json", "--references", "r", "--allow-overlap"], "--allow-overlap needs a model"),
        (["--predictions", "p.json", "--references", "r"], "p.json: no such file; check --predictions"),
        (["--predictions", "p.json", "--references", "r", "--metrics", "FID"], "--metrics FID: choose from BLEU, "),
        *(
            (
                ["--references", "r", "--save-document-frequencies", "f.json", *flags],
                f"{flags[0]} needs captions to score",
            )
            for flags in (
                ["--output", "scores.json"],
                ["--metrics", "BLEU"],
                ["--clip", "x"],
                ["--document-frequencies", "g.json"],
                ["--bootstrap-seed", "1"],
                ["--allow-different-set"],
            )
        ),
        (["model", "--bootstrap-seed", "-1"], "--bootstrap-seed -1: use 0 or more"),
        (["model", "--limit", "2", "--update-card"], "--limit and --update-card: a part of a split is no score"),
        (["model", "--examples", "x.png", "--metrics", "BLEU"], "--examples are picked by CIDEr-D: have it among"),
    ],
)
def test_wrong_usage_is_one_line(words, message, told, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(words) == 2
    assert told().startswith(f"error: {message}")


def test_scoring_a_file_needs_no_torch(predictions, tmp_path):
    entries = [{"filename": name, "split": "test", "sentences": [{"raw": text}]} for name, text in CAPTIONS.items()]
    (tmp_path / "r.json").write_text(json.dumps({"images": entries}))
    script = (
        "import sys; from captioner.commands.evaluate import main; status = main(sys.argv[1:]);"
        "sys.exit(status or 3 * ('torch' in sys.modules))"
    )
    words = ["--predictions", predictions(), "--references", str(tmp_path / "r.json"), *QUICK]
    assert subprocess.run([sys.executable, "-c", script, *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def two_results(references, predictions, tmp_path):
    paths = []
    for name, captions in (("a", dict.fromkeys(CAPTIONS, "two dogs")), ("b", CAPTIONS)):
        paths.append(str(tmp_path / f"{name}-result.json"))
        words = ["--references", references, "--output", paths[-1], *QUICK]
        assert evaluate.main(["--predictions", predictions(captions, f"{name}.json"), *words]) == 0
    return paths


def test_two_results_are_compared(two_results, tmp_path, capsys):
    capsys.readouterr()
    output = tmp_path / "comparison.json"
    words = ["--metrics", "CIDEr-D,BLEU-1", "--shuffles", "200", "--output", str(output)]
    assert compare.main([*two_results, *words]) == 0
    first, _, *rows, last = capsys.readouterr().out.splitlines()
    assert first == f"3 images, photos test; A is {two_results[0]}, B is {two_results[1]}"
    assert [row.split()[0] for row in rows] == ["CIDEr-D", "BLEU-1"]
    assert rows[1].split()[1:4] == ["0.0000", "0.7165", "+0.7165"]
    assert last == "* p < 0.05, of each metric by itself"
    content = json.loads(output.read_text())
    assert content["metrics"]["BLEU-1"]["difference"] == pytest.approx(math.exp(1 - 16 / 12))
    # All three captions are better: of the eight ways to swap, two are as far apart.
    assert content["metrics"]["CIDEr-D"]["p"] == pytest.approx(2 / 8, abs=0.1)


@pytest.mark.parametrize(
    ("text", "names"),
    [("bleu-4,cider-d", ["BLEU-4", "CIDEr-D"]), ("Bleu", ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"])],
)
def test_metrics_are_named_in_any_case(two_results, text, names, capsys):
    capsys.readouterr()
    assert compare.main([*two_results, "--metrics", text, "--shuffles", "100"]) == 0
    assert [row.split()[0] for row in capsys.readouterr().out.splitlines()[2:-1]] == names


def test_the_columns_add_up_for_a_score_that_is_no_mean(two_results, tmp_path, capsys):
    """As METEOR's: the score of the set differs from the mean of the images'."""
    for path, score in zip(two_results, (0.5, 0.9), strict=True):
        content = json.loads(Path(path).read_text())
        content["metrics"]["METEOR"] = score
        content["metric_versions"]["METEOR"] = "x"
        for image, value in zip(content["per_image"], (0.1, 0.2, 0.6), strict=True):
            image["metrics"]["METEOR"] = value * score
        Path(path).write_text(json.dumps(content))
    capsys.readouterr()
    assert compare.main([*two_results, "--metrics", "METEOR,ROUGE-L", "--shuffles", "200"]) == 0
    *_, row, _, stars, note = capsys.readouterr().out.splitlines()
    assert row.split()[:4] == ["METEOR", "0.5000", "0.9000", "+0.4000"]
    low, high = (float(edge.strip("[],")) for edge in row.split()[4:6])
    assert low < 0.4 < high
    assert stars.startswith("* p <")
    assert note == "METEOR of a set is no mean of its images': interval and p are those of the mean difference, moved"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metrics", "METEOR"], "--metrics METEOR: not in both files; they have BLEU-1, "),
        (["--metrics", ","], "--metrics ,: names no metric; the files have BLEU-1, "),
        (["--metrics", ""], "--metrics : names no metric; the files have BLEU-1, "),
        (["--output", "no/comparison.json"], "no/comparison.json: there is no folder no; make it first"),
        (["--output", "."], ".: is a folder; name a file in it"),
        (["--shuffles", "3"], "--shuffles 3: use 100 or more"),
        (["--seed", "-3"], "--seed -3: use 0 or more"),
    ],
)
def test_a_wrong_comparison_is_one_line(two_results, words, message, told, capsys):
    capsys.readouterr()
    assert compare.main([*two_results, *words]) == 2
    assert told().startswith(f"error: {message}")


def test_comparing_what_is_no_result(predictions, told):
    assert compare.main([predictions(), predictions()]) == 2
    assert "is not a whole result file" in told()


def test_a_prepared_split_is_known_by_its_other_names(references, predictions, tmp_path, capsys, told):
    theirs = predictions({"6.png": "a red square", "7.png": "a red square"})
    words = ["--predictions", theirs, "--split", "val", "--metrics", "BLEU", "--references"]
    assert evaluate.main([*words, references]) == 0
    assert capsys.readouterr().out.startswith("validation: 2 images, photos validation\n")
    copy = shutil.copytree(references, tmp_path / "flickr30k")
    assert evaluate.main([*words, str(copy)]) == 2
    assert told().startswith(
        "error: split validation of flickr30k has 2 images, the Karpathy validation of flickr30k has"
    )


def test_a_disk_that_fills_up_leaves_the_older_comparison(two_results, tmp_path, told, monkeypatch, capsys):
    output = tmp_path / "comparison.json"
    words = [*two_results, "--metrics", "BLEU-1", "--shuffles", "100", "--output", str(output)]
    assert compare.main(words) == 0
    older = output.read_bytes()
    capsys.readouterr()

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert compare.main(words) == 2
    assert "comparison.json" in told()
    assert output.read_bytes() == older


def test_captions_that_no_file_can_hold_leave_the_older_scores(references, tmp_path, told):
    theirs, output = tmp_path / "theirs.json", tmp_path / "scores.json"
    theirs.write_text(r'[{"image_id": "8.png", "caption": "\ud800 a dog"}]')
    output.write_text("older")
    assert evaluate.main(["--predictions", str(theirs), "--references", references, "--output", str(output)]) == 2
    expected = f'error: {theirs} entry 1: its "caption" has \\ud800, which is half a character; correct it there\n'
    assert told() == expected
    assert output.read_text() == "older"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_scores_go_into_a_pipe_and_not_in_its_place(references, predictions, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    words = ["--predictions", predictions(), "--references", references, "--output", str(pipe), "--metrics", "BLEU"]
    assert evaluate.main(words) == 0
    assert json.loads(os.read(reader, 100_000))["images"] == 3
    os.close(reader)
    assert pipe.is_fifo()
