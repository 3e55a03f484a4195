"""Which captions a person would accept, and how well confidence foretells it."""

import itertools
import random
import statistics

import pytest

from captioner.errors import DataError
from captioner.evaluation.acceptance import accepts, auroc, expected_calibration_error, human_level, reliability
from captioner.evaluation.caption_metrics import score_captions
from captioner.evaluation.document_frequencies import DocumentFrequencies

REFERENCES = [
    ["A dog runs on the grass.", "The dog is running over grass", "a brown dog in a field"],
    ["Two cats sleep on a sofa", "two cats asleep", "Cats lie on a red sofa."],
    ["A boy kicks a ball", "a boy plays with a ball", "Someone kicks a ball on grass"],
    ["A red car", "a red car on a road", "the car is red"],
]


def test_the_human_level_is_the_median_of_everyone_against_the_others():
    values = []
    for turn in range(3):
        others = [group[:turn] + group[turn + 1 :] for group in REFERENCES]
        values += score_captions([group[turn] for group in REFERENCES], others, metrics=["CIDEr-D"]).images["CIDEr-D"]
    assert human_level(REFERENCES) == pytest.approx(statistics.median(values))
    assert human_level(REFERENCES) > 0


def test_captions_and_people_are_weighed_by_the_same_document_frequencies():
    weights = DocumentFrequencies.count([*REFERENCES, ["a dog"], ["grass"]])
    alone = human_level(REFERENCES[:1], weights)
    assert alone > 0
    assert human_level(REFERENCES[:1]) == 0  # one image weighed by itself
    assert reliability([1.0], [alone], [False], REFERENCES[:1], weights) == {"ECE": 0.0}
    assert reliability([1.0], [alone - 1e-6], [False], REFERENCES[:1], weights) == {"ECE": 1.0}


def test_images_with_one_caption_tell_nothing():
    assert human_level([*REFERENCES, ["alone"]]) == pytest.approx(human_level(REFERENCES))
    with pytest.raises(DataError, match="no image has two captions or more"):
        human_level([["alone"], ["alone too"]])
    assert reliability([0.5, 0.5], [1.0, 0.0], [False, False], [["alone"], ["alone too"]]) == {}


def test_calibration_error_by_hand():
    # bin 0.2 to 0.3: confidence 0.5 in sum, one accepted; the last bin holds 1.0 too: 1.9 in sum, one accepted
    found = expected_calibration_error([0.2, 0.3 - 1e-9, 0.9, 1.0], [True, False, True, False])
    assert found == pytest.approx((0.5 + 0.9) / 4)
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0


def test_auroc_counts_pairs():
    numbers = random.Random(0)
    confidences = [round(numbers.random(), 1) for _ in range(60)]  # with ties
    accepted = [numbers.random() < confidence for confidence in confidences]
    pairs = [
        (first > second) + (first == second) / 2
        for (first, good), (second, other) in itertools.product(zip(confidences, accepted, strict=True), repeat=2)
        if good and not other
    ]
    assert auroc(confidences, accepted) == pytest.approx(statistics.fmean(pairs))
    assert auroc([0.5, 0.6], [True, True]) is None
    assert auroc([0.5, 0.6], [False, False]) is None


def test_a_caption_that_is_cut_off_is_never_accepted():
    assert accepts([0.5, 0.5, 0.3], [False, True, False], 0.5) == [True, False, False]
    level = human_level(REFERENCES)
    found = reliability([0.9, 0.0, 0.1, 0.1], [level + 1] * 4, [False, True, True, True], REFERENCES)
    assert found == pytest.approx({"ECE": (0.1 + 0.0 + 0.2) / 4, "AUROC": 1.0})


def test_reliability_needs_both_kinds_for_auroc():
    level = human_level(REFERENCES)
    found = reliability([0.9, 0.1, 0.8, 0.3], [level, level - 0.1, level + 1, 0.0], [False] * 4, REFERENCES)
    assert found == pytest.approx({"ECE": 0.175, "AUROC": 1.0})
    assert reliability([1.0] * 4, [level + 1] * 4, [False] * 4, REFERENCES) == {"ECE": 0.0}
