"""METEOR of captions: matches counted, weighted and put together, against the best of the references."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from captioner.evaluation.java_programs import find_bundled_file
from captioner.evaluation.meteor.alignment import align
from captioner.evaluation.meteor.dictionary import load_dictionary
from captioner.evaluation.meteor.matching import Matcher, Sentence
from captioner.evaluation.meteor.normalisation import normalise
from captioner.evaluation.meteor.paraphrases import read_paraphrases

# Tuned for English on judgements of translations (Denkowski and Lavie, 2014, table 2).
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
"""Recall's share in the mean; the penalty's exponent and size; the weight of content words."""
MODULE_WEIGHTS = (1.0, 0.6, 0.8, 0.6)
"""Of exact, stem, synonym and paraphrase matches."""

COLUMNS = 2 * (2 + 2 * len(MODULE_WEIGHTS)) + 1
"""Numbers of a row of ``Statistics``."""

_NO_MATCHES = (0,) * len(MODULE_WEIGHTS)


class Side(NamedTuple):
    """One side of an alignment, the test caption or the reference, in numbers of words."""

    length: float
    function_words: float
    content_matches: tuple[float, ...] = _NO_MATCHES
    """Of each module."""
    function_matches: tuple[float, ...] = _NO_MATCHES

    @property
    def matches(self) -> float:
        return sum(self.content_matches) + sum(self.function_matches)

    def to_row(self) -> list[int]:
        return [self.length, self.function_words, *self.content_matches, *self.function_matches]

    @classmethod
    def from_row(cls, row: Sequence[float]) -> "Side":
        modules = len(MODULE_WEIGHTS)
        return cls(row[0], row[1], tuple(row[2 : 2 + modules]), tuple(row[2 + modules :]))

    def weigh_length(self) -> float:
        return DELTA * (self.length - self.function_words) + (1.0 - DELTA) * self.function_words

    def weigh_matches(self) -> float:
        content = zip(self.content_matches, MODULE_WEIGHTS, strict=True)
        function = zip(self.function_matches, MODULE_WEIGHTS, strict=True)
        # Added up in this order, and not by a sum that rounds better: references may differ by the last bit alone.
        total = 0.0
        for count, weight in content:
            total += count * weight * DELTA
        for count, weight in function:
            total += count * weight * (1.0 - DELTA)
        return total


class Statistics(NamedTuple):
    """All that METEOR's score is made of."""

    test: Side
    reference: Side
    chunks: float

    @property
    def is_whole(self) -> bool:
        """Whether every word matches, in one chunk."""
        unmatched = (self.test.length - self.test.matches) + (self.reference.length - self.reference.matches)
        return unmatched == 0 and self.chunks == 1

    def to_row(self) -> list[int]:
        """Return ``COLUMNS`` numbers; the sum over images is the row of the set."""
        return [*self.test.to_row(), *self.reference.to_row(), 0 if self.is_whole else self.chunks]

    def score(self) -> float:
        """Return the harmonic mean of precision and recall, less the penalty for fragments."""
        matched = self.test.matches + self.reference.matches
        if not matched:
            return 0.0
        precision = self.test.weigh_matches() / self.test.weigh_length()
        recall = self.reference.weigh_matches() / self.reference.weigh_length()
        mean = 1.0 / ((1.0 - ALPHA) / precision + ALPHA / recall)
        fragmentation = 0.0 if self.is_whole else self.chunks / (matched / 2)
        return max(mean * (1.0 - GAMMA * fragmentation**BETA), 0.0)


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Return METEOR 1.5 of the set and of each image, as COCO's evaluation has it (Denkowski and Lavie, 2014).

    predictions: one tokenized caption an image.
    references: the tokenized reference captions of each image.
    Raises MetricUnavailableError where METEOR's data, which come with pycocoevalcap, or its stemmer are missing.
    """
    statistics = count(predictions, references)
    return add_up(statistics).score(), [item.score() for item in statistics]


def count(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> list[Statistics]:
    """Return the statistics of each image, of the reference that scores best; arguments and errors as of ``score``."""
    jar = find_bundled_file("meteor/meteor-1.5.jar", "METEOR")
    table = find_bundled_file("meteor/data/paraphrase-en.gz", "METEOR")
    dictionary = load_dictionary(jar)
    # COCO's evaluation has Java read all captions of an image in one line, where this separates them.
    texts = {
        text: text.replace("|||", "") for text in {*predictions, *(text for group in references for text in group)}
    }
    words = {text: tuple(normalise(clean, dictionary.prefixes)) for text, clean in texts.items()}
    captions = sorted(set(words.values()))
    matcher = Matcher(dictionary, read_paraphrases(table, captions), {word for caption in captions for word in caption})
    prepare = lru_cache(maxsize=10_000)(lambda text: matcher.prepare(words[text]))
    return [
        _choose_best(matcher, prepare(prediction), map(prepare, group))
        for prediction, group in zip(predictions, references, strict=True)
    ]


def score_row(row: Sequence[float]) -> float:
    """Return METEOR of a row of statistics, or of the sum of several images' rows."""
    half = COLUMNS // 2
    return Statistics(Side.from_row(row[:half]), Side.from_row(row[half:-1]), row[-1]).score()


def compare(matcher: Matcher, test: Sentence, reference: Sentence) -> Statistics:
    """Return the statistics of a caption against one reference."""
    matches, chunks = align(matcher.find(test, reference))
    return Statistics(
        _count(test, ((match.module, match.test_words) for match in matches)),
        _count(reference, ((match.module, match.reference_words) for match in matches)),
        chunks,
    )


def add_up(statistics: Iterable[Statistics]) -> Statistics:
    """Return the statistics of a set of images; captions that match wholly add no chunk."""
    items = list(statistics)
    return Statistics(
        _add_sides([item.test for item in items]),
        _add_sides([item.reference for item in items]),
        sum(item.chunks for item in items if not item.is_whole),
    )


def _choose_best(matcher: Matcher, test: Sentence, references: Iterable[Sentence]) -> Statistics:
    """The statistics against the reference that scores best, the first of several."""
    return max((compare(matcher, test, reference) for reference in references), key=Statistics.score)


def _count(sentence: Sentence, matches: Iterable[tuple[int, int]]) -> Side:
    content, function = [0] * len(MODULE_WEIGHTS), [0] * len(MODULE_WEIGHTS)
    for module, words in matches:
        function[module] += (words & sentence.function_words).bit_count()
        content[module] += (words & ~sentence.function_words).bit_count()
    return Side(len(sentence.words), sentence.function_words.bit_count(), tuple(content), tuple(function))


def _add_sides(sides: Sequence[Side]) -> Side:
    return Side(
        sum(side.length for side in sides),
        sum(side.function_words for side in sides),
        tuple(map(sum, zip(*(side.content_matches for side in sides), strict=True))),
        tuple(map(sum, zip(*(side.function_matches for side in sides), strict=True))),
    )
