"""Confidence: its features, the logistic model, and its way to JSON and back."""

import json
import random
from dataclasses import replace

import pytest
import torch

from captioner.confidence import (
    Calibration,
    LogisticModel,
    describe_alone,
    describe_among,
    estimate_confidences,
    shared_ngrams,
)
from captioner.decoding.hypotheses import Hypothesis
from captioner.evaluation.acceptance import expected_calibration_error


def caption(tokens, values, score=-1.0, *, truncated=False, forced=0):
    return Hypothesis(tuple(tokens), tuple(values), score, truncated, forced)


THREE = [caption([1, 2, 3], [-0.5, -1.5, -1.0], -1.0), caption([1, 2], [-1.0, -1.0], -1.5), caption([9], [-3.0], -2.5)]


def simulate(count, *, seed=0):
    """Captions of random log-probabilities, accepted with a probability that their mean decides."""
    numbers = random.Random(seed)
    images, accepted = [], []
    for _ in range(count):
        mean = -3 * numbers.random()
        values = [mean + numbers.uniform(-0.2, 0.2) for _ in range(numbers.randint(4, 12))]
        images.append([caption(range(len(values)), values)])
        accepted.append(numbers.random() < 1 / (1 + 2.718281828 ** -(3 * (mean + 1.5))))
    return images, accepted


def test_features_by_hand():
    assert describe_alone(THREE[0]) == [-1.0, -1.5, -3.0, 3.0]
    # [1 2 3] and [1 2] have the n-grams 1, 2, 12 of six and three; [9] shares none.
    assert describe_among(THREE, 0) == pytest.approx([0.5, (2 * 3 / 9 + 0) / 2])
    assert describe_among(THREE, 2) == pytest.approx([-1.5, 0])


def test_what_a_prefix_forced_is_no_feature():
    """The same captions behind two unlikely tokens; scores are sums divided by the square root of the length."""
    chosen = [([5, 6], [-0.5, -1.0, -0.75]), ([5], [-1.0, -1.0])]
    plain = [caption(tokens, values, sum(values)) for tokens, values in chosen]
    forced = [caption([1, 2, *tokens], [-9.0, -7.0, *values], -16 + sum(values), forced=2) for tokens, values in chosen]
    assert describe_alone(forced[0]) == describe_alone(plain[0]) == [-0.75, -1.0, -2.25, 3.0]
    assert describe_among(forced, 0) == pytest.approx(describe_among(plain, 0))
    lengths = [replace(one, score=one.score / len(one.log_probabilities) ** 0.5) for one in forced]
    assert describe_among(lengths, 0)[0] == pytest.approx(-2.25 / 5**0.5 + 2 / 4**0.5)


def test_nobody_accepts_what_is_cut_off():
    calibration = Calibration.fit([THREE, THREE[:2]], [True, True], {})
    cut = [replace(THREE[0], truncated=True), *THREE[1:]]
    assert calibration.confidences(THREE)[0] > 0.5
    assert calibration.confidences(cut) == [0.0, *calibration.confidences(THREE)[1:]]
    assert calibration.confidences(cut[:1]) == [0.0]
    assert estimate_confidences(cut[:1], None) == [0.0]
    assert estimate_confidences(THREE[:1], None) == pytest.approx([2.718281828**-1.0])


def test_the_fit_leaves_out_what_is_cut_off():
    images, accepted = simulate(60)
    cut = [[replace(captions[0], truncated=True)] for captions in images[:20]]
    fitted = Calibration.fit([*cut, *images], [True] * 20 + accepted, {})
    assert fitted == Calibration.fit(images, accepted, {})
    assert Calibration.fit(cut, [False] * 20, {}).confidences(THREE[:1])[0] < 0.5  # nothing else is there


def test_shared_ngrams_count_repetitions_once_each():
    assert shared_ngrams([5, 6, 7], [5, 6, 7]) == 1
    assert shared_ngrams([5, 5], [5]) == pytest.approx(2 * 1 / 4)
    assert shared_ngrams([], []) == 1
    assert shared_ngrams([5], []) == 0


def test_the_fit_is_where_the_loss_has_no_slope():
    images, accepted = simulate(80)
    features = [describe_alone(captions[0]) for captions in images]
    model = LogisticModel.fit(features, accepted)
    values, truth = torch.tensor(features).double(), torch.tensor(accepted)
    means, deviations = values.mean(dim=0), values.std(dim=0, correction=0)
    assert model.means == pytest.approx(means.tolist())
    weights = torch.tensor([*model.weights, model.bias], dtype=torch.double, requires_grad=True)
    logits = (values - means) / deviations @ weights[:-1] + weights[-1]
    positive, negative = int(truth.sum()), int((~truth).sum())
    targets = torch.where(truth, (positive + 1) / (positive + 2), 1 / (negative + 2)).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    (loss + weights[:-1].square().sum() / 2).backward()
    assert weights.grad.abs().max() < 1e-6
    assert model.probability(features[0]) == pytest.approx(logits[0].sigmoid().item())


def test_confidence_is_calibrated_on_other_captions_of_the_same_kind():
    calibration = Calibration.fit(*simulate(2000), {})
    images, accepted = simulate(4000, seed=1)
    confidences = [calibration.confidences(captions)[0] for captions in images]
    assert max(confidences) > 0.9
    assert min(confidences) < 0.1
    assert expected_calibration_error(confidences, accepted) < 0.03
    assert expected_calibration_error([0.9] * 4000, accepted) > 0.3


@pytest.mark.parametrize("accepted", [True, False])
def test_captions_of_one_kind_give_no_certainty(accepted):
    calibration = Calibration.fit([THREE, THREE], [accepted, accepted], {})
    confidence = calibration.confidences(THREE)[0]
    assert 0.02 < confidence < 0.98
    assert (confidence > 0.5) == accepted


def test_a_caption_among_others_and_alone():
    images, accepted = simulate(50)
    images = [[captions[0], *THREE] for captions in images]
    calibration = Calibration.fit(images, accepted, {"split": "validation"})
    among, alone = calibration.confidences(THREE), calibration.confidences(THREE[:1])
    assert len(among) == 3
    assert len(alone) == 1
    assert among[0] != alone[0]
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))).confidences(THREE) == among
    assert calibration.to_dict()["split"] == "validation"


def test_greedy_captions_have_no_others():
    calibration = Calibration.fit(*simulate(50), {})
    assert calibration.among is None
    assert calibration.confidences(THREE) == [calibration.confidences([one])[0] for one in THREE]
