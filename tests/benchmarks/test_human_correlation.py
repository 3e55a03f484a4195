"""The correlation with people's judgements, on files in the layout of Flickr8k's text archive."""

import json
import math

import pytest

from benchmarks import human_correlation
from benchmarks.flickr8k_judgements import read_captions, read_crowdflower, read_expert
from captioner.errors import DataError

TOKENS = [
    "1.jpg#0\ta red dog runs",
    "1.jpg#1\tred dog runs a",
    "2.jpg#0\tred dog cat man",
    "2.jpg#1\ttwo cats sit there",
    "3.jpg#0\tthree boys jump high",
    "3.jpg#1\tdog runs a red",
]
# Unigram BLEU against "a red dog runs" and "red dog runs a": 4, 2 and 0 of 4 words.
EXPERT = [
    "1.jpg\t3.jpg#1\t4\t4\t3",
    "1.jpg\t2.jpg#0\t2\t3\t3",
    "1.jpg\t1.jpg#0\t1\t1\t1",
    "1.jpg\t2.jpg#1\t1\t1\t2",
]
# Of image 1, #1 is a candidate: only #0 stays a reference. 4, 2, 0 and 0 of 4 words.
CROWD = [
    "1.jpg\t2.jpg#0\t0.666666666666667\t2\t1",
    "1.jpg\t1.jpg#1\t0.333333333333333\t1\t2",
    "1.jpg\t2.jpg#1\t0\t0\t3",
    "1.jpg\t3.jpg#0\t0\t0\t3",
]


@pytest.fixture
def annotations(tmp_path):
    def write(**changes):
        files = {"Flickr8k.token": TOKENS, "ExpertAnnotations": EXPERT, "CrowdFlowerAnnotations": CROWD, **changes}
        for name, lines in files.items():
            (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
        return tmp_path

    return write


def test_a_candidate_that_is_a_reference_is_dropped_from_the_experts(annotations):
    root = annotations()
    found = read_expert(root, read_captions(root))
    assert found.dropped == 1
    assert found.candidates == ["dog runs a red", "red dog cat man", "two cats sit there"]
    assert found.references == [["a red dog runs", "red dog runs a"]] * 3
    assert found.ratings == [[4, 4, 3], [2, 3, 3], [1, 1, 2]]


def test_it_is_removed_from_the_references_for_the_crowd(annotations):
    root = annotations()
    found = read_crowdflower(root, read_captions(root))
    assert found.candidates == ["red dog cat man", "red dog runs a", "two cats sit there", "three boys jump high"]
    assert found.references == [["a red dog runs"]] * 4
    assert [share for (share,) in found.ratings] == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_the_taus_are_those_worked_out_by_hand(annotations, tmp_path, capsys):
    root, output = annotations(), tmp_path / "figures.json"
    words = ["--annotations", str(root), "--metrics", "BLEU", "--output", str(output)]
    assert human_correlation.main(words) == 0
    figures = json.loads(output.read_text())
    # Nine grades: of the 27 pairs with different scores 24 are concordant and 3 tied; the fewer levels are 3.
    assert figures["expert"]["tau"]["BLEU-1"] == pytest.approx(100 * 2 * 24 / (9**2 * (3 - 1) / 3))
    assert (figures["expert"]["pairs"], figures["expert"]["dropped"], figures["expert"]["judgements"]) == (3, 1, 9)
    # Of six pairs four are concordant, one is discordant and one tied in both.
    assert figures["CrowdFlower"]["tau"]["BLEU-1"] == pytest.approx(100 * (4 - 1) / math.sqrt((6 - 1) * (6 - 1)))
    assert figures["CrowdFlower"]["pairs"] == 4
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "expert: 3 pairs (1 dropped), 9 judgements, Kendall's tau-c x 100"
    assert shown[2] == "  BLEU-1       88.9"
    assert shown[5].split()[0] == "BLEU-4"
    assert shown[5].split()[2] == "30.8"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ExpertAnnotations": ["1.jpg\t2.jpg#0\t2\t3"]}, "line 1: has 4 fields, separated by tabs, instead of 5"),
        ({"ExpertAnnotations": ["1.jpg\t2.jpg#9\t2\t3\t1"]}, "line 1: the captions have no 2.jpg#9"),
        ({"CrowdFlowerAnnotations": ["9.jpg\t2.jpg#0\t0\t0\t3"]}, "line 1: the captions have none of 9.jpg"),
        ({"CrowdFlowerAnnotations": ["1.jpg\t2.jpg#0\tno\t0\t3"]}, "line 1: 'no' is not a number"),
        ({"CrowdFlowerAnnotations": [f"2.jpg\t2.jpg#{row}\t0\t0\t3" for row in range(2)]}, "2 pairs have no reference"),
        ({"Flickr8k.token": ["1.jpg a dog"]}, "line 1: is not image#number<tab>caption"),
    ],
)
def test_malformed_files_are_refused(annotations, changes, message):
    root = annotations(**changes)

    def read():
        captions = read_captions(root)
        read_expert(root, captions)
        read_crowdflower(root, captions)

    with pytest.raises(DataError, match=message):
        read()


def test_missing_files_are_one_line(tmp_path, capsys):
    assert human_correlation.main(["--annotations", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: {tmp_path}: has no Flickr8k.token.txt; name the folder of Flickr8k's text files\n"
    )
