import sys

import pytest

from captioner.evaluation import caption_metrics, spice


def fake_java(folder, monkeypatch, script):
    """Put a program called java in front of, or instead of, the real one."""
    program = folder / "java"
    program.write_text(f"#!{sys.executable}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def score_all(predictions=("a dog runs", "a cat"), references=(("a dog runs",), ("the cat sits",))):
    return caption_metrics.score_captions(predictions, references, metrics=["BLEU", "ROUGE-L", "CIDEr-D", "SPICE"])


def test_missing_java_costs_no_other_metric(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    scores = score_all()
    assert scores.unavailable == {"SPICE": "Java is not on the PATH; install Java 8 or newer for SPICE"}
    assert set(scores.corpus) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"}


def test_missing_java_is_reported_once(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    score_all()
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "INFO")]


@pytest.fixture
def spice_files(monkeypatch, tmp_path):
    """A folder with the files that SPICE looks for, though not what should be in them."""
    library = tmp_path / "package" / "lib"
    library.mkdir(parents=True)
    for name in spice.PARSER_FILES:
        (library / name).touch()
    monkeypatch.setattr(spice, "find_bundled_file", lambda name, metric: library.parent / "spice-1.0.jar")
    return library


SPICE_PROGRAM = """
import json, pathlib, sys
if "-version" in sys.argv: sys.exit(print('openjdk version "1.8.0_292"', file=sys.stderr))
assert sys.argv[4] == "edu.anu.spice.SpiceScorer" and sys.argv[3].startswith("spice-1.0.jar"), sys.argv
given, found = sys.argv[5], sys.argv[7]
cases = json.loads(pathlib.Path(given).read_text())
scores = [{"image_id": case["image_id"], "scores": {"All": {"f": VALUE}}} for case in reversed(cases)]
pathlib.Path(found).write_text(json.dumps(scores))
"""


def test_spice_exchange(monkeypatch, tmp_path, spice_files):
    """The program gets every image's captions, and its scores are put in the images' order."""
    fake_java(tmp_path, monkeypatch, SPICE_PROGRAM.replace("VALUE", "len(case['refs']) / 4 + len(case['test']) / 100"))
    corpus, images = spice.score(["a dog", ""], [["x", "z"], ["w"]])
    assert images == pytest.approx([0.55, 0.25])
    assert corpus == pytest.approx(0.4)


@pytest.mark.parametrize("nothing", ["float('nan')", "None"])
def test_images_without_anything_to_compare_do_not_spoil_spice(monkeypatch, tmp_path, spice_files, nothing):
    fake_java(tmp_path, monkeypatch, SPICE_PROGRAM.replace("VALUE", f"0.5 if case['test'] else {nothing}"))
    assert spice.score(["a dog", ""], [["x"], ["w"]]) == (0.5, [0.5, 0.0])


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import sys; sys.exit('no class def found')", "the SPICE program failed: no class def found"),
        ("import sys; sys.exit(3)", "the SPICE program failed: exit status 3"),
        (
            "import sys; sys.exit('Parsing captions\\nError: Could not score:\\njava.lang.NullPointerException\\n')",
            "the SPICE program failed: Error: Could not score: java.lang.NullPointerException",
        ),
        ("pass", "the SPICE program left no scores"),
    ],
)
def test_failing_spice_is_unavailable(monkeypatch, tmp_path, spice_files, script, reason):
    fake_java(tmp_path, monkeypatch, script)
    scores = caption_metrics.score_captions(["a"], [["a"]], metrics=["SPICE", "length"])
    assert scores.unavailable["SPICE"].startswith(reason)
    assert scores.corpus == {"length": 1.0}


def test_spice_needs_a_java_with_javascript(monkeypatch, tmp_path, spice_files):
    """Later ones read all captions, and fail when they write the scores."""
    modern = SPICE_PROGRAM.replace("1.8.0_292", "17.0.15").replace("VALUE", "0.5")
    fake_java(tmp_path, monkeypatch, modern)
    scores = caption_metrics.score_captions(["a"], [["a"]], metrics=["SPICE"])
    assert scores.unavailable["SPICE"] == "Java 17 has no JavaScript engine, which SPICE needs; use Java 8 to 14"
    (spice_files / "nashorn-core-15.4.jar").touch()
    assert spice.score(["a"], [["a"]]) == (0.5, [0.5])


def test_hanging_spice_is_stopped(monkeypatch, tmp_path, spice_files):
    fake_java(tmp_path, monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(spice, "STARTUP_SECONDS", 0.2)
    monkeypatch.setattr(spice, "SECONDS_PER_IMAGE", 0.2)
    scores = caption_metrics.score_captions(["a"], [["a"]], metrics=["SPICE"])
    assert scores.unavailable["SPICE"] == "Java was stopped after 0 seconds without SPICE"


def test_spice_without_its_parser_says_what_is_missing_and_downloads_nothing(monkeypatch, tmp_path, spice_files):
    fake_java(tmp_path, monkeypatch, "raise SystemExit('must not be run')")
    (spice_files / spice.PARSER_FILES[1]).unlink()
    scores = caption_metrics.score_captions(["a"], [["a"]], metrics=["SPICE"])
    assert scores.unavailable["SPICE"].startswith("stanford-corenlp-3.6.0-models.jar are not in")
    assert [path.name for path in spice_files.iterdir()] == [spice.PARSER_FILES[0]]
