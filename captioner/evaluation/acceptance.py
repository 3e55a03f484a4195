"""Whether a person would accept a caption, and how well a captioner's confidence foretells it.

A caption counts as accepted if it is whole and its CIDEr-D reaches the *human level* of its split: the median CIDEr-D
that the people's own captions reach, each against the others of its image. Both are computed on the same references. So
half of what people wrote would be accepted, and what is accepted is at least as close to the consensus as that.
"""

import statistics
from collections.abc import Sequence

import numpy as np

from captioner.errors import DataError
from captioner.evaluation import ptb
from captioner.evaluation.caption_metrics import CaptionPairs, score_cider_d
from captioner.evaluation.document_frequencies import DocumentFrequencies

DEFINITION = (
    "accepted: the caption is not cut off by the maximum length, and its CIDEr-D reaches the median CIDEr-D "
    "of the split's human captions, each against the others of its image"
)
BINS = 10


def human_level(references: Sequence[Sequence[str]], document_frequencies: DocumentFrequencies | None = None) -> float:
    """The median CIDEr-D of the references, each against the others of its image.

    Args:
        references: the untokenized reference captions of every image of a split.
        document_frequencies: what CIDEr-D weighs n-grams by, where the captions were scored by those of a file.

    Raises:
        DataError: no image has two references or more.
    """
    several = [group for group in references if len(group) > 1]
    if not several:
        raise DataError("no image has two captions or more: there is no telling which captions people agree on")
    tokens = iter(ptb.tokenize([caption for group in several for caption in group]))
    groups = [[next(tokens) for _ in group] for group in several]
    values: list[float] = []
    for turn in range(max(map(len, groups))):
        chosen = [group for group in groups if len(group) > turn]
        others = [group[:turn] + group[turn + 1 :] for group in chosen]
        pairs = CaptionPairs([group[turn] for group in chosen], others, document_frequencies)
        values += score_cider_d(pairs)[1]["CIDEr-D"]
    return statistics.median(values)


def accepts(scores: Sequence[float], truncated: Sequence[bool], level: float) -> list[bool]:
    """Which captions of these CIDEr-D a person would accept: whole ones that reach the human level."""
    return [score >= level and not cut for score, cut in zip(scores, truncated, strict=True)]


def expected_calibration_error(confidences: Sequence[float], accepted: Sequence[bool]) -> float:
    """How far confidence lies from the accepted share, over ten bins of equal width (Guo et al. 2017).

    https://arxiv.org/abs/1706.04599, section 2: the mean of the bins' distances, weighted by their captions.
    """
    confidence, truth = np.asarray(confidences, dtype=float), np.asarray(accepted, dtype=float)
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    distances = [abs((confidence - truth)[bins == place].sum()) for place in range(BINS)]
    return float(sum(distances) / len(confidence))


def auroc(confidences: Sequence[float], accepted: Sequence[bool]) -> float | None:
    """The probability that an accepted caption has a higher confidence than a rejected one; ties count half.

    None where all are accepted, or none is.
    """
    confidence, truth = np.asarray(confidences, dtype=float), np.asarray(accepted, dtype=bool)
    rejected = np.sort(confidence[~truth])
    if not truth.any() or not len(rejected):
        return None
    lower, not_higher = (np.searchsorted(rejected, confidence[truth], side=side) for side in ("left", "right"))
    return float((lower + not_higher).mean() / 2 / len(rejected))


def reliability(
    confidences: Sequence[float],
    scores: Sequence[float],
    truncated: Sequence[bool],
    references: Sequence[Sequence[str]],
    document_frequencies: DocumentFrequencies | None = None,
) -> dict[str, float]:
    """ECE and AUROC of confidence against acceptance; nothing where the references cannot tell what is accepted.

    Args:
        confidences: of the caption of every image of a split.
        scores: the captions' CIDEr-D.
        truncated: which captions the maximum length cut off.
        references: the untokenized reference captions.
        document_frequencies: those of a file, where the scores are by them.
    """
    if all(len(group) < 2 for group in references):
        return {}
    accepted = accepts(scores, truncated, human_level(references, document_frequencies))
    found = {"ECE": expected_calibration_error(confidences, accepted), "AUROC": auroc(confidences, accepted)}
    return {name: value for name, value in found.items() if value is not None}
