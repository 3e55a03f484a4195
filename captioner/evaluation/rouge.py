"""ROUGE-L as COCO's evaluation computes it (Lin, 2004, https://aclanthology.org/W04-1013)."""

from collections.abc import Sequence

BETA = 1.2
"""Recall counts so many times as much as precision."""


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Return the F-score of the best precision and the best recall of each tokenized caption among its references."""
    return [_score_one(prediction, group) for prediction, group in zip(predictions, references, strict=True)]


def _score_one(prediction: str, references: Sequence[str]) -> float:
    # Split at blanks as COCO's evaluation does: a caption without words is one empty word.
    words = prediction.split(" ")
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        places[word] = places.get(word, 0) | 1 << place
    precision = recall = 0.0
    for reference in references:
        others = reference.split(" ")
        common = _longest_common_subsequence(places, len(words), others)
        precision, recall = max(precision, common / len(words)), max(recall, common / len(others))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _longest_common_subsequence(places: dict[str, int], length: int, others: list[str]) -> int:
    """The length of the longest common subsequence, a row of the usual table at a time as the bits of a number.

    Hyyrö (2004), Bit-parallel LCS-length computation revisited. A zero bit is where the row grows by one.

    places: of each word of the first sequence, the bits of its places.
    """
    everything = (1 << length) - 1
    row = everything
    for word in others:
        if matches := row & places.get(word, 0):
            row = ((row + matches) | (row - matches)) & everything
    return length - row.bit_count()
