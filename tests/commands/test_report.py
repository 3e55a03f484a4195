"""`captioner report`: what the page of a run holds."""

import json
import shutil
from html.parser import HTMLParser

import pytest
from PIL import Image

from captioner.commands import report
from captioner.report.contents import make_charts, read_report
from captioner.report.page import write_page


class Page(HTMLParser):
    """Collects a page's texts and what it refers to."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.references, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.references += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("img", "meta", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        while self.open.pop() != tag:  # <br> has no end
            pass

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def run(trained, tmp_path):
    """A run that a test may change."""
    return shutil.copytree(trained, tmp_path / "run")


def read_page(run):
    text = (run / "report" / "report.html").read_text()
    return Page(text), text


def test_the_page_tells_all_of_a_run_and_needs_nothing_else(run, capsys):
    assert report.main([str(run)]) == 0
    assert capsys.readouterr().out == f"{run / 'report' / 'report.html'}\n"
    page, text = read_page(run)
    assert page.open == []
    assert len(page.references) == 3  # images of three test captions
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.references)
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    words = " ".join(page.texts)
    for told in (
        "dataset photos",
        "CIDEr-D",
        "beam search, 2 beams",
        "test: best by CIDEr-D",
        "training steps",
        "writing checkpoints",
        "data, tokenizer and encoder",
        "encoding images and captions",
        "evaluating the best",
        "decoder of 1 layers, width 16",
        "decoder.max_length",
        "a red square on a wall",
    ):
        assert told in words, told
    evaluation = json.loads((run / "evaluation-test.json").read_text())
    assert all(record["caption"] in words for record in evaluation["per_image"])
    assert text.count("<svg") >= 3


def test_a_metric_is_a_row_and_a_split_a_column(run):
    path = run / "best" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["validation"] = {**metrics["test"], "images": 1200, "metrics": {"BLEU-4": 0.25, "colours": 278}}
    path.write_text(json.dumps(metrics))
    assert report.main([str(run)]) == 0
    page, text = read_page(run)
    assert '<td>colours</td><td></td><td class="number">278</td>' in text
    assert '<td class="number">1,200</td>' in text
    assert '<td class="number">0.2500</td>' in text
    assert sum("beam search, 2 beams" in words for words in page.texts) == 1  # both splits were decoded alike


def test_the_share_of_padding_is_told(run):
    lines = [{"step": 1, "train/tokens": 6.0, "train/padding": 2.0}, {"step": 2, "train/tokens": 3, "train/padding": 1}]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in [*lines, {"step": 2, "epoch": 1}]))
    assert report.main([str(run)]) == 0
    assert "training batches, 25.0% held padding" in read_page(run)[1]
    (run / "metrics.jsonl").write_text('{"step": 1, "train/tokens": 6}\n')  # of an older run
    assert report.main([str(run)]) == 0
    assert "held padding" not in read_page(run)[1]


def test_pngs_lie_beside_the_page(run, tmp_path):
    assert report.main([str(run / "best"), "--output", str(tmp_path / "there")]) == 0
    names = {path.name for path in (tmp_path / "there").iterdir()}
    assert {"report.html", "loss.png", "CIDEr-D.png", "learning-rate.png", "captions-test.png"} <= names
    with Image.open(tmp_path / "there" / "loss.png") as image:
        assert image.format == "PNG"


def test_a_run_that_is_not_evaluated_shows_its_samples(run):
    for path in (run / "best" / "metrics.json", run / "evaluation-test.json", run / "timings.jsonl"):
        path.unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "validation/samples": ["a <b>bold</b> dog"]}) + "\n")
    assert report.main([str(run)]) == 0
    page, _ = read_page(run)
    assert "Not evaluated yet." in page.texts
    assert "a <b>bold</b> dog" in page.texts
    assert "Where the time went" not in page.texts


def test_captions_are_shown_without_the_dataset_too(run, tmp_path, capsys):
    assert report.main([str(run), "--data", str(tmp_path / "gone")]) == 0
    assert "the report has no images of test" in capsys.readouterr().err
    assert "test: best by CIDEr-D" in read_page(run)[0].texts


def test_torn_files_are_left_out_with_a_word(run, capsys):
    (run / "evaluation-test.json").write_text("{")
    (run / "best" / "model.safetensors").write_bytes(b"torn")
    assert report.main([str(run)]) == 0
    errors = capsys.readouterr().err
    assert "evaluation-test.json is left out of the report" in errors
    assert "does not tell the model's shape" in errors


SPLIT = '{"test": {"metrics": {"BLEU-4": 0.5}, "images": 3, "decoding": %s, "unavailable": {}}}'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("best/metrics.json", text) for text in ("5", "[]", "null", '{"test": 3}', '{"test": {"metrics": {}}}')),
        *(("best/metrics.json", SPLIT % decoding) for decoding in ("{}", "5", '{"new": 1}', '{"beams": "x"}')),
        ("best/metrics.json", '{"validation_at_best": null}'),
        ("best/metrics.json", '{"validation_at_best": {"CIDEr-D": 1.0}}'),
        ("best/metrics.json", '{"validation_at_best": {"step": "5", "CIDEr-D": 1.0}}'),
        ("best/metrics.json", '{"test": {"metrics": {"a": "x"}, "images": null, "decoding": {}, "unavailable": 5}}'),
        *(("evaluation-test.json", text) for text in ("5", "[]", "null", "{}", '{"split": "test", "per_image": 5}')),
        ("evaluation-test.json", '{"split": "test", "per_image": [{}, 5]}'),
        ("evaluation-test.json", '{"split": 7, "per_image": []}'),
        ("timings.jsonl", '{"training": "x"}\n{"training": null}\n{"training": -3}\n{"training": 1e999}\n[]\n5'),
        ("metrics.jsonl", '{"step": 1e999, "train/loss": 1}\n{"step": 1, "train/loss": 2}'),
        ("metrics.jsonl", f'{{"step": 1, "train/loss": {"9" * 400}}}\n{{"step": {"9" * 400}, "train/loss": 2}}'),
        ("metrics.jsonl", '{"step": 1, "train/loss": 1.7e308}\n{"step": 2, "train/loss": -1.7e308}'),
        ("metrics.jsonl", '{"step": 1, "train/loss": "x", "train/other": [], "validation/samples": 5}'),
        ("metrics.jsonl", '{"step": 1, "train/loss": 2, "validation/samples": [5, null]}'),
    ],
)
def test_a_report_leaves_out_what_is_damaged(run, name, content):
    (run / name).write_text(content)
    page = Page(write_page(read_report(run)))
    assert page.open == []
    assert "Settings" in page.texts


@pytest.mark.parametrize("values", ["5", "null", "[]", '"x"'])
def test_a_report_tells_only_what_it_understands_of_a_runs_origin(run, values):
    names = ("captioner_version", "commit", "command", "versions")
    content = json.loads((run / "settings.json").read_text())
    (run / "settings.json").write_text(json.dumps(content | {name: json.loads(values) for name in names}))
    assert Page(write_page(read_report(run))).open == []


def test_captions_that_were_not_scored_by_cider_are_told(run, caplog):
    path = run / "evaluation-test.json"
    evaluation = json.loads(path.read_text())
    for record in evaluation["per_image"][1:]:
        del record["metrics"]["CIDEr-D"]
    path.write_text(json.dumps(evaluation))
    assert len(read_report(run).examples["test"]) == 1
    assert "2 of 3 captions of evaluation-test.json are not shown" in caplog.text


def test_what_is_no_run(tmp_path, told):
    assert report.main([str(tmp_path)]) == 2
    assert "is not a run: it has no settings.json" in told()


def test_a_run_without_a_line(run, told):
    (run / "metrics.jsonl").unlink()
    assert report.main([str(run)]) == 2
    assert "has logged nothing yet" in told()


def test_training_and_validation_share_a_chart_and_what_is_no_number_has_none():
    lines = [
        {"step": 1, "epoch": 0, "learning_rate": 0.1, "train/loss": 3.0, "train/pairs": 5},
        {"step": 2, "epoch": 0, "learning_rate": 0.2, "train/loss": None},
        {"step": 2, "epoch": 1, "validation/loss": 2.0, "validation/CIDEr-D": 0.5, "validation/samples": ["a"]},
    ]
    charts = {chart.title: {line.name: list(line.points) for line in chart.lines} for chart in make_charts(lines)}
    assert charts == {
        "learning rate": {"learning_rate": [(1, 0.1), (2, 0.2)]},
        "loss": {"train": [(1, 3.0)], "validation": [(2, 2.0)]},
        "CIDEr-D": {"validation": [(2, 0.5)]},
    }
