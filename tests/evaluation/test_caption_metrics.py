import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import time

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioner.errors import ConfigError, DataError
from captioner.evaluation import caption_metrics, meteor

WORDS = ["a", "the", "dog", "cat", "man", "red", "runs", "sits", "on", "in", "grass", "snow", "ball", "with", "two"]
JAVA_FREE = ("BLEU", "ROUGE-L", "CIDEr")


def make_cases(count, seed):
    """Random captions; some predictions are empty, some references are too, image counts and lengths vary."""
    generator = random.Random(seed)

    def caption(least):
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(least, 12)))

    predictions = [caption(0) for _ in range(count)]
    references = [[caption(1) for _ in range(generator.randint(1, 5))] for _ in range(count)]
    references[0][0] = ""
    return predictions, references


def score_with_pycocoevalcap(scorer, predictions, references):
    by_image = dict(enumerate(references))
    with contextlib.redirect_stdout(io.StringIO()):
        return scorer.compute_score(by_image, {index: [caption] for index, caption in enumerate(predictions)})


@pytest.mark.parametrize(("count", "seed"), [(1, 0), (2, 1), (40, 2), (300, 3)])
def test_scores_equal_pycocoevalcap(count, seed):
    predictions, references = make_cases(count, seed)
    scores = caption_metrics.score_captions(predictions, references, metrics=JAVA_FREE)

    bleu, bleu_images = score_with_pycocoevalcap(Bleu(4), predictions, references)
    for order in range(4):
        assert scores.corpus[f"BLEU-{order + 1}"] == pytest.approx(bleu[order], abs=1e-9)
        assert scores.images[f"BLEU-{order + 1}"] == pytest.approx(bleu_images[order], abs=1e-9)
    for name, scorer in (("ROUGE-L", Rouge()), ("CIDEr", Cider())):
        corpus, images = score_with_pycocoevalcap(scorer, predictions, references)
        assert scores.corpus[name] == pytest.approx(corpus, abs=1e-9)
        assert scores.images[name] == pytest.approx(list(images), abs=1e-9)
    assert caption_metrics.cider(predictions, references) == scores.corpus["CIDEr"]
    assert scores.unavailable == {}


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
        caption_metrics.cider([], [])
    with pytest.raises(DataError, match=r"^2 images have no reference caption \(first: number 1\)"):
        caption_metrics.cider(["a", "b", "c"], [["a"], [], []])
    with pytest.raises(DataError, match=r"^references of image 0 are one string: give a list"):
        caption_metrics.cider(["a"], ["a dog"])
    with pytest.raises(ConfigError, match=r"^metrics: unknown SPICE; choose from BLEU, ROUGE-L, CIDEr, METEOR$"):
        caption_metrics.score_captions(["a"], [["a"]], metrics=["SPICE"])


def fake_java(folder, monkeypatch, script):
    """Put a program called java in front of, or instead of, the real one."""
    program = folder / "java"
    program.write_text(f"#!{sys.executable}\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def score_all(predictions=("a dog runs", "a cat"), references=(("a dog runs",), ("the cat sits",))):
    return caption_metrics.score_captions(predictions, references)


def test_missing_java_costs_no_other_metric(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    scores = score_all()
    assert scores.unavailable == {"METEOR": "Java is not on the PATH; install Java 8 or newer for METEOR"}
    assert set(scores.corpus) == {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("import sys; sys.exit('Could not reserve enough space for the heap')", "the METEOR program failed: Could not"),
        ("pass", "the METEOR program failed: "),
        ("print('nonsense'); input()\nfor _ in range(9): print('nonsense')", "the METEOR program failed: could not"),
    ],
)
def test_failing_java_costs_no_other_metric(monkeypatch, tmp_path, script, reason):
    fake_java(tmp_path, monkeypatch, script)
    scores = score_all()
    assert scores.unavailable["METEOR"].startswith(reason)
    assert "CIDEr" in scores.corpus
    assert "METEOR" not in scores.corpus


def test_hanging_java_is_stopped(monkeypatch, tmp_path):
    fake_java(tmp_path, monkeypatch, "import time; time.sleep(600)")
    monkeypatch.setattr(meteor, "STARTUP_SECONDS", 0.5)
    began = time.monotonic()
    scores = score_all()
    assert time.monotonic() - began < 30
    assert scores.unavailable == {"METEOR": "Java was stopped after 2 seconds without METEOR"}
    assert "CIDEr" in scores.corpus


METEOR_PROGRAM = """
import sys
for line in sys.stdin:
    verb, *fields = line.rstrip("\\n").split(" ||| ")
    if verb == "SCORE":
        print(len(fields), flush=True)
    else:
        for field in fields: print(int(field) / 10)
        print(0.5, flush=True)
"""


def test_meteor_exchange(monkeypatch, tmp_path):
    """The program gets each image's references and prediction, then the statistics of all."""
    fake_java(tmp_path, monkeypatch, METEOR_PROGRAM)
    corpus, images = meteor.score(["a dog", ""], [["x ||| y", "z"], ["w"]])
    assert corpus == 0.5
    assert images == [0.3, 0.2]


def has_working_java():
    java = shutil.which("java")
    return bool(java) and subprocess.run([java, "-version"], capture_output=True, timeout=60).returncode == 0


@pytest.mark.slow
def test_meteor_of_the_real_program():
    """Known values of the real jar where Java runs; elsewhere, that its absence is reported."""
    scores = caption_metrics.score_captions(["a cat on a mat", ""], [["a cat on a mat"], ["a dog"]], metrics=["METEOR"])
    if has_working_java():
        assert scores.images["METEOR"] == pytest.approx([1.0, 0.0])
    else:
        assert "METEOR" in scores.unavailable


def test_importing_the_metrics_is_light():
    code = (
        "import sys, captioner.evaluation.caption_metrics; print({'evaluate', 'torch', 'datasets'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert result.stdout.strip() == "set()"


def test_evaluate_modules_work_offline_and_combined(tmp_path, monkeypatch):
    import evaluate

    from captioner.evaluation.metric_modules import BleuMetric, CiderMetric, MeteorMetric, RougeLMetric

    monkeypatch.setenv("PATH", str(tmp_path))
    modules = [kind(cache_dir=str(tmp_path)) for kind in (BleuMetric, RougeLMetric, CiderMetric, MeteorMetric)]
    predictions, references = make_cases(30, seed=5)
    expected = caption_metrics.score_captions(predictions, references, metrics=JAVA_FREE).corpus
    combined = evaluate.combine(modules).compute(predictions=predictions, references=references)
    assert combined.pop("METEOR") is None
    assert combined.pop("METEOR unavailable").startswith("Java is not on the PATH")
    assert combined == pytest.approx(expected, abs=1e-12)


def test_evaluate_module_adds_up_batches(tmp_path):
    from captioner.evaluation.metric_modules import CiderMetric

    predictions, references = make_cases(20, seed=6)
    metric = CiderMetric(cache_dir=str(tmp_path))
    metric.add_batch(predictions=predictions[:12], references=references[:12])
    metric.add_batch(predictions=predictions[12:], references=references[12:])
    assert metric.compute() == pytest.approx({"CIDEr": caption_metrics.cider(predictions, references)}, abs=1e-12)
