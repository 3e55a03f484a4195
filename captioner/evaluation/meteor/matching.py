"""Everything in one caption that METEOR lets stand for something in another: words, stems, synonyms, paraphrases."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from captioner.evaluation.meteor.dictionary import Dictionary
from captioner.evaluation.meteor.paraphrases import Paraphrases, list_phrases

EXACT, STEM, SYNONYM, PARAPHRASE = range(4)
"""METEOR's modules, in the order in which they add matches."""


class Match(NamedTuple):
    """Words of the test caption, from ``test_start`` on, that match words of the reference."""

    module: int
    test_start: int
    test_length: int
    reference_start: int
    reference_length: int

    @property
    def test_words(self) -> int:
        """The matched words of the test caption as bits."""
        return ((1 << self.test_length) - 1) << self.test_start

    @property
    def reference_words(self) -> int:
        """The matched words of the reference as bits."""
        return ((1 << self.reference_length) - 1) << self.reference_start


@dataclass(frozen=True, slots=True)
class Sentence:
    """A caption, with what of it the matchers look for."""

    words: tuple[str, ...]
    function_words: int
    """Which are function words, as bits."""
    known_phrases: list[tuple[int, str, int]]
    """Phrases that have paraphrases: position, text, number of words."""
    places: dict[str, list[int]]
    """The positions of phrases that are a paraphrase of something."""


class Matcher:
    """Finds matches between captions of a given set."""

    def __init__(self, dictionary: Dictionary, paraphrases: Paraphrases, vocabulary: Iterable[str]) -> None:
        """vocabulary: every word of the set."""
        self._dictionary, self._paraphrases = dictionary, paraphrases
        self._targets = frozenset(target for targets in paraphrases.values() for target in targets)
        self._by_stem: dict[str, list[str]] = {}
        self._by_synset: dict[str, list[str]] = {}
        for word in vocabulary:
            self._by_stem.setdefault(dictionary.stem(word), []).append(word)
            for synset in dictionary.synsets(word):
                self._by_synset.setdefault(synset, []).append(word)
        self._find_related = cache(self._collect_related)

    def prepare(self, words: Sequence[str]) -> Sentence:
        """Return a caption's words with what the matchers look for in them."""
        function_words = sum(1 << place for place, word in enumerate(words) if word in self._dictionary.function_words)
        known_phrases, places = [], {}
        for start, phrase in list_phrases(words):
            if phrase in self._paraphrases:
                known_phrases.append((start, phrase, phrase.count(" ") + 1))
            if phrase in self._targets:
                places.setdefault(phrase, []).append(start)
        return Sentence(tuple(words), function_words, known_phrases, places)

    def find(self, test: Sentence, reference: Sentence) -> list[list[Match]]:
        """Return all matches by the reference word that they begin with, in the order in which METEOR finds them."""
        matches = [self._match_word(test, place, word) for place, word in enumerate(reference.words)]
        # Identical captions have only exact matches: the search would otherwise find its way too rarely.
        if test.words == reference.words:
            return [[match for match in group if match.module == EXACT] for group in matches]
        for (start, length), (test_start, test_length) in self._match_phrases(reference, test):
            matches[start].append(Match(PARAPHRASE, test_start, test_length, start, length))
        for (test_start, test_length), (start, length) in self._match_phrases(test, reference):
            matches[start].append(Match(PARAPHRASE, test_start, test_length, start, length))
        return matches

    def _match_word(self, test: Sentence, place: int, word: str) -> list[Match]:
        related = self._find_related(word)
        found = [(related[other], start) for start, other in enumerate(test.words) if other in related]
        return [
            Match(module, start, 1, place, 1)
            for module in (EXACT, STEM, SYNONYM)
            for modules, start in found
            if module in modules
        ]

    def _match_phrases(self, source: Sentence, other: Sentence) -> Iterable[tuple[tuple[int, int], tuple[int, int]]]:
        """Phrases of one caption, each with a paraphrase in the other: position and number of words of both."""
        for start, phrase, length in source.known_phrases:
            paraphrases = self._paraphrases[phrase]
            for paraphrase in sorted(paraphrases.keys() & other.places.keys(), key=paraphrases.__getitem__):
                for target in other.places[paraphrase]:
                    yield (start, length), (target, paraphrase.count(" ") + 1)

    def _collect_related(self, word: str) -> dict[str, tuple[int, ...]]:
        """The words of the set that match a word, each with the modules that say so."""
        synonyms = {other for synset in self._dictionary.synsets(word) for other in self._by_synset[synset]}
        stems = set(self._by_stem[self._dictionary.stem(word)])
        related = {
            other: tuple(module for module, others in ((STEM, stems), (SYNONYM, synonyms)) if other in others)
            for other in stems | synonyms
        }
        return related | {word: (EXACT,)}
