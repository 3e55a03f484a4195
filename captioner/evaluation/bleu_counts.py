"""BLEU's counts of every image, from which BLEU of any selection of images follows by summing (Papineni et al., 2002).

The scores equal coco-caption's, its small constants included (https://github.com/tylin/coco-caption, bleu_scorer.py).
"""

from collections import Counter
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

ORDERS = 4
BLEU_NAMES = tuple(f"BLEU-{order}" for order in range(1, ORDERS + 1))
COLUMNS = 2 * ORDERS + 1
"""Matches of n = 1..4, n-grams of n = 1..4 (those of 1 are the words), words of the closest reference."""
TINY, SMALL = 1e-15, 1e-9


def count_bleu(prediction: str, references: Sequence[str]) -> list[int]:
    """Return one image's counts, in the order of ``COLUMNS``, of tokenized captions."""
    words, others = prediction.split(), [reference.split() for reference in references]
    matches, totals = [], []
    for order in range(1, ORDERS + 1):
        found, allowed = _count(words, order), Counter()
        for other in others:
            allowed |= _count(other, order)
        matches.append((found & allowed).total())
        totals.append(found.total())
    closest = min((abs(len(other) - len(words)), len(other)) for other in others)[1]
    return [*matches, *totals, closest]


def bleu_from_sums(sums: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
    """From counts summed over images, [samples, 9], to BLEU-1..4, [samples, 4]."""
    matches, totals = sums[:, :ORDERS], sums[:, ORDERS : 2 * ORDERS]
    precision = numpy.cumprod((matches + TINY) / (totals + SMALL), axis=1)
    ratio = (totals[:, :1] + TINY) / (sums[:, -1:] + SMALL)
    penalty = numpy.exp(numpy.minimum(0, 1 - 1 / ratio))
    return precision ** (1 / numpy.arange(1, ORDERS + 1)) * penalty


def _count(words: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))
