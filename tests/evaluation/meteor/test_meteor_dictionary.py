import sys
import types

import pytest
from tiny_meteor import write_jar

from captioner.evaluation.java_programs import MetricUnavailableError
from captioner.evaluation.meteor.dictionary import Dictionary, load_dictionary


@pytest.fixture
def dictionary(tmp_path):
    return Dictionary(write_jar(tmp_path))


def test_the_lists_are_read(dictionary):
    assert dictionary.function_words == {"a", "the", "on", "of", "'"}
    assert dictionary.prefixes == {"Mr": False, "vs": False, "No": True}


@pytest.mark.parametrize(
    ("word", "synsets"),
    [
        ("dog", {"1"}),
        ("dogs", {"1"}),
        ("hounds", {"1", "2"}),
        ("boxes", {"5"}),
        ("boxing", {"5"}),
        ("doggies", {"1"}),
        ("mice", {"1"}),  # of two bases, of which the list of synsets has one
        ("doggs", set()),
        ("sofass", set()),
        ("s", set()),
        ("", set()),
    ],
)
def test_synsets_are_those_of_the_word_and_its_base(dictionary, word, synsets):
    assert dictionary.synsets(word) == synsets


@pytest.mark.parametrize(
    ("word", "stem"),
    [("running", "run"), ("happily", "happili"), ("added", "ad"), ("anthropologist", "anthropologist"), ("'s", "'s")],
)
def test_stems_are_those_of_the_jar(dictionary, word, stem):
    """The jar has a Snowball stemmer of before version 3, which stems the third and the fourth otherwise."""
    assert dictionary.stem(word) == stem


def test_a_dictionary_is_read_once(tmp_path):
    jar = write_jar(tmp_path)
    assert load_dictionary(jar) is load_dictionary(jar)


@pytest.mark.parametrize("content", [b"", b"no archive"])
def test_a_damaged_jar_is_named(tmp_path, content):
    path = tmp_path / "meteor-1.5.jar"
    path.write_bytes(content)
    with pytest.raises(MetricUnavailableError, match=r"^meteor-1.5.jar cannot be read .*; reinstall pycocoevalcap$"):
        Dictionary(path)


def test_a_missing_stemmer_has_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "snowballstemmer.english_stemmer", None)
    with pytest.raises(MetricUnavailableError, match=r"pip install 'snowballstemmer>=2.2,<3'$"):
        Dictionary(write_jar(tmp_path))


def test_a_newer_stemmer_is_refused(tmp_path, monkeypatch):
    newer = types.SimpleNamespace(stemWord=lambda word: "add")
    module = types.SimpleNamespace(EnglishStemmer=lambda: newer)
    monkeypatch.setitem(sys.modules, "snowballstemmer.english_stemmer", module)
    with pytest.raises(MetricUnavailableError, match="too new"):
        Dictionary(write_jar(tmp_path))
