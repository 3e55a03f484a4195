"""BLEU-1 to BLEU-4 with the constants of COCO's evaluation (Papineni et al., 2002, https://aclanthology.org/P02-1040)."""

import numpy
from numpy.typing import NDArray

from captioner.evaluation.ngrams import ORDERS, Matches, Numbers

NAMES = tuple(f"BLEU-{order}" for order in range(1, ORDERS + 1))
COLUMNS = 2 * ORDERS + 1
TINY, SMALL = 1e-15, 1e-9
"""COCO's evaluation adds them to counts so that nothing is divided by zero."""


def count(matches: Matches) -> Numbers:
    """Return what BLEU of a caption, and by summing of a set, is made of, [captions, ``COLUMNS``].

    The columns are matched n-grams of n = 1 to 4, n-grams of n = 1 to 4, words of the reference closest in length.
    """
    columns = []
    for ngrams, in_references in zip(matches.counts, matches.in_references, strict=True):
        most = numpy.max(in_references, axis=0) if in_references else numpy.zeros_like(ngrams.counts)
        clipped = numpy.minimum(ngrams.counts, most)
        columns.append(numpy.bincount(ngrams.captions, clipped, len(matches.lengths)))
    columns += [numpy.maximum(0, matches.lengths - order) for order in range(ORDERS)]
    return numpy.stack([*columns, _closest_lengths(matches)], axis=1).astype(numpy.int64)


def score(counts: Numbers) -> NDArray[numpy.float64]:
    """Return BLEU-1 to BLEU-4 of each row of counts, [rows, 4]; sum the rows first for the score of a set."""
    matched, total = counts[:, :ORDERS], counts[:, ORDERS : 2 * ORDERS]
    precisions = numpy.cumprod((matched + TINY) / (total + SMALL), axis=1)
    ratio = (counts[:, ORDERS] + TINY) / (counts[:, -1] + SMALL)
    brevity = numpy.exp(numpy.minimum(0, 1 - 1 / ratio))
    return precisions ** (1 / numpy.arange(1, ORDERS + 1)) * brevity[:, None]


def _closest_lengths(matches: Matches) -> Numbers:
    """The length of the reference that is closest to the caption's, the shorter one of two."""
    best = numpy.zeros_like(matches.lengths)
    smallest = numpy.full(len(best), numpy.iinfo(numpy.int64).max)
    for reference, exists in matches.references.columns(matches.images):
        length = matches.references.lengths[reference]
        distance = numpy.abs(length - matches.lengths)
        closer = exists & ((distance < smallest) | ((distance == smallest) & (length < best)))
        best, smallest = numpy.where(closer, length, best), numpy.where(closer, distance, smallest)
    return best
