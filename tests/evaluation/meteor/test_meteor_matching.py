import pytest
from tiny_meteor import write_jar, write_table

from captioner.evaluation.meteor.dictionary import Dictionary
from captioner.evaluation.meteor.matching import EXACT, PARAPHRASE, STEM, SYNONYM, Match, Matcher
from captioner.evaluation.meteor.paraphrases import read_paraphrases


@pytest.fixture
def find(tmp_path):
    """All matches of two captions."""

    def find(test, reference):
        captions = [test.split(), reference.split()]
        paraphrases = read_paraphrases(write_table(tmp_path), captions)
        matcher = Matcher(Dictionary(write_jar(tmp_path)), paraphrases, {*captions[0], *captions[1]})
        return matcher.find(*map(matcher.prepare, captions))

    return find


def test_every_place_of_a_word_matches(find):
    assert find("a dog a", "cat a") == [[], [Match(EXACT, 0, 1, 1, 1), Match(EXACT, 2, 1, 1, 1)]]


def test_a_word_may_match_as_stem_and_synonym(find):
    assert find("dogs", "dog") == [[Match(STEM, 0, 1, 0, 1), Match(SYNONYM, 0, 1, 0, 1)]]
    assert find("hound", "dogs") == [[Match(SYNONYM, 0, 1, 0, 1)]]
    assert find("running", "run") == [[Match(STEM, 0, 1, 0, 1)]]


def test_modules_come_before_places(find):
    found = find("dogs hound dog", "dog")[0]
    assert [(match.module, match.test_start) for match in found] == [(EXACT, 2), (STEM, 0), (SYNONYM, 0), (SYNONYM, 1)]


def test_paraphrases_are_looked_up_from_both_sides(find):
    """The table has "next to" for "beside" and "beside" for "next to", so the match is found twice."""
    found = find("sits beside it", "is next to it")
    assert found[1] == [Match(PARAPHRASE, 1, 1, 1, 2)] * 2
    assert found[3] == [Match(EXACT, 2, 1, 3, 1)]


def test_paraphrases_come_by_place_and_length_and_place_in_the_table(find):
    found = find("near the close to the beside", "next to")[0]
    assert [(match.reference_length, match.test_start, match.test_length) for match in found] == [
        *((1, 0, 2), (2, 5, 1), (2, 2, 3)),  # phrases of the reference: "next" before "next to"
        (2, 5, 1),  # and of the other caption
    ]


def test_identical_captions_have_exact_matches_only(find):
    assert find("dogs dog", "dogs dog") == [[Match(EXACT, 0, 1, 0, 1)], [Match(EXACT, 1, 1, 1, 1)]]


def test_words_are_bits():
    match = Match(PARAPHRASE, 1, 2, 3, 1)
    assert (match.test_words, match.reference_words) == (0b110, 0b1000)
