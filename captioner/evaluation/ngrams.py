"""N-grams of tokenized captions as arrays of numbers, so that they are counted and matched without a loop."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

ORDERS = 4
_SHIFT = 31
"""A pair of numbers is written as one: the first shifted by so many bits, plus the second."""

Numbers = NDArray[numpy.int64]


@dataclass(frozen=True)
class Counts:
    """The different n-grams of each of several captions, sorted by caption and n-gram; arrays of one length."""

    captions: Numbers
    ngrams: Numbers
    """As an NgramIndex numbers them; from its size on they are none of its own."""
    counts: Numbers

    @property
    def pairs(self) -> Numbers:
        """Caption and n-gram as one number, in ascending order."""
        return (self.captions << _SHIFT) + self.ngrams

    def of_first(self, captions: int) -> "Counts":
        """The counts of the first so many captions."""
        end = int(numpy.searchsorted(self.captions, captions))
        return Counts(self.captions[:end], self.ngrams[:end], self.counts[:end])


class NgramIndex:
    """Numbers the n-grams of some captions, apart for n = 1 to 4."""

    def __init__(self, captions: Sequence[str]) -> None:
        """Learn the n-grams of tokenized captions."""
        self._words: dict[str, int] = {}
        self._keys: list[Numbers] = []
        self.learnt = [_count(owners, ngrams) for owners, ngrams in self._number(captions, learn=True)]
        """The counts of these captions, for n = 1 to 4."""

    @property
    def sizes(self) -> list[int]:
        """How many different n-grams there are of n = 1 to 4."""
        return [len(self._words), *map(len, self._keys)]

    def count(self, captions: Sequence[str]) -> list[Counts]:
        """Count the n-grams of tokenized captions, for n = 1 to 4."""
        return [_count(owners, ngrams) for owners, ngrams in self._number(captions)]

    def find(self, ngrams: Sequence[str]) -> list[tuple[Numbers, Numbers]]:
        """For n = 1 to 4: which of these texts are n-grams of the index, and their numbers."""
        texts = [ngram.split() for ngram in ngrams]
        lengths = numpy.array([len(words) for words in texts], dtype=numpy.int64)
        found = []
        for order, ((owners, numbers), size) in enumerate(zip(self._number(ngrams), self.sizes, strict=True), start=1):
            whole = (lengths[owners] == order) & (numbers < size)
            found.append((owners[whole], numbers[whole]))
        return found

    def _number(self, captions: Sequence[str], *, learn: bool = False) -> list[tuple[Numbers, Numbers]]:
        """For n = 1 to 4: the caption and the number of every n-gram, in the order of the text."""
        owners, last = self._number_words(captions, learn=learn)
        numbers = last
        numbered = [(owners, numbers)]
        for order in range(2, ORDERS + 1):
            within = owners[1:] == owners[:-1]
            # An n-gram is the (n-1)-gram that starts at the same word, and the last word of the next (n-1)-gram.
            owners, last = owners[1:][within], last[1:][within]
            pairs = (numbers[:-1][within] << _SHIFT) + last
            if learn:
                known, numbers = numpy.unique(pairs, return_inverse=True)
                self._keys.append(known)
            else:
                numbers = _look_up(self._keys[order - 2], pairs)
            numbered.append((owners, numbers))
        return numbered

    def _number_words(self, captions: Sequence[str], *, learn: bool) -> tuple[Numbers, Numbers]:
        words = self._words if learn else _Fresh(self._words)
        texts = [caption.split() for caption in captions]
        numbers = [words.setdefault(word, len(words)) for text in texts for word in text]
        lengths = [len(text) for text in texts]
        return numpy.repeat(numpy.arange(len(texts)), lengths), numpy.array(numbers, dtype=numpy.int64)


class _Fresh(dict[str, int]):
    """Numbers words that an index lacks, from its size on, without adding them to it."""

    def __init__(self, known: dict[str, int]) -> None:
        self._known = known

    def __len__(self) -> int:
        return len(self._known) + super().__len__()

    def setdefault(self, word: str, number: int) -> int:
        known = self._known.get(word)
        return super().setdefault(word, number) if known is None else known


class ReferenceNgrams:
    """The n-grams of the references of a set of images, counted once, to match captions with."""

    def __init__(self, references: Sequence[Sequence[str]], *, also: Iterable[str] = ()) -> None:
        """Count the n-grams of the tokenized references of each image; ``also`` are further texts for the index."""
        captions = [caption for group in references for caption in group]
        self.index = NgramIndex([*captions, *also])
        self.counts = [counts.of_first(len(captions)) for counts in self.index.learnt]
        self.sizes = numpy.array([len(group) for group in references], dtype=numpy.int64)
        """References of each image."""
        self.first = numpy.cumsum(self.sizes) - self.sizes
        """The first reference of each image, as a place among all references."""
        self.images = numpy.repeat(numpy.arange(len(references)), self.sizes)
        """The image of each reference."""
        self.lengths = numpy.array([len(caption.split()) for caption in captions], dtype=numpy.int64)
        """Words of each reference."""
        self._pairs = [counts.pairs for counts in self.counts]

    def columns(self, images: Numbers) -> Iterator[tuple[Numbers, NDArray[numpy.bool_]]]:
        """The first reference of each of these images, then the second and so on, and which images have one."""
        for column in range(int(self.sizes[images].max(initial=0))):
            exists = column < self.sizes[images]
            yield numpy.where(exists, self.first[images] + column, 0), exists

    def match(self, predictions: Sequence[str], images: Numbers | None = None) -> "Matches":
        """Match tokenized captions with the references of their images.

        Args:
            predictions: tokenized captions.
            images: of each caption, the number of its image, [captions]; one an image in their order unless given.
        """
        images = numpy.arange(len(self.sizes)) if images is None else images
        counts = self.index.count(predictions)
        in_references = [
            [
                self._count_in(order, reference, ngrams.ngrams) * exists
                for reference, exists in self.columns(images[ngrams.captions])
            ]
            for order, ngrams in enumerate(counts)
        ]
        lengths = numpy.array([len(caption.split()) for caption in predictions], dtype=numpy.int64)
        return Matches(self, images, lengths, counts, in_references)

    def _count_in(self, order: int, references: Numbers, ngrams: Numbers) -> Numbers:
        """How often each n-gram is in the reference beside it."""
        known, keys = self._pairs[order], (references << _SHIFT) + ngrams
        places = numpy.searchsorted(known, keys)
        places[places == len(known)] = 0
        if not len(known):
            return numpy.zeros_like(keys)
        return numpy.where(known[places] == keys, self.counts[order].counts[places], 0)


@dataclass(frozen=True)
class Matches:
    """The n-grams of captions, and how often they are in the references of the captions' images."""

    references: ReferenceNgrams
    images: Numbers
    """The image of each caption."""
    lengths: Numbers
    """Words of each caption."""
    counts: list[Counts]
    """For n = 1 to 4."""
    in_references: list[list[Numbers]]
    """For n = 1 to 4, for each column of references, how often the n-grams of ``counts`` are in it."""


def _count(owners: Numbers, ngrams: Numbers) -> Counts:
    pairs, counts = numpy.unique((owners << _SHIFT) + ngrams, return_counts=True)
    return Counts(pairs >> _SHIFT, pairs & ((1 << _SHIFT) - 1), counts)


def _look_up(known: Numbers, keys: Numbers) -> Numbers:
    """The places of keys among known ones; others are numbered from there on, equal ones alike."""
    places = numpy.searchsorted(known, keys)
    missing = places == len(known)
    missing[~missing] = known[places[~missing]] != keys[~missing]
    places[missing] = len(known) + numpy.unique(keys[missing], return_inverse=True)[1]
    return places
