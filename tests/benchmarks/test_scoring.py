import json

import pytest
from tiny_meteor import write_meteor

from benchmarks import scoring


@pytest.fixture
def no_java(monkeypatch, tmp_path):
    """pycocoevalcap's place is taken by this project, so that the measurement runs anywhere."""
    monkeypatch.setattr(scoring.shutil, "which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(scoring, "tokenize_with_java", lambda captions: scoring.tokenize(captions))
    monkeypatch.setattr(scoring, "score_theirs", lambda cases: {"BLEU-1": 2.0})
    monkeypatch.setattr(scoring, "meteor_with_java", lambda cases: scoring.score_meteor(cases))
    folder = write_meteor(tmp_path / "package")
    monkeypatch.setattr(scoring.meteor, "find_bundled_file", lambda name, metric: folder / name)


def test_the_table_says_what_was_measured(no_java, capsys, tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("1.jpg#0\tA dog runs .\nA cat, asleep\n\n")
    output = tmp_path / "scoring.json"
    arguments = ["--captions", str(captions), "--tokenize", "5", "--score", "4", "--meteor", "3", "--repeats", "2"]
    assert scoring.main([*arguments, "--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("tokenize        5 captions: ")
    assert lines[0].endswith("same results")
    assert lines[1].endswith("DIFFERENT results")
    assert lines[2].startswith("meteor          3 images with 5 references: ")
    rows = json.loads(output.read_text())["rows"]
    assert [(row["work"], row["count"], row["same"], len(row["runs"])) for row in rows] == [
        ("tokenize", 5, True, 2),
        ("score", 4, False, 2),
        ("meteor", 3, True, 2),
    ]


def test_agreement_is_to_the_last_token_and_to_a_billionth():
    assert scoring.agree(["a b"], ["a b"])
    assert not scoring.agree(["a b"], ["a c"])
    assert scoring.agree({"x": 1.0}, {"x": 1.0 + 1e-10})
    assert not scoring.agree({"x": 1.0}, {"x": 1.0 + 1e-8})
    assert not scoring.agree({"x": 1.0}, {})


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--captions", "missing.txt"], "missing.txt: cannot be read"),
        (["--captions", "empty.txt"], "empty.txt: has no captions"),
        (["--repeats", "0"], "use 1 or more"),
    ],
)
def test_bad_input_is_one_line(no_java, capsys, tmp_path, monkeypatch, arguments, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("\n")
    assert scoring.main(arguments) == 2
    assert problem in capsys.readouterr().err
