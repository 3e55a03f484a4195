import random
from itertools import combinations, pairwise

import pytest

from captioner.evaluation.meteor import alignment
from captioner.evaluation.meteor.alignment import align
from captioner.evaluation.meteor.matching import EXACT, PARAPHRASE, STEM, SYNONYM, Match


def by_start(matches, length):
    groups = [[] for _ in range(length)]
    for match in matches:
        groups[match.reference_start].append(match)
    return groups


def exact(test, reference):
    return Match(EXACT, test, 1, reference, 1)


def test_a_chunk_is_contiguous_on_both_sides():
    straight = [exact(0, 0), exact(1, 1), exact(2, 2)]
    assert align(by_start(straight, 3)) == (straight, 1)
    gap_in_the_reference = [exact(0, 0), exact(1, 2)]
    assert align(by_start(gap_in_the_reference, 3)) == (gap_in_the_reference, 2)
    gap_in_the_test = [exact(0, 0), exact(2, 1)]
    assert align(by_start(gap_in_the_test, 2)) == (gap_in_the_test, 2)
    crossed = [exact(1, 0), exact(0, 1)]
    assert align(by_start(crossed, 2)) == (crossed, 2)
    assert align([[], []]) == ([], 0)
    assert align([]) == ([], 0)


def test_phrases_make_one_chunk_with_their_neighbours():
    chosen = [exact(0, 0), Match(PARAPHRASE, 1, 1, 1, 3), exact(2, 4)]
    assert align(by_start(chosen, 5)) == (chosen, 1)


def test_of_two_places_the_one_with_fewer_chunks_is_taken():
    """Test: a dog a cat; reference: a cat."""
    assert align([[exact(0, 0), exact(2, 0)], [exact(3, 1)]]) == ([exact(2, 0), exact(3, 1)], 1)


def test_more_words_win_over_fewer_chunks():
    """A phrase of three words for one is worth less than two of them word by word."""
    words = [exact(4, 0), exact(2, 1)]
    assert align([[Match(PARAPHRASE, 0, 1, 0, 2), words[0]], [words[1]]]) == (words, 2)


def test_distance_counts_for_the_choices_after_it():
    """Among equals the first choice wins, though it is farther: its own distance is not added to it."""
    far, near = exact(5, 0), exact(0, 0)
    assert align([[far, near]]) == ([far], 1)


def test_a_stem_that_shares_its_word_is_left_out_where_it_adds_a_chunk():
    """It counts nothing in the search; one that shares no word is always taken."""
    stem, synonym = Match(STEM, 3, 1, 0, 1), Match(SYNONYM, 3, 1, 0, 1)
    assert align([[stem, synonym], [], [exact(0, 2)]]) == ([exact(0, 2)], 1)
    assert align([[stem], [], [exact(0, 2)]]) == ([stem, exact(0, 2)], 2)


def make_matches(generator):
    """Matches as they come, in a caption of four words and one of five."""
    count, found = generator.randint(0, 7), []
    for _ in range(count):
        lengths = (generator.randint(1, 2), generator.randint(1, 2)) if generator.random() < 0.4 else (1, 1)
        module = PARAPHRASE if lengths != (1, 1) else generator.choice([EXACT, STEM, SYNONYM])
        found.append(
            Match(
                module,
                generator.randint(0, 5 - lengths[0]),
                lengths[0],
                generator.randint(0, 4 - lengths[1]),
                lengths[1],
            )
        )
    return sorted(found, key=lambda match: (match.reference_start, match.module))


def rank(chosen):
    """What the search goes by, computed from scratch: words covered and chunks."""
    worth = sum(
        match.test_length + match.reference_length
        if match.module == EXACT
        else match.test_length // 2 + match.reference_length // 2
        for match in chosen
    )
    ordered = sorted(chosen, key=lambda match: match.reference_start)
    joined = sum(
        before.reference_start + before.reference_length == after.reference_start
        and before.test_start + before.test_length == after.test_start
        for before, after in pairwise(ordered)
    )
    return -worth, len(ordered) - joined


def overlap(one, other):
    return bool(one.test_words & other.test_words or one.reference_words & other.reference_words)


def search_everything(matches):
    """The best rank of all sets of matches without overlap that have those which overlap with none."""
    certain = [one for one in matches if not any(overlap(one, other) for other in matches if other is not one)]
    rest = [match for match in matches if match not in certain]
    return min(
        rank([*certain, *some])
        for size in range(len(rest) + 1)
        for some in combinations(rest, size)
        if not any(overlap(one, other) for one, other in combinations(some, 2))
    )


@pytest.mark.parametrize("seed", range(200))
def test_a_search_that_the_beam_does_not_cut_finds_the_best(seed):
    matches = make_matches(random.Random(seed))
    chosen, chunks = align(by_start(matches, 4))
    assert not any(overlap(one, other) for one, other in combinations(chosen, 2))
    assert rank(chosen) == search_everything(matches)
    assert chunks == rank(chosen)[1]


def test_a_narrow_beam_misses_what_a_wide_one_finds(monkeypatch):
    """Test: b a; reference: a b, where the first word could also be another's."""
    matches = [[exact(0, 0), Match(STEM, 3, 1, 0, 1)], [exact(0, 1)], [exact(1, 2)]]
    assert align(matches)[0] == [exact(0, 1), exact(1, 2)]
    monkeypatch.setattr(alignment, "BEAM", 1)
    assert align(matches)[0] == [exact(0, 0), exact(1, 2)]
