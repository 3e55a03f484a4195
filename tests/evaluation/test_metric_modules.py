import random

import evaluate
import numpy as np
import pytest
from PIL import Image
from tiny_meteor import write_meteor

from captioner.evaluation import caption_metrics, metric_modules
from captioner.evaluation.document_frequencies import DocumentFrequencies
from captioner.evaluation.meteor import scoring as meteor

JAVA_FREE = ("BLEU", "ROUGE-L", "CIDEr-D", "CIDEr", "diversity", "length")
WORDS = ["a", "the", "dog", "cat", "man", "red", "runs", "sits", "on", "in", "grass", "snow", "ball"]


def make_cases(count, seed):
    generator = random.Random(seed)

    def caption():
        return " ".join(generator.choices(WORDS, k=generator.randint(3, 9)))

    return [caption() for _ in range(count)], [[caption() for _ in range(3)] for _ in range(count)]


def test_all_metrics_have_a_module():
    named = {kind.metric for kind in vars(metric_modules).values() if hasattr(kind, "metric")}
    assert named == {*caption_metrics.METRICS, "CLIPScore"}


class ColourEncoder:
    """A dual encoder that knows red from all else."""

    def embed_images(self, images):
        return np.array([[1.0, 0.0] if Image.open(image).getpixel((0, 0))[0] > 128 else [0.0, 1.0] for image in images])

    def embed_texts(self, texts):
        return np.array([[1.0, 0.0] if "red" in text else [0.0, 1.0] for text in texts])


def test_modules_work_offline_and_combined(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = write_meteor(tmp_path)
    monkeypatch.setattr(meteor, "find_bundled_file", lambda name, metric: folder / name)
    kinds = ("BleuMetric", "RougeLMetric", "CiderDMetric", "CiderMetric", "MeteorMetric", "SpiceMetric")
    kinds += ("DiversityMetric", "LengthMetric")
    modules = [getattr(metric_modules, kind)(cache_dir=str(tmp_path)) for kind in kinds]
    modules.append(metric_modules.ClipScoreMetric(ColourEncoder(), cache_dir=str(tmp_path)))
    predictions, references = make_cases(30, seed=5)
    predictions[0], predictions[1] = "a red ball", "a dog"
    Image.new("RGB", (2, 2), "red").save(tmp_path / "red.png")
    images = [str(tmp_path / "red.png")] * 30
    combined = evaluate.combine(modules).compute(predictions=predictions, references=references, images=images)
    assert combined.pop("SPICE") is None
    assert combined.pop("SPICE unavailable").startswith("Java is not on the PATH")
    assert combined.pop("CLIPScore") == pytest.approx(2.5 * sum("red" in text for text in predictions) / 30)
    assert 0 < combined.pop("RefCLIPScore") < 2
    expected = caption_metrics.score_captions(predictions, references, metrics=(*JAVA_FREE, "METEOR")).corpus
    assert combined == pytest.approx(expected, abs=1e-12)


def test_module_adds_up_batches(tmp_path):
    predictions, references = make_cases(20, seed=6)
    metric = metric_modules.CiderDMetric(cache_dir=str(tmp_path))
    metric.add_batch(predictions=predictions[:12], references=references[:12])
    metric.add_batch(predictions=predictions[12:], references=references[12:])
    expected = caption_metrics.score_captions(predictions, references, metrics=["CIDEr-D"]).corpus
    assert metric.compute() == pytest.approx(expected, abs=1e-12)


def test_modules_take_document_frequencies_and_training_captions(tmp_path):
    predictions, references = make_cases(20, seed=7)
    frequencies = DocumentFrequencies.count(make_cases(50, seed=8)[1])
    metric = metric_modules.CiderDMetric(document_frequencies=frequencies, cache_dir=str(tmp_path))
    expected = caption_metrics.score_captions(
        predictions, references, metrics=["CIDEr-D"], document_frequencies=frequencies
    )
    assert metric.compute(predictions=predictions, references=references) == pytest.approx(expected.corpus)
    novelty = metric_modules.DiversityMetric(training=[predictions[0].upper()], cache_dir=str(tmp_path))
    found = novelty.compute(predictions=predictions[:4], references=references[:4])
    assert found["novel_captions"] == pytest.approx(3 / 4)
