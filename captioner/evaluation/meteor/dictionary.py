"""What METEOR's jar knows of English: function words, synonyms and abbreviations; and the stems of words."""

import zipfile
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path

from captioner.evaluation.java_programs import MetricUnavailableError

# Of nouns, verbs and adjectives, in the order in which they are tried.
_DETACHMENTS = (
    *(("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh")),
    *(("men", "man"), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", "")),
    *(("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
)
_STEMMER_REMEDY = "pip install 'snowballstemmer>=2.2,<3'"


class Dictionary:
    """The English of a METEOR jar."""

    def __init__(self, jar: Path) -> None:
        """Read the jar; raises MetricUnavailableError where it is damaged or the stemmer is not METEOR's."""
        try:
            with zipfile.ZipFile(jar) as files:
                self.function_words = frozenset(_read_lines(files, "function/english.words"))
                self.prefixes = dict(_parse_prefixes(_read_lines(files, "nonbreaking/english.prefixes")))
                synsets = _read_lines(files, "synonym/english.synsets")
                exceptions = _read_lines(files, "synonym/english.exceptions")
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise MetricUnavailableError(f"{jar.name} cannot be read ({error}); reinstall pycocoevalcap") from error
        self._synsets = dict(zip(synsets[::2], synsets[1::2], strict=True))
        self._bases: dict[str, list[str]] = {}
        for base, forms in zip(exceptions[::2], exceptions[1::2], strict=True):
            for form in forms.split():
                self._bases.setdefault(form, []).append(base)
        self._stem = _load_stemmer()

    def stem(self, word: str) -> str:
        """Return a word's stem, by https://snowballstem.org/algorithms/english/stemmer.html before its version 3."""
        return self._stem(word)

    def synsets(self, word: str) -> frozenset[str]:
        """Return the WordNet synsets, by number, of a word and of its base forms."""
        found: set[str] = set()
        for form in (word, *self._bases.get(word, [self._detach(word)])):
            found.update(self._synsets.get(form, "").split())
        return frozenset(found)

    def _detach(self, word: str) -> str:
        """The base form of a regular inflection by WordNet's rules of detachment; empty where it has none of them."""
        if word.endswith("ss") or len(word) <= 2:
            return word
        bases = (word.removesuffix(suffix) + ending for suffix, ending in _DETACHMENTS if word.endswith(suffix))
        return next((base for base in bases if base in self._synsets), "")


@lru_cache(maxsize=1)
def load_dictionary(jar: Path) -> Dictionary:
    """Read a jar's dictionary, which takes a quarter of a second, once."""
    return Dictionary(jar)


def _read_lines(files: zipfile.ZipFile, name: str) -> list[str]:
    return files.read(name).decode("utf-8").splitlines()


def _parse_prefixes(lines: Iterable[str]) -> Iterable[tuple[str, bool]]:
    """Each word that keeps its dot, and whether it does so only before numbers."""
    for line in lines:
        if (fields := line.split()) and not fields[0].startswith("#"):
            yield fields[0], fields[1:2] == ["#NUMERIC_ONLY#"]


def _load_stemmer() -> Callable[[str], str]:
    # The class itself: ``snowballstemmer.stemmer`` takes PyStemmer's where that is installed, whatever its version.
    try:
        from snowballstemmer.english_stemmer import EnglishStemmer
    except ImportError as error:
        raise MetricUnavailableError(f"METEOR needs its stemmer: {_STEMMER_REMEDY}") from error
    stem = EnglishStemmer().stemWord
    if stem("added") != "ad":
        raise MetricUnavailableError(f"the installed stemmer is too new for METEOR's stems: {_STEMMER_REMEDY}")
    return stem
