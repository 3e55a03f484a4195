"""CIDEr and CIDEr-D (Vedantam et al., 2015, https://arxiv.org/abs/1411.5726), without stemming, as COCO's evaluation.

What COCO's evaluation calls CIDEr is CIDEr-D: repeating a word earns nothing, and another length than the reference's
costs. CIDEr is the cosine of the weighted n-gram counts alone. Both are scaled by 10.
"""

import logging
from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from captioner.errors import DataError
from captioner.evaluation import ptb
from captioner.evaluation.document_frequencies import DocumentFrequencies
from captioner.evaluation.ngrams import ORDERS, Counts, Matches, Numbers, ReferenceNgrams

logger = logging.getLogger(__name__)

SIGMA = 6.0
"""Of the bell curve over the difference in length, in words."""

Floats = NDArray[numpy.float64]


class CiderReferences:
    """The references of a set of images, prepared once, to score captions of these images against again and again."""

    def __init__(
        self, references: Sequence[Sequence[str]], *, document_frequencies: DocumentFrequencies | None = None
    ) -> None:
        """Prepare references.

        Args:
            references: the untokenized reference captions of each image.
            document_frequencies: what n-grams are weighed by, instead of these references themselves.
        """
        tokens = iter(ptb.tokenize([caption for group in references for caption in group]))
        ngrams = ReferenceNgrams(
            [[next(tokens) for _ in group] for group in references],
            also=document_frequencies.frequencies if document_frequencies else (),
        )
        self._ngrams, self._weights = ngrams, CiderWeights(ngrams, document_frequencies)

    def score(self, captions: Sequence[str], images: Sequence[int] | None = None) -> Floats:
        """Return CIDEr-D of each untokenized caption.

        Args:
            captions: one an image in their order, or those of ``images``.
            images: the number of each caption's image, [captions].

        Raises:
            DataError: there is not one caption an image.
        """
        if len(captions) != (len(self._ngrams.sizes) if images is None else len(images)):
            raise DataError(f"{len(captions)} captions for {len(self._ngrams.sizes)} images: give one an image")
        rows = None if images is None else numpy.asarray(images, dtype=numpy.int64)
        return self._weights.cider_d(self._ngrams.match(ptb.tokenize(captions), rows))


class CiderWeights:
    """How much each n-gram of a set of references counts, and the lengths of the references' vectors."""

    def __init__(self, references: ReferenceNgrams, document_frequencies: DocumentFrequencies | None = None) -> None:
        """Weigh by these references, or by other document frequencies that ``references`` were indexed with."""
        if document_frequencies is None:
            images, frequencies = len(references.sizes), _count_images(references)
            if images == 1:
                logger.warning(
                    "one image weighed by its own references: every CIDEr is 0; score more images, or give document "
                    "frequencies of others (--document-frequencies)"
                )
        else:
            images, frequencies = document_frequencies.images, _look_up(references, document_frequencies)
        self._rare = float(numpy.log(max(1.0, images)))
        """The weight of an n-gram that no reference has."""
        self._weights = [self._rare - numpy.log(numpy.maximum(1.0, counts)) for counts in frequencies]
        self._norms = [
            self._norm(order, counts, len(references.lengths)) for order, counts in enumerate(references.counts)
        ]

    def cider_d(self, matches: Matches) -> Floats:
        """Return CIDEr-D of each caption."""
        return self._score(matches, clipped=True)

    def cider(self, matches: Matches) -> Floats:
        """Return CIDEr of each caption."""
        return self._score(matches, clipped=False)

    def _score(self, matches: Matches, *, clipped: bool) -> Floats:
        norms = [self._norm(order, counts, len(matches.lengths)) for order, counts in enumerate(matches.counts)]
        total = numpy.zeros(len(matches.lengths))
        for column, (reference, exists) in enumerate(matches.references.columns(matches.images)):
            similarity = numpy.zeros(len(total))
            for order in range(ORDERS):
                product = self._product(matches, order, column, clipped=clipped)
                norm = norms[order] * self._norms[order][reference]
                similarity += numpy.divide(product, norm, out=numpy.zeros_like(product), where=norm > 0)
            if clipped:
                # COCO's evaluation takes the number of bigrams for the length.
                difference = _bigrams(matches.lengths) - _bigrams(matches.references.lengths[reference])
                similarity *= numpy.exp(-(difference**2) / (2 * SIGMA**2))
            total += similarity * exists
        return 10 * total / ORDERS / matches.references.sizes[matches.images]

    def _product(self, matches: Matches, order: int, column: int, *, clipped: bool) -> Floats:
        """The scalar product of each caption's vector and one reference's."""
        ngrams = matches.counts[order]
        if column >= len(matches.in_references[order]):  # no caption has n-grams so long
            return numpy.zeros(len(matches.lengths))
        counts = matches.in_references[order][column]
        own = numpy.minimum(ngrams.counts, counts) if clipped else ngrams.counts
        products = own * counts * self._weigh(order, ngrams.ngrams) ** 2
        return numpy.bincount(ngrams.captions, products, len(matches.lengths))

    def _norm(self, order: int, counts: Counts, captions: int) -> Floats:
        squares = (counts.counts * self._weigh(order, counts.ngrams)) ** 2
        return numpy.sqrt(numpy.bincount(counts.captions, squares, captions))

    def _weigh(self, order: int, ngrams: Numbers) -> Floats:
        weights = numpy.append(self._weights[order], self._rare)
        return weights[numpy.minimum(ngrams, len(weights) - 1)]


def _count_images(references: ReferenceNgrams) -> list[Numbers]:
    """For n = 1 to 4, in how many images' references each n-gram of the index is."""
    frequencies = []
    for counts, size in zip(references.counts, references.index.sizes, strict=True):
        # Sorted by n-gram, then image: numpy.unique alone is many times slower than sorting.
        pairs = numpy.sort(counts.ngrams * len(references.sizes) + references.images[counts.captions])
        first = numpy.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]
        frequencies.append(numpy.bincount(pairs[first] // len(references.sizes), minlength=size))
    return frequencies


def _look_up(references: ReferenceNgrams, given: DocumentFrequencies) -> list[Numbers]:
    """The same, of document frequencies that were counted elsewhere."""
    counts = numpy.fromiter(given.frequencies.values(), dtype=numpy.int64, count=len(given.frequencies))
    frequencies = []
    for size, (rows, numbers) in zip(
        references.index.sizes, references.index.find(list(given.frequencies)), strict=True
    ):
        found = numpy.zeros(size, dtype=numpy.int64)
        found[numbers] = counts[rows]
        frequencies.append(found)
    return frequencies


def _bigrams(lengths: Numbers) -> Numbers:
    return numpy.maximum(0, lengths - 1)
