"""`captioner evaluate` with a dual encoder, and with document frequencies in files."""

import json

import pytest
from tiny_clip import write_clip

from captioner.commands import compare, evaluate
from captioner.data.encoded_images import EncodedImages
from captioner.data.prepared import open_prepared
from captioner.evaluation.clip_score import DualEncoder, score_captions_with_images
from captioner.evaluation.document_frequencies import DocumentFrequencies

CAPTIONS = {"8.png": "a blue square on a wall", "9.png": "the red picture", "10.png": "a green square"}
CLIP_NAMES = ["CLIPScore", "RefCLIPScore"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("models") / "small-clip"))


@pytest.fixture
def references(workshop):
    return str(workshop.data / "photos")


@pytest.fixture
def predictions(references, tmp_path):
    """The words that score captions from a file, without the predictions in the references' order."""
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps([{"image_id": name, "caption": text} for name, text in reversed(CAPTIONS.items())]))
    return ["--predictions", str(path), "--references", references]


@pytest.fixture
def evaluated(tmp_path):
    """Evaluate and return the result file's content."""

    def run(*words):
        output = tmp_path / "result.json"
        assert evaluate.main([*words, "--output", str(output)]) == 0
        return json.loads(output.read_text())

    return run


def test_captions_of_a_file_are_scored_with_the_images(references, predictions, clip, evaluated, capsys):
    content = evaluated(*predictions, "--clip", clip, "--metrics", "ROUGE-L")
    assert list(content["metrics"]) == ["ROUGE-L", *CLIP_NAMES]
    rows = open_prepared(references)["test"]
    images = [EncodedImages(rows)[row] for row in range(len(rows))]
    assert list(rows["image_id"]) == [image["image_id"] for image in content["per_image"]] == list(CAPTIONS)
    texts = list(CAPTIONS.values())
    _, expected = score_captions_with_images(DualEncoder(clip), images, texts, list(rows["captions"]))
    for name in CLIP_NAMES:
        assert [image["metrics"][name] for image in content["per_image"]] == pytest.approx(expected[name], abs=1e-6)
        assert content["metrics"][name] == pytest.approx(sum(expected[name]) / 3, abs=1e-6)
        assert content["metric_versions"][name].endswith(" (small-clip)")
        assert name in content["confidence_intervals"]
        assert f"\n  {name:<15} " in capsys.readouterr().out or name == "RefCLIPScore"
    assert content["model-index"][0]["results"]


def test_a_part_of_the_images_is_scored_with_its_own(predictions, clip, evaluated, tmp_path):
    whole = evaluated(*predictions, "--clip", clip, "--metrics", "clipscore")
    assert list(whole["metrics"]) == CLIP_NAMES
    part = tmp_path / "part.json"
    part.write_text(json.dumps([{"image_id": "10.png", "caption": CAPTIONS["10.png"]}]))
    words = ["--predictions", str(part), *predictions[2:], "--allow-different-set", "--split", "test"]
    one = evaluated(*words, "--clip", clip, "--metrics", "CLIPScore")
    assert one["per_image"][0]["metrics"] == pytest.approx(whole["per_image"][2]["metrics"], abs=1e-6)


def test_a_captioner_is_scored_with_the_images(export, clip, evaluated):
    content = evaluated(str(export), "--limit", "2", "--clip", clip, "--metrics", "BLEU,RefCLIPScore")
    assert list(content["metrics"])[-2:] == CLIP_NAMES
    assert len(content["per_image"]) == 2


def test_scores_of_other_dual_encoders_are_not_compared(predictions, clip, tmp_path, told, capsys):
    other = str(write_clip(tmp_path / "other-clip"))
    paths = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    for path, model in zip(paths, (clip, other), strict=True):
        assert evaluate.main([*predictions, "--clip", model, "--metrics", "CLIPScore", "--output", path]) == 0
    capsys.readouterr()
    assert compare.main(paths) == 2
    assert "have different versions of CLIPScore, RefCLIPScore" in told()


def test_one_image_is_weighed_by_document_frequencies_of_a_file(export, references, tmp_path, evaluated, capsys):
    frequencies = str(tmp_path / "frequencies.json.gz")
    words = ["--references", references, "--split", "train", "--save-document-frequencies", frequencies]
    assert evaluate.main(words) == 0
    assert capsys.readouterr().out == f"document frequencies of 6 images: {frequencies}\n"
    rows = open_prepared(references)["train"]
    assert DocumentFrequencies.load(frequencies) == DocumentFrequencies.count(list(rows["captions"]))

    one = tmp_path / "one.json"
    one.write_text(json.dumps([{"image_id": "8.png", "caption": "a blue square on the wall"}]))
    words = ["--predictions", str(one), "--references", references, "--allow-different-set", "--metrics", "CIDEr-D"]
    assert evaluated(*words)["metrics"]["CIDEr-D"] == 0
    assert "document frequencies of others (--document-frequencies)" in capsys.readouterr().err
    content = evaluated(*words, "--document-frequencies", frequencies)
    assert content["metrics"]["CIDEr-D"] > 0
    assert "document frequencies of 6 images, " in content["metric_versions"]["CIDEr-D"]
    assert capsys.readouterr().err == ""
    assert evaluate.main([str(export), "--document-frequencies", frequencies, "--limit", "1"]) == 0
    assert "one image weighed" not in capsys.readouterr().err


def test_the_evaluated_splits_document_frequencies_are_saved_beside_its_scores(export, predictions, tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    words = ["--metrics", "CIDEr-D", "--save-document-frequencies"]
    assert evaluate.main([*predictions, *words, str(paths[0])]) == 0
    assert evaluate.main([str(export), "--limit", "1", *words, str(paths[1])]) == 0
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert DocumentFrequencies.load(paths[0]).images == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["m", "--metrics", "BLEU,CLIPScore"],
            "--metrics CLIPScore needs a dual encoder: name one with --clip",
        ),
        (["m", "--metrics", "refclipscore"], "--metrics RefCLIPScore needs a dual encoder: name one with --clip"),
        (
            ["--predictions", "p.json", "--references", "r.json", "--clip", "x"],
            "--clip needs the images: ",
        ),
        (["m", "--save-document-frequencies", "no/x"], "no/x: there is no folder no; make it first"),
        (["--references", "r.json"], "--predictions and --references belong together; give both"),
    ],
)
def test_wrong_usage_is_one_line(words, message, told, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(words) == 2
    assert told().startswith(f"error: {message}")


def test_what_cannot_be_read_is_one_line(export, tmp_path, told):
    broken = tmp_path / "broken.json"
    broken.write_text('{"format": "captioner document frequencies 1"}')
    assert evaluate.main([str(export), "--document-frequencies", str(broken)]) == 2
    assert "broken.json: is not a file of document frequencies; write one with captioner evaluate --save-doc" in told()
    assert evaluate.main([str(export), "--clip", str(tmp_path / "nothing")]) == 2
    assert told().startswith(f"error: dual encoder {tmp_path / 'nothing'}: cannot be loaded (")
