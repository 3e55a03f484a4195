"""METEOR's paraphrase table, of which only what given captions can use is kept.

The table has 5.3 million lines of a phrase and its paraphrase. As text in memory they would take gigabytes, so phrases
become numbers, a chunk of the table at a time, and only pairs are decoded whose two numbers both occur in the captions.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from captioner.evaluation.java_programs import MetricUnavailableError

Keys = npt.NDArray[np.uint64]

LONGEST_PHRASE = 7
"""Words of the table's longest phrases."""
Paraphrases = dict[str, dict[str, int]]
"""The paraphrases of a phrase, each with its place among them."""

_CHUNK_BYTES = 1 << 24
_BATCH_CAPTIONS = 2000
_WINDOW = 8
_NEWLINE = ord("\n")


def list_phrases(words: Sequence[str]) -> list[tuple[int, str]]:
    """Return every phrase of a caption that could be in the table, with the position of its first word.

    They come by position, and at each the shorter before the longer.
    """
    return [
        (start, " ".join(words[start:end]))
        for start in range(len(words))
        for end in range(start + 1, min(start + LONGEST_PHRASE, len(words)) + 1)
    ]


def read_paraphrases(path: Path, captions: Sequence[Sequence[str]]) -> Paraphrases:
    """Return the table's paraphrases of which both sides may occur in captions, given as words.

    Some that occur in none are among them: phrases are told apart by length, beginning and end alone.
    Raises MetricUnavailableError where the table cannot be read.
    """
    wanted = _collect_keys(captions)
    paraphrases: Paraphrases = {}
    try:
        with gzip.open(path) as table:
            for phrase, paraphrase in _read_pairs(table, wanted):
                known = paraphrases.setdefault(phrase, {})
                known.setdefault(paraphrase, len(known))
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise MetricUnavailableError(f"{path.name} cannot be read ({error}); reinstall pycocoevalcap") from error
    return paraphrases


def _read_pairs(table: IO[bytes], wanted: Keys) -> Iterator[tuple[str, str]]:
    """Phrases and paraphrases, out of groups of three lines: probability, phrase, paraphrase."""
    rest = b""
    while chunk := table.read(_CHUNK_BYTES):
        # The window at the end of a phrase reaches back before the first line.
        text = b"\0" * _WINDOW + rest + chunk
        starts, ends = _find_lines(text, begin=_WINDOW)
        whole = len(ends) // 3 * 3
        kept = np.arange(1, whole, 3)
        kept = kept[_is_in(_make_keys(text, starts[kept], ends[kept]), wanted)]
        kept = kept[_is_in(_make_keys(text, starts[kept + 1], ends[kept + 1]), wanted)]
        for line in kept.tolist():
            phrase, paraphrase = (text[starts[number] : ends[number]].decode() for number in (line, line + 1))
            yield phrase, paraphrase
        rest = text[starts[whole] :]
    if rest:
        raise ValueError("it ends within a line or a group of three")


def _collect_keys(captions: Sequence[Sequence[str]]) -> Keys:
    """The keys of all phrases of captions, sorted, each once."""
    collected = [np.empty(0, np.uint64)]
    for begin in range(0, len(captions), _BATCH_CAPTIONS):
        phrases = {phrase for words in captions[begin : begin + _BATCH_CAPTIONS] for _, phrase in list_phrases(words)}
        text = b"\0" * _WINDOW + "".join(f"{phrase}\n" for phrase in phrases).encode("utf-8", "surrogatepass")
        starts, ends = _find_lines(text, begin=_WINDOW)
        collected.append(np.unique(_make_keys(text, starts[:-1], ends)))
    return np.unique(np.concatenate(collected))


def _find_lines(text: bytes, *, begin: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where lines start and end; one start more than ends, that of the unfinished line."""
    ends = np.flatnonzero(np.frombuffer(text, np.uint8, offset=begin) == _NEWLINE) + begin
    return np.concatenate([[begin], ends + 1]), ends


def _make_keys(text: bytes, starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> Keys:
    """A number for each line, made of its length, its first and its last eight bytes."""
    windows = np.ndarray(len(text) - _WINDOW + 1, dtype="<u8", buffer=text, strides=(1,))
    lengths = (ends - starts).astype(np.uint64)
    last = windows[ends - _WINDOW]
    # A line shorter than the window has bytes of the line before in it: the lowest.
    unused = np.uint64(8) * (np.uint64(_WINDOW) - np.minimum(lengths, np.uint64(_WINDOW)))
    last = np.where(lengths > 0, last >> np.minimum(unused, np.uint64(63)), np.uint64(0))
    first = np.where(lengths >= _WINDOW, windows[np.minimum(starts, len(windows) - 1)], np.uint64(0))
    mixed = first * np.uint64(0x9E3779B97F4A7C15) ^ last * np.uint64(0xC2B2AE3D27D4EB4F)
    return mixed ^ (lengths * np.uint64(0x165667B19E3779F9))


def _is_in(keys: Keys, wanted: Keys) -> npt.NDArray[np.bool_]:
    """Which keys are among the wanted ones, which are sorted."""
    if not len(wanted):
        return np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(wanted, keys), len(wanted) - 1)
    return wanted[places] == keys
