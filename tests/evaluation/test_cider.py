import gzip
import json
import logging
import random

import numpy as np
import pytest

from captioner.errors import DataError
from captioner.evaluation import caption_metrics
from captioner.evaluation.cider import CiderReferences
from captioner.evaluation.document_frequencies import DocumentFrequencies

WORDS = ["a", "the", "dog", "cat", "man", "red", "runs", "sits", "on", "in", "snow", "ball", "can't", "t-shirt"]


def make_cases(count, seed):
    generator = random.Random(seed)

    def caption():
        return " ".join(generator.choices(WORDS, k=generator.randint(2, 9)))

    return [caption() for _ in range(count)], [
        [caption() for _ in range(generator.randint(1, 4))] for _ in range(count)
    ]


def cider_d(predictions, references, **options):
    scores = caption_metrics.score_captions(predictions, references, metrics=["CIDEr-D"], **options)
    return scores.images["CIDEr-D"]


def test_prepared_references_score_as_the_metric_does():
    predictions, references = make_cases(60, seed=0)
    prepared = CiderReferences(references)
    for _ in range(2):  # nothing of a call is left for the next one
        assert prepared.score(predictions).tolist() == cider_d(predictions, references)


def test_captions_of_chosen_images_get_the_scores_that_they_have_among_all():
    """As self-critical training asks: a batch of images, several captions each, weighed by the whole set."""
    predictions, references = make_cases(60, seed=1)
    prepared = CiderReferences(references)
    whole = prepared.score(predictions)
    images = [7, 3, 3, 59]
    assert prepared.score([predictions[7], predictions[3], "a dog", predictions[59]], images)[[0, 1, 3]].tolist() == (
        pytest.approx(whole[[7, 3, 59]].tolist(), abs=1e-12)
    )


def test_wrong_number_of_captions_is_refused():
    with pytest.raises(DataError, match="2 captions for 3 images: give one an image"):
        CiderReferences([["a"], ["b"], ["c"]]).score(["a", "b"])


def test_document_frequencies_of_the_same_references_change_nothing(tmp_path):
    predictions, references = make_cases(60, seed=2)
    expected = cider_d(predictions, references)
    for name in ("frequencies.json", "frequencies.json.gz"):
        DocumentFrequencies.count(references).save(tmp_path / name)
        loaded = DocumentFrequencies.load(tmp_path / name)
        assert cider_d(predictions, references, document_frequencies=loaded) == pytest.approx(expected, abs=1e-12)
        prepared = CiderReferences(references, document_frequencies=loaded)
        assert prepared.score(predictions).tolist() == pytest.approx(expected, abs=1e-12)


def test_one_image_by_the_weights_of_many_scores_as_among_them():
    predictions, references = make_cases(60, seed=3)
    expected = cider_d(predictions, references)
    frequencies = DocumentFrequencies.count(references)
    for row in (0, 31):
        alone = cider_d([predictions[row]], [references[row]], document_frequencies=frequencies)
        assert alone == pytest.approx([expected[row]], abs=1e-12)


def test_words_of_the_prediction_alone_are_weighed_too():
    frequencies = DocumentFrequencies(100, {"dog": 50, "cow": 2})
    common, rare = (
        cider_d([text], [["dog runs"]], document_frequencies=frequencies)[0] for text in ("dog dog", "dog cow")
    )
    weights = np.log([2, 50, 100])
    assert rare == pytest.approx(10 / 4 * weights[0] ** 2 / np.hypot(*weights[:2]) / np.hypot(*weights[[0, 2]]))
    assert common == pytest.approx(10 / 4 * weights[0] / 2 / np.hypot(*weights[[0, 2]]))


def test_one_image_against_itself_warns_once(caplog):
    with caplog.at_level(logging.WARNING):
        scores = caption_metrics.score_captions(["a dog"], [["a dog"]], metrics=["CIDEr-D", "CIDEr"])
    assert scores.corpus == {"CIDEr-D": 0.0, "CIDEr": 0.0}
    assert [record.getMessage() for record in caplog.records] == [
        "one image weighed by its own references: every CIDEr is 0; score more images, or give document frequencies "
        "of others (--document-frequencies)"
    ]


def test_unreadable_frequencies_are_refused(tmp_path):
    path = tmp_path / "frequencies.json"
    with pytest.raises(DataError, match=r"cannot be read as document frequencies \(.*No such file"):
        DocumentFrequencies.load(path)
    for content in (b"{", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as document frequencies"):
            DocumentFrequencies.load(path)
    for content in (b"[1]", b"{}"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="is not a file of document frequencies"):
            DocumentFrequencies.load(path)
    whole = gzip.compress(b"{}" * 99)
    for damaged in (whole[:20], whole[:10] + b"\xff" * 8 + whole[18:]):
        (tmp_path / "frequencies.json.gz").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read as document frequencies"):
            DocumentFrequencies.load(tmp_path / "frequencies.json.gz")


@pytest.mark.parametrize(
    ("images", "frequencies"),
    [("x", [1]), (0, {}), (-3, {}), (True, {}), (2.0, {}), (2, [["dog", 2]]), (2, {"dog": "2"}), (2, {"dog": False})],
)
def test_damaged_frequencies_are_refused(tmp_path, images, frequencies):
    path = tmp_path / "frequencies.json"
    DocumentFrequencies(2, {"dog": 2}).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": images, "frequencies": frequencies}))
    with pytest.raises(DataError, match=r"frequencies.json: is damaged: its images and frequencies have to be whole"):
        DocumentFrequencies.load(path)
