"""Confidence: the probability that a person would accept a caption, from what decoding knows of it.

Two logistic models (Platt 1999, with his smoothed targets) look at a caption's log-probabilities and length, and the
second one also at its place among the other captions that the search found for the image. What a prefix forced says
nothing of the decoder's certainty and is left out of all of it. A caption that the maximum length cut off is no whole
sentence, and nobody accepts it: its confidence is 0 by rule, and the models are fitted without such ones.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

RIDGE = 1.0
"""Pull of the weights towards 0, as that of a normal prior of deviation 1 on standardised features."""
NGRAM_SIZES = (1, 2, 3)


class Scored(Protocol):
    """A caption as decoding leaves it: ``Hypothesis`` and ``Caption`` are such."""

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    score: float
    truncated: bool
    forced: int


def estimate_confidences(captions: Sequence[Scored], calibration: "Calibration | None") -> list[float]:
    """The confidence of each caption of an image; all that decoding found must be there.

    Without a calibration it is the geometric mean of the probabilities of the tokens that the decoder chose. A caption
    that the maximum length cut off has none: 0.
    """
    if calibration:
        return calibration.confidences(captions)
    return [0.0 if one.truncated else math.exp(describe_alone(one)[0]) for one in captions]


def describe_alone(caption: Scored) -> list[float]:
    """Log-probabilities of the tokens that the decoder chose for a caption: mean, least and sum; and their number."""
    values = caption.log_probabilities[caption.forced :]
    return [sum(values) / len(values), min(values), sum(values), float(len(values))]


def describe_among(captions: Sequence[Scored], place: int) -> list[float]:
    """A caption's agreement with the others of its image.

    Its lead in score over the best other one, and the mean share of n-grams that it has in common with each other one.
    """
    own, others = captions[place], [*captions[:place], *captions[place + 1 :]]
    lead = _chosen_score(own) - max(map(_chosen_score, others))
    shares = [shared_ngrams(own.tokens[own.forced :], other.tokens[other.forced :]) for other in others]
    return [lead, sum(shares) / len(others)]


def _chosen_score(caption: Scored) -> float:
    """A caption's score as it would be had its forced tokens been certain."""
    total = sum(caption.log_probabilities)
    return caption.score * sum(caption.log_probabilities[caption.forced :]) / total if total else caption.score


def shared_ngrams(first: Sequence[int], second: Sequence[int]) -> float:
    """F-score of two captions' common n-grams of one to three tokens, in [0, 1]."""
    counts = [_count_ngrams(tokens) for tokens in (first, second)]
    total = sum(map(Counter.total, counts))
    return 2 * (counts[0] & counts[1]).total() / total if total else 1.0


def _count_ngrams(tokens: Sequence[int]) -> Counter[tuple[int, ...]]:
    return Counter(
        tuple(tokens[start : start + size]) for size in NGRAM_SIZES for start in range(len(tokens) + 1 - size)
    )


@dataclass(frozen=True)
class LogisticModel:
    """A probability from features, which are standardised first."""

    means: tuple[float, ...]
    deviations: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def probability(self, features: Sequence[float]) -> float:
        """The probability for one caption's features."""
        columns = zip(features, self.means, self.deviations, self.weights, strict=True)
        logit = self.bias + sum(weight * (value - mean) / deviation for value, mean, deviation, weight in columns)
        return float(_sigmoid(np.asarray(logit)))

    @classmethod
    def fit(cls, features: Sequence[Sequence[float]], accepted: Sequence[bool]) -> "LogisticModel":
        """Fit by Newton's method on [captions, features]; a few captions, or all of one kind, give mild weights."""
        values, truth = np.asarray(features, dtype=float), np.asarray(accepted, dtype=bool)
        means, deviations = values.mean(axis=0), values.std(axis=0)
        deviations[deviations < 1e-9] = 1.0
        design = np.column_stack([np.ones(len(values)), (values - means) / deviations])
        positive, negative = truth.sum(), (~truth).sum()
        targets = np.where(truth, (positive + 1) / (positive + 2), 1 / (negative + 2))
        pull = RIDGE * np.diag([0.0, *[1.0] * values.shape[1]])
        weights = np.zeros(design.shape[1])
        for _ in range(100):
            probabilities = _sigmoid(design @ weights)
            gradient = design.T @ (probabilities - targets) + pull @ weights
            curvature = (design.T * (probabilities * (1 - probabilities))) @ design + pull
            step = np.linalg.solve(curvature, gradient)
            weights -= step
            if np.abs(step).max() < 1e-10:
                break
        return cls(tuple(means.tolist()), tuple(deviations.tolist()), tuple(weights[1:].tolist()), float(weights[0]))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -40, 40)))


@dataclass(frozen=True)
class Calibration:
    """How confidence is computed, and what it was fitted to."""

    alone: LogisticModel
    """For a caption that is the only one of its image."""
    among: LogisticModel | None
    """For one of several; None where decoding gave only one an image."""
    origin: dict[str, Any] = field(default_factory=dict)
    """The definition of acceptance, the split, its images, the accepted share and the decoding settings."""

    def confidences(self, captions: Sequence[Scored]) -> list[float]:
        """The confidence of each caption of an image; all that decoding found must be there."""
        return [0.0 if one.truncated else self._probability(captions, place) for place, one in enumerate(captions)]

    def _probability(self, captions: Sequence[Scored], place: int) -> float:
        if len(captions) == 1 or self.among is None:
            return self.alone.probability(describe_alone(captions[place]))
        return self.among.probability(_describe(captions, place))

    @classmethod
    def fit(cls, images: Sequence[Sequence[Scored]], accepted: Sequence[bool], origin: dict[str, Any]) -> "Calibration":
        """Fit to the best caption of every image, but for those that are cut off; if all are, to them.

        Args:
            images: all captions that decoding found for each image, best first.
            accepted: whether a person would accept the first.
            origin: a record of what that is.
        """
        pairs = list(zip(images, accepted, strict=True))
        pairs = [(captions, truth) for captions, truth in pairs if not captions[0].truncated] or pairs
        alone = LogisticModel.fit([describe_alone(captions[0]) for captions, _ in pairs], [one for _, one in pairs])
        several = [(captions, truth) for captions, truth in pairs if len(captions) > 1]
        among = None
        if several:
            among = LogisticModel.fit([_describe(captions, 0) for captions, _ in several], [one for _, one in several])
        return cls(alone, among, origin)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self.origin, "alone": asdict(self.alone), "among": self.among and asdict(self.among)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Calibration":
        """Read what ``to_dict`` gives; raises TypeError, KeyError or AttributeError for anything else."""
        origin = {name: value for name, value in values.items() if name not in ("alone", "among")}
        models = [values[name] and LogisticModel(**values[name]) for name in ("alone", "among")]
        return cls(models[0], models[1], origin)


def _describe(captions: Sequence[Scored], place: int) -> list[float]:
    return [*describe_alone(captions[place]), *describe_among(captions, place)]
