"""The alignment of two captions: of all sets of matches without overlap, the one that METEOR's beam search finds.

It is not always the best one, and equal figures need the same one: the beam, the order among equals and what counts as
distance are those of METEOR 1.5. There a word's worth of a match is halved for all but exact ones and rounded down, so
that a stem or a synonym alone counts nothing in the search; and the distance of a choice is added to the choices that
come after it at the same word instead of to itself.
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import chain
from operator import attrgetter, or_

from captioner.evaluation.meteor.matching import EXACT, Match

BEAM = 40
_NO_CHUNK = -1


class _Path:
    """The matches chosen up to a word of the reference. Words are bits; certain matches have used theirs already."""

    __slots__ = ("chosen", "chunk_end", "chunks", "distance", "following", "missing", "used_reference", "used_test")

    def __init__(self, used_test: int, used_reference: int) -> None:
        self.missing, self.chunks, self.distance = 0, 0, 0
        self.following, self.chunk_end = 0, _NO_CHUNK
        self.used_test, self.used_reference = used_test, used_reference
        self.chosen: tuple[tuple, Match] | tuple[()] = ()

    def copy(self) -> "_Path":
        """Another path with the same choices."""
        other = _Path(self.used_test, self.used_reference)
        other.missing, other.chunks, other.distance = self.missing, self.chunks, self.distance
        other.following, other.chunk_end, other.chosen = self.following, self.chunk_end, self.chosen
        return other

    def is_free(self, match: Match) -> bool:
        return not (self.used_test & match.test_words or self.used_reference & match.reference_words)

    def take(self, match: Match) -> None:
        self.used_test |= match.test_words
        self.used_reference |= match.reference_words
        self.missing -= _weigh(match)
        if match.test_start != self.chunk_end:
            self.close_chunk()
        self.following = match.reference_start + match.reference_length
        self.chunk_end = match.test_start + match.test_length
        self.chosen = (self.chosen, match)

    def skip(self) -> None:
        self.close_chunk()
        self.following += 1

    def close_chunk(self) -> None:
        if self.chunk_end != _NO_CHUNK:
            self.chunks += 1
            self.chunk_end = _NO_CHUNK

    def list_chosen(self) -> list[Match]:
        matches, rest = [], self.chosen
        while rest:
            rest, match = rest
            matches.append(match)
        return matches[::-1]


_rank = attrgetter("missing", "chunks", "distance")


def align(matches: Sequence[Sequence[Match]]) -> tuple[list[Match], int]:
    """Return the chosen matches, by their place in the reference, and the number of chunks that they make.

    matches: all matches by the reference word that they begin with.
    """
    certain = {match.reference_start: match for match in _find_certain(matches)}
    test = reduce(or_, (match.test_words for match in certain.values()), 0)
    paths = [_Path(test, reduce(or_, (match.reference_words for match in certain.values()), 0))]
    for place, choices in enumerate(matches):
        paths.sort(key=_rank)
        paths = [path for before in paths[:BEAM] for path in _continue(before, place, choices, certain)]
    paths.sort(key=_rank)
    for path in paths[:BEAM]:
        path.close_chunk()
    best = min(paths[:BEAM], key=_rank)
    return best.list_chosen(), best.chunks


def _continue(path: _Path, place: int, choices: Sequence[Match], certain: dict[int, Match]) -> list[_Path]:
    """The path with each choice at a word of the reference, and the path without any."""
    if path.used_reference >> place & 1:
        if place >= path.following:
            match = certain[place]
            path.take(match)
            path.distance += _measure(match)
        return [path]
    paths = []
    for match in choices:
        if path.is_free(match):
            paths.append(path.copy())
            paths[-1].take(match)
            path.distance += _measure(match)
    path.skip()
    return [*paths, path]


def _find_certain(matches: Sequence[Sequence[Match]]) -> list[Match]:
    """The matches that share no word with another."""
    everything = list(chain.from_iterable(matches))
    test = _find_shared(match.test_words for match in everything)
    reference = _find_shared(match.reference_words for match in everything)
    return [match for match in everything if not (match.test_words & test or match.reference_words & reference)]


def _find_shared(items: Iterable[int]) -> int:
    """The words, as bits, that occur in more than one of the items."""
    seen, shared = 0, 0
    for words in items:
        shared |= seen & words
        seen |= words
    return shared


def _weigh(match: Match) -> int:
    if match.module == EXACT:
        return match.test_length + match.reference_length
    return match.test_length // 2 + match.reference_length // 2


def _measure(match: Match) -> int:
    return abs(match.reference_start - match.test_start)
