import random

import pytest
from tiny_meteor import write_table

from captioner.evaluation.java_programs import MetricUnavailableError
from captioner.evaluation.meteor import paraphrases
from captioner.evaluation.meteor.paraphrases import list_phrases, read_paraphrases


def test_phrases_come_by_place_and_length():
    assert list_phrases(["a", "b", "c"]) == [(0, "a"), (0, "a b"), (0, "a b c"), (1, "b"), (1, "b c"), (2, "c")]
    assert max(phrase.count(" ") for _, phrase in list_phrases(["x"] * 20)) == paraphrases.LONGEST_PHRASE - 1


def read_naively(pairs, phrases):
    """The pairs of which both sides occur in captions."""
    found = {}
    for phrase, other in pairs:
        if phrase in phrases and other in phrases:
            found.setdefault(phrase, []).append(other)
    return found


def describe(phrase):
    """What phrases are told apart by."""
    text = phrase.encode()
    return len(text), text[:8], text[-8:]


@pytest.mark.parametrize("chunk_bytes", [7, 100, 1 << 24])
def test_what_is_kept_is_what_a_search_of_every_line_finds(tmp_path, monkeypatch, chunk_bytes):
    monkeypatch.setattr(paraphrases, "_CHUNK_BYTES", chunk_bytes)
    generator = random.Random(0)
    words = ["a", "on", "é", "abroad", "日本", "x" * 8]
    phrases = [" ".join(generator.choices(words, k=generator.randint(1, 3))) for _ in range(60)]
    pairs = list(dict.fromkeys((generator.choice(phrases), generator.choice(phrases)) for _ in range(300)))
    captions = [generator.choices(words, k=generator.randint(0, 7)) for _ in range(40)]
    kept = read_paraphrases(write_table(tmp_path, pairs), captions)
    phrases = {phrase for words in captions for _, phrase in list_phrases(words)}
    expected = read_naively(pairs, phrases)
    assert len(expected) > 10
    assert {phrase: [other for other in kept[phrase] if other in phrases] for phrase in expected} == expected
    assert all(list(places.values()) == list(range(len(places))) for places in kept.values())
    known = {describe(phrase) for phrase in phrases}
    assert all(describe(phrase) in known for places in kept.values() for phrase in [*places, *kept])


def test_phrases_with_the_same_ends_are_kept_too(tmp_path):
    """They are told apart where they are looked up."""
    pairs = [("beginning of the ending", "a"), ("beginning on the ending", "a")]
    kept = read_paraphrases(write_table(tmp_path, pairs), [["a"], ["beginning", "of", "the", "ending"]])
    assert kept["beginning of the ending"] == {"a": 0}


def test_captions_without_words_have_no_paraphrases(tmp_path):
    assert read_paraphrases(write_table(tmp_path), [[], []]) == {}


@pytest.mark.parametrize("damage", ["cut", "no gzip", "lines missing"])
def test_a_damaged_table_is_named(tmp_path, damage):
    path = write_table(tmp_path)
    content = path.read_bytes()
    if damage == "lines missing":
        write_table(tmp_path, [("a", "b\n0.5")])
    else:
        path.write_bytes(content[:-12] if damage == "cut" else b"text")
    with pytest.raises(MetricUnavailableError, match=r"^paraphrase-en.gz cannot be read .*; reinstall pycocoevalcap$"):
        read_paraphrases(path, [["a"]])
