"""How sure a score is, and a difference of two: bootstrap intervals and paired randomisation over images.

Every metric here is a function of sums over images: of per-image scores, or of BLEU's and METEOR's counts. A resample
is therefore a matrix product. CIDEr keeps the document frequencies of the whole set, as the resamples are drawn from
it.

Bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; for BLEU Koehn, EMNLP 2004,
https://aclanthology.org/W04-3250. Approximate randomisation: Noreen, Computer-Intensive Methods for Testing
Hypotheses, 1989; Riezler and Maxwell, 2005, https://aclanthology.org/W05-0908.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from captioner.evaluation import bleu
from captioner.evaluation.meteor import scoring as meteor

LEVEL = 0.95
BOOTSTRAP_SAMPLES = 1000
SHUFFLES = 10_000
DRAWS_A_BLOCK = 2_000_000
"""Random numbers that are kept in memory at once."""
ROUNDING = 1e-12
"""Differences this near to the observed one count as equal to it."""
SAME = 1e-9
"""A score of a set this near to the mean of its images' is that mean."""

Floats = NDArray[numpy.float64]


@dataclass(frozen=True)
class ImageScores:
    """One system's scores, image by image, in the form that resampling needs."""

    means: Mapping[str, list[float]]
    """Metrics whose score of a set is the mean of the images' scores."""
    bleu_counts: list[list[int]]
    """BLEU's counts of each image, as ``bleu.count`` gives them; empty where BLEU is not wanted."""
    meteor_counts: list[list[int]] = field(default_factory=list)
    """Rows of METEOR's statistics of each image; empty where they are not known, or METEOR is not wanted."""

    @property
    def names(self) -> list[str]:
        """Names of the metrics, in the order of ``scores_of_sums``."""
        return [*self.means, *(bleu.NAMES if self.bleu_counts else ()), *(["METEOR"] if self.meteor_counts else ())]

    def matrix(self) -> Floats:
        """Return [images, columns]: what is summed over images."""
        columns = [numpy.array(values, dtype=float)[:, None] for values in self.means.values()]
        columns += [numpy.array(counts, dtype=float) for counts in (self.bleu_counts, self.meteor_counts) if counts]
        return numpy.concatenate(columns, axis=1)

    def scores_of_sums(self, sums: Floats, images: int) -> Floats:
        """From sums [samples, columns] over so many images to scores [samples, metrics]."""
        ends = numpy.cumsum([len(self.means), bleu.COLUMNS if self.bleu_counts else 0])
        means, bleu_sums, meteor_sums = numpy.split(sums, ends, axis=1)
        scores = [means / images]
        if self.bleu_counts:
            scores.append(bleu.score(bleu_sums))
        if self.meteor_counts:
            scores.append(numpy.array([[meteor.score_row(row)] for row in meteor_sums.tolist()]))
        return numpy.concatenate(scores, axis=1)


@dataclass(frozen=True)
class Difference:
    """How far one system is ahead of another by one metric."""

    value: float
    low: float
    high: float
    """The 95 % interval of the difference, by paired bootstrap."""
    p: float
    """Two-sided: how often swapping the systems' captions at random makes at least this difference."""
    of_images: bool = False
    """Whether p and the interval's width are those of the mean over images, from which the score of a set differs."""

    def move_to(self, value: float) -> "Difference":
        """The same around the difference of the sets' scores, where that is not the mean difference of the images'."""
        if math.isclose(value, self.value, rel_tol=0, abs_tol=SAME):
            return self
        offset = value - self.value
        return Difference(value, self.low + offset, self.high + offset, self.p, of_images=True)


def bootstrap_intervals(
    scores: ImageScores, *, samples: int = BOOTSTRAP_SAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return the 95 % percentile interval of every metric.

    Arguments:
        scores: of every image.
        samples: sets of as many images, drawn with replacement.
        seed: of the draws.
    """
    matrix = scores.matrix()
    found = [scores.scores_of_sums(sums, len(matrix)) for sums in _resampled_sums(matrix, samples, seed)]
    return dict(zip(scores.names, _intervals(numpy.concatenate(found)), strict=True))


def compare_scores(
    first: ImageScores, second: ImageScores, *, shuffles: int = SHUFFLES, seed: int = 0
) -> dict[str, Difference]:
    """Test the differences second - first of two systems on the same images, in the same order.

    Arguments:
        first: one system's scores.
        second: the other's, of the same metrics.
        shuffles: how many times each image's captions are swapped or not, at random; and sets of the bootstrap.
        seed: of the draws.
    """
    assert first.names == second.names
    matrix, other = first.matrix(), second.matrix()
    images, width = matrix.shape

    def difference(sums: Floats, other_sums: Floats) -> Floats:
        return second.scores_of_sums(other_sums, images) - first.scores_of_sums(sums, images)

    observed = difference(matrix.sum(0, keepdims=True), other.sum(0, keepdims=True))[0]
    both = numpy.concatenate([matrix, other], axis=1)
    resampled = [difference(sums[:, :width], sums[:, width:]) for sums in _resampled_sums(both, shuffles, seed)]
    extreme = numpy.zeros(len(observed))
    for swap in _swaps(images, shuffles, seed):
        moved = swap @ (other - matrix)
        shuffled = difference(matrix.sum(0) + moved, other.sum(0) - moved)
        extreme += (numpy.abs(shuffled) >= numpy.abs(observed) - ROUNDING).sum(axis=0)
    chances = (extreme + 1) / (shuffles + 1)
    return {
        name: Difference(float(value), low, high, float(chance))
        for name, value, (low, high), chance in zip(
            first.names, observed, _intervals(numpy.concatenate(resampled)), chances, strict=True
        )
    }


def _resampled_sums(matrix: Floats, samples: int, seed: int) -> Iterator[Floats]:
    """Sums [block, columns] over images drawn with replacement, block by block."""
    generator, images = numpy.random.default_rng(seed), len(matrix)
    for block in _blocks(images, samples):
        drawn = generator.integers(0, images, (block, images)) + numpy.arange(block)[:, None] * images
        yield numpy.bincount(drawn.ravel(), minlength=block * images).reshape(block, images) @ matrix


def _swaps(images: int, shuffles: int, seed: int) -> Iterator[Floats]:
    """Which images' captions are swapped: ones and zeros [block, images], block by block."""
    generator = numpy.random.default_rng(seed)
    for block in _blocks(images, shuffles):
        yield generator.integers(0, 2, (block, images)).astype(float)


def _blocks(images: int, samples: int) -> Iterator[int]:
    largest = max(1, DRAWS_A_BLOCK // images)
    for start in range(0, samples, largest):
        yield min(largest, samples - start)


def _intervals(scores: Floats) -> list[tuple[float, float]]:
    edge = (1 - LEVEL) / 2
    return [(float(low), float(high)) for low, high in numpy.quantile(scores, [edge, 1 - edge], axis=0).T]
