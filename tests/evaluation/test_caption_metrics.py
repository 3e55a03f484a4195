import contextlib
import io
import math
import os
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioner.errors import ConfigError, DataError
from captioner.evaluation import caption_metrics, diversity

WORDS = ["a", "the", "dog", "cat", "man", "red", "runs", "sits", "on", "in", "grass", "snow", "ball", "with", "two"]
JAVA_FREE = ("BLEU", "ROUGE-L", "CIDEr-D", "CIDEr")


def make_cases(count, seed):
    """Random captions; some predictions are empty, some references are too, image counts and lengths vary."""
    generator = random.Random(seed)

    def caption(least):
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(least, 12)))

    predictions = [caption(0) for _ in range(count)]
    references = [[caption(1) for _ in range(generator.randint(1, 5))] for _ in range(count)]
    references[0][0] = ""
    return predictions, references


def make_similar_cases(count, seed):
    """Captions that share much with their references, as real ones do; some words and numbers are rare."""
    generator = random.Random(seed)

    def vary(words):
        words = [word if generator.random() < 0.7 else generator.choice(WORDS) for word in words]
        return " ".join([*words, *generator.choices(["", str(generator.randint(0, 400)), "1 1/2", "."], k=2)])

    scenes = [generator.choices(WORDS, k=generator.randint(3, 20)) for _ in range(count)]
    return [vary(words) for words in scenes], [[vary(words) for _ in range(5)] for words in scenes]


def score_with_pycocoevalcap(scorer, predictions, references):
    by_image = dict(enumerate(references))
    with contextlib.redirect_stdout(io.StringIO()):
        return scorer.compute_score(by_image, {index: [caption] for index, caption in enumerate(predictions)})


def compare_with_pycocoevalcap(predictions, references):
    scores = caption_metrics.score_captions(predictions, references, metrics=JAVA_FREE)
    assert scores.unavailable == {}
    tokenized = caption_metrics.tokenize_pairs(predictions, references)
    bleu, bleu_images = score_with_pycocoevalcap(Bleu(4), *tokenized)
    expected = {f"BLEU-{order + 1}": (bleu[order], bleu_images[order]) for order in range(4)}
    expected["ROUGE-L"] = score_with_pycocoevalcap(Rouge(), *tokenized)
    expected["CIDEr-D"] = score_with_pycocoevalcap(Cider(), *tokenized)
    for name, (corpus, images) in expected.items():
        assert scores.corpus[name] == pytest.approx(corpus, abs=1e-9), name
        assert np.abs(np.array(scores.images[name]) - images).max() <= 1e-9, name


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 1), (40, 2), (1500, 3)])
def test_scores_equal_pycocoevalcap(count, seed):
    compare_with_pycocoevalcap(*make_cases(count, seed))


@pytest.mark.parametrize(("count", "seed"), [(3, 4), (400, 5)])
def test_scores_of_similar_captions_equal_pycocoevalcap(count, seed):
    compare_with_pycocoevalcap(*make_similar_cases(count, seed))


@pytest.mark.slow
@pytest.mark.parametrize("make", [make_cases, make_similar_cases])
def test_scores_of_many_captions_equal_pycocoevalcap(make):
    compare_with_pycocoevalcap(*make(10_000, seed=6))


def naive_cider(predictions, references):
    """CIDEr by the formulas of the paper: mean cosine of tf-idf vectors over n = 1 to 4 and references, times 10."""

    def count(caption, order):
        words = caption.split()
        return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))

    def cosine(first, second):
        norm = math.hypot(*first.values()) * math.hypot(*second.values())
        return sum(weight * second.get(ngram, 0) for ngram, weight in first.items()) / norm if norm else 0.0

    scores = []
    for prediction, group in zip(predictions, references, strict=True):
        total = 0.0
        for order in range(1, 5):
            documents = [{ngram for caption in other for ngram in count(caption, order)} for other in references]
            frequencies = Counter(ngram for document in documents for ngram in document)

            def weigh(caption, order=order, frequencies=frequencies):
                return {
                    ngram: times * math.log(len(references) / max(1, frequencies[ngram]))
                    for ngram, times in count(caption, order).items()
                }

            total += sum(cosine(weigh(prediction), weigh(caption)) for caption in group) / len(group)
        scores.append(10 * total / 4)
    return scores


def test_cider_is_the_formula_of_its_paper():
    predictions, references = make_cases(25, seed=7)
    scores = caption_metrics.score_captions(predictions, references, metrics=["CIDEr", "CIDEr-D"])
    assert scores.images["CIDEr"] == pytest.approx(naive_cider(predictions, references), abs=1e-9)
    assert scores.images["CIDEr"] != pytest.approx(scores.images["CIDEr-D"], abs=0.01)


def test_diversity_and_length_by_hand():
    predictions = ["A dog runs.", "a dog runs", "a dog , a cat", ""]
    scores = caption_metrics.score_captions(
        predictions, [["x"]] * 4, metrics=["diversity", "length"], training=["A dog, runs!", "a cow"]
    )
    assert scores.corpus == pytest.approx(
        {
            "distinct-1": 4 / 10,
            "distinct-2": 4 / 7,
            "vocabulary": 4,
            "unique_captions": 3 / 4,
            "novel_captions": 2 / 4,
            "length": 10 / 4,
        }
    )
    assert scores.images == {"length": [3.0, 3.0, 4.0, 0.0]}
    assert isinstance(scores.corpus["vocabulary"], int)
    assert "novel_captions" not in caption_metrics.score_captions(["a"], [["a"]], metrics=["diversity"]).corpus


def test_training_captions_are_read_some_at_a_time(monkeypatch):
    monkeypatch.setattr(diversity, "CAPTIONS_A_BLOCK", 2)
    tokenized = ["a dog", "a cat", "two cows", "a red hat"]
    training = ["A dog.", "Three cows.", "No cat", "A red hat!", "A cat"]
    assert diversity.score(tokenized, training=iter(training))["novel_captions"] == 1 / 4


def test_perfect_match_and_no_match():
    references = [["a red dog runs on grass"], ["two men sit in snow"]]
    perfect = caption_metrics.score_captions([group[0] for group in references], references, metrics=JAVA_FREE)
    for name in ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"):
        assert perfect.corpus[name] == pytest.approx(1.0, abs=1e-6)
    assert perfect.corpus["CIDEr"] == pytest.approx(10.0)
    wrong = caption_metrics.score_captions(["blue cats swim", "green birds"], references, metrics=JAVA_FREE)
    assert max(wrong.corpus.values()) < 1e-3


def test_values_worked_out_by_hand():
    # 3 of 4 words, 1 of 3 pairs; as long as the reference, so no brevity penalty.
    # The longest common subsequence "a dog sits" has 3 of 4 words in both.
    scores = caption_metrics.score_captions(["a dog sits down"], [["a dog there sits"]], metrics=["BLEU", "ROUGE-L"])
    assert scores.corpus["BLEU-1"] == pytest.approx(3 / 4)
    assert scores.corpus["BLEU-2"] == pytest.approx((3 / 4 * 1 / 3) ** 0.5)
    assert scores.corpus["ROUGE-L"] == pytest.approx(3 / 4)


def test_captions_are_tokenized_first():
    scores = caption_metrics.score_captions(["A dog, running!"], [['"a DOG" running .']], metrics=["BLEU"])
    assert scores.corpus["BLEU-3"] == pytest.approx(1.0)


def test_empty_prediction_scores_zero():
    scores = caption_metrics.score_captions(
        ["", "a dog"], [["a red cat sits"], ["a dog", "one dog"]], metrics=JAVA_FREE
    )
    for name, values in scores.images.items():
        assert values[0] == 0.0, name


def test_references_of_punctuation_only_score_zero():
    scores = caption_metrics.score_captions(["a dog", "a cat"], [["..."], ["."]], metrics=JAVA_FREE)
    assert max(scores.corpus.values()) < 1e-9


def test_nothing_is_printed(capsys):
    caption_metrics.score_captions(["a dog"], [["a dog"]], metrics=JAVA_FREE)
    assert capsys.readouterr() == ("", "")


def test_wrong_input_is_refused():
    with pytest.raises(DataError, match=r"^1 predictions for 2 images' references: give one prediction an image$"):
        caption_metrics.score_captions(["a"], [["a"], ["b"]])
    with pytest.raises(DataError, match=r"^no predictions: there is nothing to score"):
        caption_metrics.tokenize_pairs([], [])
    with pytest.raises(DataError, match=r"^2 images have no reference caption \(first: number 1\)"):
        caption_metrics.tokenize_pairs(["a", "b", "c"], [["a"], [], []])
    with pytest.raises(DataError, match=r"^references of image 0 are one string: give a list"):
        caption_metrics.tokenize_pairs(["a"], ["a dog"])
    with pytest.raises(ConfigError, match=r"^metrics: unknown WER; choose from BLEU, ROUGE-L, CIDEr-D, CIDEr, METEOR"):
        caption_metrics.score_captions(["a"], [["a"]], metrics=["WER"])


def test_importing_the_metrics_is_light():
    code = (
        "import sys, captioner.evaluation.caption_metrics; print({'evaluate', 'torch', 'datasets'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert result.stdout.strip() == "set()"
