import random

import pytest
from pycocoevalcap.bleu.bleu import Bleu

from captioner.evaluation import bleu
from captioner.evaluation.caption_metrics import CaptionPairs

WORDS = ["a", "the", "dog", "cat", "man", "red", "runs", "sits", "on", "in"]


def make_cases(count, seed):
    generator = random.Random(seed)

    def caption(least):
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(least, 10)))

    return [caption(0) for _ in range(count)], [[caption(1) for _ in range(3)] for _ in range(count)]


def count(predictions, references):
    return bleu.count(CaptionPairs(predictions, references).matches)


def bleu_of_pycocoevalcap(predictions, references):
    by_image = dict(enumerate(references))
    scores, _ = Bleu(4).compute_score(by_image, {row: [text] for row, text in enumerate(predictions)}, verbose=0)
    return scores


def test_counts_worked_out_by_hand():
    # "a dog" is twice in the prediction and once in a reference; of 3 and 5 words, as near to 4, the fewer count.
    counts = count(["a dog a dog"], [["a dog runs", "the a dog there a"]])
    assert counts.tolist() == [[3, 1, 0, 0, 4, 3, 2, 1, 3]]


@pytest.mark.parametrize("seed", range(3))
def test_bleu_of_summed_counts_is_pycocoevalcaps_of_the_selected_images(seed):
    predictions, references = make_cases(60, seed)
    counts = count(predictions, references)
    generator = random.Random(seed)
    for rows in (range(60), [generator.randrange(60) for _ in range(60)], [5]):
        expected = bleu_of_pycocoevalcap([predictions[row] for row in rows], [references[row] for row in rows])
        found = bleu.score(counts[list(rows)].sum(axis=0, keepdims=True))
        assert found[0] == pytest.approx(expected, abs=1e-12)


def test_empty_captions_score_nothing():
    assert bleu.score(count([""], [["a dog"]]))[0] == pytest.approx([0] * 4)
