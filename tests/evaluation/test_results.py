import json
from dataclasses import replace

import pytest
from caption_files import CAPTIONS, PHOTOS, file_name, write_json
from huggingface_hub.repocard_data import model_index_to_eval_results
from pycocoevalcap.cider.cider import Cider
from tiny_meteor import write_meteor

from captioner.errors import DataError
from captioner.evaluation import ptb, results
from captioner.evaluation.meteor import scoring as meteor
from captioner.evaluation.model_index import model_index
from captioner.evaluation.protocol import describe_set
from captioner.evaluation.references import ReferenceSet
from captioner.evaluation.result_files import compare_results, read_result, write_result
from captioner.evaluation.results import score_set

QUICK = ("BLEU", "ROUGE-L", "CIDEr-D", "CIDEr")
THEIRS = list(CAPTIONS.values())
REFERENCES = ReferenceSet("mine", "test", [file_name(number) for number in PHOTOS], list(PHOTOS.values()))


def evaluate(captions=THEIRS, references=REFERENCES, **options):
    return score_set(captions, references, describe_set(references), **{"metrics": QUICK, **options})


def write(path, evaluation, **changes):
    write_result(path, {**evaluation.summary(), **changes}, evaluation.per_image())
    return path


def test_cider_d_is_what_pycocoevalcap_calls_cider():
    evaluation = evaluate()
    by_image = {row: ptb.tokenize(texts) for row, texts in enumerate(PHOTOS.values())}
    expected, images = Cider().compute_score(by_image, {row: [text] for row, text in enumerate(CAPTIONS.values())})
    assert evaluation.metrics["CIDEr-D"] == pytest.approx(expected, abs=1e-9)
    assert evaluation.image_metrics["CIDEr-D"] == pytest.approx(list(images), abs=1e-9)
    assert evaluation.metrics["CIDEr"] != evaluation.metrics["CIDEr-D"]


def test_the_summary_says_what_is_needed_to_repeat_it():
    summary = evaluate(seed=3, notes={"model": "me/captioner"}).summary()
    expected = {
        "dataset": "mine",
        "split": "test",
        "set": "3 images, mine test",
        "images": 3,
        "references": 6,
        "references_per_image": [2, 2],
        "decoding": None,
        "tokenizer": "PTBTokenizer 3.4.1 and COCO's list of punctuation, in Python",
        "seed": 3,
        "bootstrap": {"level": 0.95, "samples": 1000, "seed": 3},
        "unavailable": {},
        "model": "me/captioner",
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["metric_versions"].keys() == summary["metrics"].keys() == summary["confidence_intervals"].keys()
    for name, (low, high) in summary["confidence_intervals"].items():
        assert low <= summary["metrics"][name] <= high


def test_novel_captions_need_captions_to_compare_with():
    known = replace(REFERENCES, training=iter(["A woman eats a cake!", "a man"]))
    found = evaluate(references=known, metrics=["diversity"])
    assert (found.metrics["novel_captions"], found.unavailable) == (2 / 3, {})
    found = evaluate(metrics=["diversity"])
    assert "novel_captions" not in found.metrics
    assert found.unavailable["novel_captions"].startswith("no training captions to compare with; ")
    assert "novel_captions" not in evaluate().unavailable


def test_an_interval_lies_around_a_score_that_is_no_mean(monkeypatch):
    """As METEOR's: the score of the set differs from the mean of the images'."""
    scored = {"M": 0.5}, {"M": [0.1, 0.3, 0.5]}
    assert evaluate(metrics=("ROUGE-L",), more=scored).intervals["M"] == pytest.approx((0.3, 0.7))


def test_metrics_without_a_score_an_image_have_no_interval():
    evaluation = evaluate(metrics=("ROUGE-L",), more=({"object_recall": 0.5}, {}))
    assert evaluation.metrics["object_recall"] == 0.5
    assert list(evaluation.intervals) == ["ROUGE-L"]


def test_a_result_file_is_read_as_it_was_written(tmp_path):
    evaluation = evaluate()
    result = read_result(write(tmp_path / "a.json", evaluation))
    assert result.metrics == evaluation.metrics
    assert sorted(result.image_ids) == sorted(REFERENCES.image_ids)
    row = result.image_ids.index(file_name(522418))
    assert result.scores.means["CIDEr-D"][row] == evaluation.image_metrics["CIDEr-D"][1]
    assert result.scores.bleu_counts[row] == evaluation.bleu_counts[1]


def test_a_result_that_cannot_be_written_leaves_the_older_file(tmp_path):
    older = write(tmp_path / "a.json", evaluate()).read_bytes()
    torn = evaluate(["\ud800 a dog", *THEIRS[1:]])
    with pytest.raises(UnicodeEncodeError):
        write(tmp_path / "a.json", torn)
    assert (tmp_path / "a.json").read_bytes() == older
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_comparing_pairs_the_images_whatever_their_order(tmp_path):
    first = read_result(write(tmp_path / "a.json", evaluate()))
    better = evaluate([texts[0] for texts in reversed(PHOTOS.values())], REFERENCES.select([2, 1, 0]))
    found = compare_results(first, read_result(write(tmp_path / "b.json", better)), shuffles=500)
    for name, difference in found.items():
        expected = better.metrics[name] - evaluate().metrics[name]
        assert difference.value == pytest.approx(expected, abs=1e-9), name
    assert list(found) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D", "CIDEr"]


def test_meteor_of_the_sets_is_compared(tmp_path, monkeypatch):
    folder = write_meteor(tmp_path)
    monkeypatch.setattr(meteor, "find_bundled_file", lambda name, metric: folder / name)
    results = [evaluate(metrics=("METEOR",)), evaluate(["a man on a cake", *THEIRS[1:]], metrics=("METEOR",))]
    files = [write(tmp_path / f"{number}.json", one) for number, one in enumerate(results)]
    scores = [one.metrics["METEOR"] for one in results]
    found = compare_results(*map(read_result, files), shuffles=200)["METEOR"]
    assert found.value == pytest.approx(scores[1] - scores[0], abs=1e-12)
    assert not found.of_images
    assert results[0].intervals["METEOR"][0] <= scores[0] <= results[0].intervals["METEOR"][1]
    # A file without the counts is compared by its images.
    content = json.loads(files[0].read_text())
    for image in content["per_image"]:
        del image["meteor_counts"]
    older = read_result(write_json(tmp_path / "older.json", content))
    found = compare_results(older, read_result(files[1]), shuffles=200)["METEOR"]
    assert found.value == pytest.approx(scores[1] - scores[0], abs=1e-12)
    assert found.of_images


def test_only_common_metrics_are_compared(tmp_path):
    first = read_result(write(tmp_path / "a.json", evaluate(metrics=("BLEU", "ROUGE-L"))))
    second = read_result(write(tmp_path / "b.json", evaluate(metrics=("ROUGE-L", "CIDEr"))))
    third = read_result(write(tmp_path / "c.json", evaluate(metrics=("BLEU",))))
    assert list(compare_results(first, second, shuffles=100)) == ["ROUGE-L"]
    with pytest.raises(DataError, match="have no metric in common"):
        compare_results(second, third)


def test_what_cannot_be_compared_is_refused(tmp_path):
    first = read_result(write(tmp_path / "a.json", evaluate()))

    def refused(evaluation, message, **changes):
        with pytest.raises(DataError, match=message):
            compare_results(first, read_result(write(tmp_path / "b.json", evaluation, **changes)))

    refused(evaluate(THEIRS[:2], REFERENCES.select([0, 1])), r"different images \(3 images, mine test; 2")
    fewer = [texts[:1] for texts in PHOTOS.values()]
    other = ReferenceSet("mine", "test", REFERENCES.image_ids, fewer)
    refused(evaluate(references=other), "same images but different reference captions")
    refused(evaluate(), "were tokenized differently", tokenizer="another")
    versions = {**evaluate().summary()["metric_versions"], "CIDEr-D": "captioner 0.0"}
    refused(evaluate(), r"different versions of CIDEr-D \(captioner .*; captioner 0.0\)", metric_versions=versions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: [], "is not a whole result file"),
        (lambda content: {}, r"is not a whole result file \(KeyError: 'format'\)"),
        (lambda content: {**content, "format": 2}, "has format 2, not 1; evaluate again"),
        (lambda content: {**content, "per_image": []}, "is not a whole result file"),
        (lambda content: {**content, "per_image": [*content["per_image"][:1], {}]}, "is not a whole result file"),
        (lambda content: {key: content[key] for key in content if key != "tokenizer"}, "KeyError: 'tokenizer'"),
    ],
)
def test_other_files_are_no_results(tmp_path, change, message):
    content = json.loads(write(tmp_path / "a.json", evaluate()).read_text())
    with pytest.raises(DataError, match=message):
        read_result(write_json(tmp_path / "b.json", change(content)))


def test_the_hub_reads_the_model_index():
    summary = evaluate().summary()
    name, found = model_index_to_eval_results(model_index("theirs", summary))
    assert name == "theirs"
    one = next(result for result in found if result.metric_name == "CIDEr-D")
    assert (one.dataset_name, one.dataset_split, one.dataset_args) == (
        "mine",
        "test",
        {"images": "3 images, mine test"},
    )
    assert one.metric_value == round(summary["metrics"]["CIDEr-D"], 4)
    interval = summary["confidence_intervals"]["CIDEr-D"]
    assert one.metric_args == {"confidence_interval_95": pytest.approx(interval, abs=1e-4)}


def test_bleu_of_the_result_is_that_of_its_counts():
    evaluation = evaluate()
    sums = results.ImageScores({}, evaluation.bleu_counts)
    found = sums.scores_of_sums(sums.matrix().sum(axis=0, keepdims=True), 3)[0]
    assert found == pytest.approx([evaluation.metrics[f"BLEU-{order}"] for order in range(1, 5)], abs=1e-9)
