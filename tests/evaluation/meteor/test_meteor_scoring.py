import gzip
import random
import shutil
import subprocess
import types
import zipfile

import pytest
from tiny_meteor import write_jar, write_meteor, write_table

from captioner.evaluation import caption_metrics, java_programs
from captioner.evaluation.java_programs import find_bundled_file
from captioner.evaluation.meteor import scoring
from captioner.evaluation.meteor.scoring import Side, Statistics, add_up, score


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """METEOR with a handful of words."""
    write_meteor(tmp_path)
    monkeypatch.setattr(scoring, "find_bundled_file", lambda name, metric: tmp_path / name)


def penalize(mean, chunks, matches):
    return mean * (1 - 0.6 * (chunks / matches) ** 0.2)


def test_a_reference_scores_one(tiny):
    assert score(["a dog runs"], [["the cat", "a dog runs"]]) == (1.0, [1.0])


def test_half_of_a_surrogate_pair_is_a_word_like_others(tiny):
    assert score(["dog \ud83d"], [["dog \ud83d"]])[1] == [1.0]


def test_no_match_scores_nothing(tiny):
    assert score(["dog", "", "dog", ""], [["cat"], ["cat"], [""], [""]]) == (0.0, [0.0] * 4)


def test_content_words_and_modules_weigh_what_the_paper_says(tiny):
    """Of three words each, one of them a function word, one matches exactly and one as a synonym."""
    _, (value,) = score(["a dog sits"], [["the hound sits"]])
    share = (0.75 * 1.0 + 0.75 * 0.8) / (0.75 * 2 + 0.25 * 1)
    assert value == pytest.approx(penalize(share, 1, 2), abs=1e-15)


def test_recall_weighs_more_than_precision(tiny):
    """Two content words of two against two of four."""
    _, (value,) = score(["red dog"], [["one red dog barks"]])
    assert value == pytest.approx(penalize(1 / (0.15 / 1 + 0.85 / 0.5), 1, 2), abs=1e-15)


def test_phrases_count_the_words_of_their_sides(tiny):
    """Of the test two words, of which one is a paraphrase; of the reference three, of which two are."""
    _, (value,) = score(["beside sofa"], [["next to sofa"]])
    precision, recall = (0.6 + 1) / 2, (2 * 0.6 + 1) / 3
    mean = 1 / (0.15 / precision + 0.85 / recall)
    # Everything matches, in one chunk.
    assert value == pytest.approx(mean, abs=1e-15)


def test_the_set_is_scored_by_the_sum_of_the_best_references(tiny):
    """The chunk of a caption that matches wholly is not counted for the set."""
    whole, images = score(["dog runs", "sofa runs"], [["cat", "dog runs"], ["cat sofa sits", "runs"]])
    # Of the second image's references, "runs" is the better: one of two words, and one of one.
    assert images == pytest.approx([1.0, penalize(1 / (0.15 / 0.5 + 0.85), 1, 1)], abs=1e-15)
    assert whole == pytest.approx(penalize(1 / (0.15 / (3 / 4) + 0.85 / (3 / 3)), 1, 3), abs=1e-15)


def test_rows_add_up_to_the_score_of_any_set(tiny):
    """The rows that are resampled against statistics that are added up."""
    predictions = ["dog runs", "sofa runs", "a dog sits", "cat"]
    references = [["cat", "dog runs"], ["cat sofa sits", "runs"], ["the hound sits"], ["dog"]]
    statistics = scoring.count(predictions, references)
    rows = [one.to_row() for one in statistics]
    assert {len(row) for row in rows} == {scoring.COLUMNS}
    for drawn in ([0], [1], [3], [0, 0], [0, 1, 2, 3], [2, 2, 1], [3, 3]):
        sums = [sum(column) for column in zip(*(rows[image] for image in drawn), strict=True)]
        expected = add_up([statistics[image] for image in drawn]).score()
        assert scoring.score_row(sums) == pytest.approx(expected, abs=1e-15)
    assert [scoring.score_row(row) for row in rows] == pytest.approx(score(predictions, references)[1], abs=1e-15)


def test_of_equal_references_the_first_counts():
    side = Side(2, 0, (1, 0, 0, 0))
    first = Statistics(side, Side(2, 0, (1, 0, 0, 0)), 1)
    assert add_up([first, first]) == Statistics(Side(4, 0, (2, 0, 0, 0)), Side(4, 0, (2, 0, 0, 0)), 2)


def test_the_separator_of_the_java_program_is_dropped(tiny):
    assert score(["a ||| dog"], [["a dog |||"]])[1] == [1.0]


@pytest.mark.parametrize("write", [write_jar, write_table])
def test_what_is_missing_costs_no_other_metric(tmp_path, monkeypatch, write):
    write(tmp_path)
    package = types.SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(java_programs.util, "find_spec", lambda name: package)
    scores = caption_metrics.score_captions(["a dog"], [["a dog"]], metrics=["METEOR", "BLEU"])
    missing = "paraphrase-en.gz" if write is write_jar else "meteor-1.5.jar"
    remedy = f"{missing} is missing from the installed pycocoevalcap; reinstall it for METEOR"
    assert scores.unavailable == {"METEOR": remedy}
    assert scores.corpus["BLEU-1"] > 0


# Tokenized captions with what the Java program says.
KNOWN = [
    ("a cat on a mat", ["a cat on a mat"], 1.0),
    ("the dogs are running", ["the dog runs"], 0.18705944806468688),
    (
        "a man rides a bicycle down the road",
        ["a man is riding a bike along the street", "someone cycles on a road"],
        0.31418194509933195,
    ),
    ("a man 's dog ca n't swim", ["the man 's dog can not swim"], 0.36548424777058713),
    (
        "two children play in the water",
        ["two kids are playing in the pool", "there are two kids in the water"],
        0.3770342452640862,
    ),
    (
        "in front of the building a crowd of people is waiting",
        ["a large number of people waits outside of the building"],
        0.1925117025782672,
    ),
    ("a black-and-white u.s.-based dog", ["a black and white us based dog"], 1.0),
    ("the women 's mice ate the geese", ["a woman 's mouse eats a goose"], 0.3262579891967261),
    ("dog a is running grass the over", ["a dog is running over the grass"], 0.4182158403426526),
    (
        "a man in a red shirt stands next to a man in a blue shirt",
        [
            "the man in blue stands beside the man in red",
            "a man in a blue shirt is next to a man in a red shirt",
        ],
        0.5551787460745818,
    ),
    ("a b c", ["d e f"], 0.0),
    ("", ["a dog"], 0.0),
]


def test_known_scores_of_the_java_program():
    predictions, references, expected = zip(*KNOWN, strict=True)
    corpus, images = score(predictions, references)
    assert images == pytest.approx(expected, abs=1e-15)
    assert corpus == pytest.approx(0.3678999934360848, abs=1e-15)


def run_java(java, predictions, references):
    """The Java program's scores, as COCO's evaluation gets them: statistics of each image, then scores of all."""
    jar = find_bundled_file("meteor/meteor-1.5.jar", "METEOR")
    # UTF-8 whatever the locale: Java before 18 would read captions in the locale's encoding.
    command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jar.name, "-", "-", "-stdio"]
    command += ["-l", "en", "-norm"]

    def ask(lines):
        given = "".join(f"{' ||| '.join(line)}\n" for line in lines)
        done = subprocess.run(command, cwd=jar.parent, input=given.encode(), capture_output=True, check=True)
        return done.stdout.decode().split("\n")[:-1]

    pairs = zip(predictions, references, strict=True)
    statistics = ask(["SCORE", *group, prediction] for prediction, group in pairs)
    *images, corpus = map(float, ask([["EVAL", *statistics]]))
    return corpus, images


def make_hard_cases(generator, count):
    """Captions of synonyms, inflections, paraphrases, repeated words and punctuation, and others of the like."""
    with zipfile.ZipFile(find_bundled_file("meteor/meteor-1.5.jar", "METEOR")) as jar:
        synsets = jar.read("synonym/english.synsets").decode().split("\n")
        exceptions = jar.read("synonym/english.exceptions").decode().split()
    groups = {}
    for word, numbers in zip(synsets[::2], synsets[1::2], strict=False):
        for number in numbers.split() if "_" not in word else ():
            groups.setdefault(number, []).append(word)
    with gzip.open(find_bundled_file("meteor/data/paraphrase-en.gz", "METEOR"), "rt", encoding="utf-8") as table:
        lines = [line.strip() for line, _ in zip(table, range(3_000_000), strict=False)]
    groups = [*groups.values(), *generator.sample(list(zip(lines[1::3], lines[2::3], strict=False)), 60_000)]
    plain = [
        "a",
        "the",
        "on",
        "of",
        "with",
        "two",
        "dog",
        "dogs",
        "man",
        "running",
        "black-and-white",
        "é",
        "日本",
        "😀",
    ]
    plain += ["'s", "n't", "'", "..", "u.s.", "mr.", "no.", "3,000", "a,b", "-lrb-"]

    def caption(parts):
        words = [generator.choice(part) + generator.choice(["", "", "", "s", "ed", "ing"]) for part in parts]
        words += generator.choices(plain, k=generator.randint(0, 12)) + generator.sample(exceptions, 1)
        generator.shuffle(words)
        return " ".join(words)

    for _ in range(count):
        parts = generator.sample(groups, 4)
        yield caption(parts), [caption(parts) for _ in range(generator.randint(1, 4))]


@pytest.mark.slow
def test_java_agrees_on_hard_cases():
    java = shutil.which("java")
    if java is None:
        pytest.skip("there is no Java to compare with")
    predictions, references = zip(*make_hard_cases(random.Random(0), 2000), strict=True)
    corpus, images = score(predictions, references)
    java_corpus, java_images = run_java(java, predictions, references)
    assert images == pytest.approx(java_images, abs=1e-12)
    assert corpus == pytest.approx(java_corpus, abs=1e-12)
