import itertools

import numpy
import pytest

from captioner.evaluation import bleu, significance
from captioner.evaluation.meteor import scoring as meteor
from captioner.evaluation.significance import ImageScores, bootstrap_intervals, compare_scores


def make_scores(seed, *, images=200, shift=0.0):
    generator = numpy.random.default_rng(seed)
    matches = generator.integers(0, 5, (images, 4))
    totals = matches + generator.integers(1, 4, (images, 4))
    counts = numpy.concatenate([matches, totals, totals[:, :1]], axis=1)
    return ImageScores({"CIDEr-D": (generator.normal(0.6, 0.3, images) + shift).tolist()}, counts.tolist())


def test_intervals_of_a_mean_are_those_of_the_normal_approximation():
    scores = make_scores(0, images=2000)
    values = numpy.array(scores.means["CIDEr-D"])
    low, high = bootstrap_intervals(scores, samples=4000, seed=1)["CIDEr-D"]
    error = 1.96 * values.std() / len(values) ** 0.5
    assert (low, high) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.1 * error)


def test_intervals_equal_those_of_scoring_every_resample(monkeypatch):
    """The matrix product against a plain loop over the same draws, in several blocks."""
    scores = make_scores(1, images=30)
    monkeypatch.setattr(significance, "DRAWS_A_BLOCK", 30 * 40)
    generator, expected = numpy.random.default_rng(5), []
    counts = numpy.array(scores.bleu_counts, dtype=float)
    for block in (40, 40, 20):
        for rows in generator.integers(0, 30, (block, 30)):
            mean = sum(scores.means["CIDEr-D"][row] for row in rows) / 30
            expected.append([mean, *bleu.score(counts[rows].sum(axis=0, keepdims=True))[0]])
    found = bootstrap_intervals(scores, samples=100, seed=5)
    assert list(found) == ["CIDEr-D", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
    low, high = numpy.quantile(expected, [0.025, 0.975], axis=0)
    assert numpy.array(list(found.values())) == pytest.approx(numpy.stack([low, high], axis=1))


def test_the_same_seed_gives_the_same_interval_and_another_another():
    scores = make_scores(2)
    assert bootstrap_intervals(scores, seed=3) == bootstrap_intervals(scores, seed=3)
    assert bootstrap_intervals(scores, seed=3) != bootstrap_intervals(scores, seed=4)


def test_a_system_does_not_differ_from_itself():
    scores = make_scores(3)
    for difference in compare_scores(scores, scores, shuffles=200).values():
        assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_p_is_near_that_of_all_swaps():
    """Nine images have 512 ways to swap: their exact share is what the random ones estimate."""
    first = ImageScores({"m": [0.1, 0.5, 0.3, 0.9, 0.4, 0.2, 0.8, 0.6, 0.7]}, [])
    second = ImageScores({"m": [0.4, 0.6, 0.2, 1.1, 0.5, 0.5, 0.9, 0.5, 0.9]}, [])
    differences = numpy.array(second.means["m"]) - numpy.array(first.means["m"])
    signs = numpy.array(list(itertools.product([1, -1], repeat=9)))
    exact = (abs(signs @ differences) >= abs(differences.sum()) - 1e-9).mean()
    found = compare_scores(first, second, shuffles=20_000, seed=0)["m"]
    assert found.value == pytest.approx(differences.mean())
    assert 0.01 < exact < 0.2
    assert found.p == pytest.approx(exact, abs=0.01)
    assert found.low < found.value < found.high


def test_p_of_bleu_is_near_that_of_all_swaps():
    first, second = (ImageScores({}, make_scores(seed, images=8).bleu_counts) for seed in (0, 9))
    one, other = numpy.array(first.bleu_counts, dtype=float), numpy.array(second.bleu_counts, dtype=float)

    def difference(swapped):
        chosen = (
            numpy.where(numpy.array(swapped)[:, None], other, one),
            numpy.where(numpy.array(swapped)[:, None], one, other),
        )
        return numpy.subtract(*(bleu.score(part.sum(axis=0, keepdims=True))[0] for part in reversed(chosen)))

    observed = difference([False] * 8)
    ways = numpy.array([difference(swapped) for swapped in itertools.product([False, True], repeat=8)])
    exact = (abs(ways) >= abs(observed) - 1e-9).mean(axis=0)
    found = compare_scores(first, second, shuffles=20_000, seed=0)
    assert [one.value for one in found.values()] == pytest.approx(observed.tolist())
    assert [one.p for one in found.values()] == pytest.approx(exact.tolist(), abs=0.015)


def make_meteor_rows(seed, *, images):
    generator = numpy.random.default_rng(seed)
    sides = [generator.integers(0, 3, (images, 8)) for _ in range(2)]
    for side in sides:
        function = side[:, 4:].sum(axis=1)
        lengths = side.sum(axis=1) + generator.integers(1, 3, images)
        yield numpy.concatenate([lengths[:, None], function[:, None], side], axis=1)
    yield generator.integers(1, 3, (images, 1))


def test_meteor_of_a_set_is_resampled_and_no_mean_of_its_images():
    first, second = (
        ImageScores({}, [], numpy.concatenate(list(make_meteor_rows(seed, images=8)), axis=1).tolist())
        for seed in (0, 9)
    )
    one, other = numpy.array(first.meteor_counts), numpy.array(second.meteor_counts)

    def difference(swapped):
        mask = numpy.array(swapped)[:, None]
        sums = (numpy.where(mask, *pair).sum(axis=0) for pair in ((one, other), (other, one)))
        return numpy.subtract(*map(meteor.score_row, sums))

    observed = difference([False] * 8)
    ways = numpy.array([difference(swapped) for swapped in itertools.product([False, True], repeat=8)])
    exact = (abs(ways) >= abs(observed) - 1e-9).mean()
    found = compare_scores(first, second, shuffles=2000, seed=0)
    assert list(found) == ["METEOR"]
    assert abs(found["METEOR"].value) == pytest.approx(abs(observed), abs=1e-12)
    assert found["METEOR"].p == pytest.approx(exact, abs=0.05)
    low, high = bootstrap_intervals(first, samples=300)["METEOR"]
    assert low < meteor.score_row(one.sum(axis=0)) < high


def test_a_clear_difference_is_found_and_chance_is_not():
    first, better, other = make_scores(4), make_scores(5, shift=0.3), make_scores(6)
    assert compare_scores(first, better, shuffles=1000)["CIDEr-D"].p < 0.01
    assert compare_scores(first, other, shuffles=1000)["CIDEr-D"].p > 0.05
