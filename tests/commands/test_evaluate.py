"""`captioner evaluate`."""

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from tiny_models import end_captions

from captioner import Captioner
from captioner.commands import evaluate, prepare, train
from captioner.data import scenes
from captioner.data.training_images import TrainingImages
from captioner.models.packed_weights import choose_precision


def test_the_scores_come_with_the_decoding_settings(export, capsys):
    assert evaluate.main([str(export), "--beams", "1", "--max-length", "5", "--limit", "2"]) == 0
    captured = capsys.readouterr()
    first, *lines = captured.out.splitlines()
    assert first.startswith("test: 2 of the 3 images, photos test, greedy, ")
    assert re.search(r", 1 to 5 tokens, (fp32|bf16) on cpu$", first)
    values = {line.split()[0]: line.split()[1] for line in lines}
    assert {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D", "CIDEr", "METEOR", "ECE"} <= values.keys()
    assert values["vocabulary"].isdecimal()
    assert 0 <= float(values["novel_captions"]) <= 1
    assert (captured.out + captured.err).count("no METEOR in these tests") == 1
    assert float(values["CIDEr-D"]) >= 0


def test_a_file_of_scores_and_a_sheet_of_examples(trained, tmp_path, capsys):
    words = ["--output", str(tmp_path / "scores.json"), "--examples", str(tmp_path / "sheet.png")]
    assert evaluate.main([str(trained), "--split", "validation", *words]) == 0
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["split"] == "validation"
    assert content["decoding"]["beams"] == 2
    assert (content["precision"], content["device"]) == (choose_precision("auto", torch.device("cpu")), "cpu")
    assert content["images"] == 2
    assert content["references"] == 4
    assert [image["image_id"] for image in content["per_image"]] == ["6.png", "7.png"]
    assert content["per_image"][0]["references"] == ["a red square on a wall", "the red picture number 6"]
    assert {"BLEU-4", "CIDEr-D", "confidence"} <= content["per_image"][0]["metrics"].keys()
    assert 0 <= content["metrics"]["ECE"] <= 1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 100


def test_what_the_maximum_length_cut_off_is_counted(workshop, trained, tmp_path, capsys):
    assert evaluate.main([str(trained), "--max-length", "2", "--output", str(tmp_path / "cut.json")]) == 0
    assert "  truncated       1.0000\n" in capsys.readouterr().out
    content = json.loads((tmp_path / "cut.json").read_text())
    assert content["truncated"] == 1.0
    assert [image["truncated"] for image in content["per_image"]] == [True] * 3
    assert [image["metrics"]["confidence"] for image in content["per_image"]] == [0.0] * 3
    end_captions(Captioner.from_pretrained(trained)).save_pretrained(tmp_path / "whole")
    words = ["--data", str(workshop.data / "photos"), "--output", str(tmp_path / "whole.json")]
    assert evaluate.main([str(tmp_path / "whole"), *words]) == 0
    assert "truncated" not in capsys.readouterr().out
    assert json.loads((tmp_path / "whole.json").read_text())["truncated"] == 0.0


def test_the_precision_that_ran_is_told_once(export, tmp_path, capsys):
    output = tmp_path / "scores.json"
    words = ["--precision", "int8", "--metrics", "BLEU", "--update-card", "--output", str(output)]
    copied = shutil.copytree(export, tmp_path / "export")
    assert evaluate.main([str(copied), *words]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith(", 1 to 6 tokens, int8 on cpu")
    content = json.loads(output.read_text())
    assert (content["decoding"]["precision"], content["precision"]) == ("int8", "int8")
    assert "tokens, int8 on cpu" in (copied / "README.md").read_text()


def test_images_of_the_training_are_refused(export, told, capsys):
    assert evaluate.main([str(export), "--split", "train"]) == 2
    assert told() == (
        "error: 6 of the 6 images of split train were in the captioner's training (first: 0.png); "
        "choose another split, or give --allow-overlap\n"
    )
    assert evaluate.main([str(export), "--split", "train", "--allow-overlap"]) == 0
    assert capsys.readouterr().out.startswith("train: 6 images, photos train")


def test_a_split_goes_by_its_other_names(export, capsys):
    assert evaluate.main([str(export), "--split", "val", "--metrics", "BLEU"]) == 0
    assert capsys.readouterr().out.startswith("validation: 2 images, photos validation")


def test_a_copy_of_the_dataset_elsewhere(workshop, export, tmp_path, capsys):
    shutil.copytree(workshop.data / "photos", tmp_path / "copy")
    assert evaluate.main([str(export), "--data", str(tmp_path / "copy")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("test: 3 images, copy test")
    assert "  novel_captions  unavailable" not in shown  # the captions that it was trained on are there too
    assert evaluate.main([str(export), "--data", str(tmp_path / "copy"), "--split", "train"]) == 2
    assert "6 of the 6 images of split train were in the captioner's training" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "tset"], "the dataset has no split tset; it has train, validation, test"),
        (["--data", "data/nowhere"], "data/nowhere: no prepared dataset there; prepare it: "),
        (["--batch-size", "0"], "decoding.batch_size=0 is too small; use 1 or more"),
        (["--max-length", "99"], "decoding.max_length=99 is above decoder.max_length=12; "),
        (["--limit", "-1"], "--limit -1: use 1 or more, or leave it out for all images"),
        (["--output", "no/scores.json"], "no/scores.json: there is no folder no; make it first"),
        (["--examples", "."], ".: is a folder; name a file in it"),
        (["--beams", "many"], "--beams: invalid int value: 'many'; see captioner evaluate --help"),
    ],
)
def test_wrong_usage_is_one_line(export, words, message, told):
    assert evaluate.main([str(export), *words]) == 2
    assert told().startswith(f"error: {message}")


def test_scenes_are_measured_by_their_objects(workshop, monkeypatch, capsys):
    monkeypatch.setattr(scenes, "SPLIT_SIZES", {"train": 4, "validation": 2, "test": 2, "test_unseen": 2})
    draw = scenes.generate_scenes
    monkeypatch.setattr(scenes, "generate_scenes", lambda seed: draw(seed, scenes.SPLIT_SIZES))
    settings = replace(workshop.settings, data=replace(workshop.settings.data, name="scenes"))
    settings = replace(settings, trainer=replace(settings.trainer, run="scenes", max_steps=1))
    settings = replace(settings, tokenizer=replace(settings.tokenizer, vocabulary_size=260))
    assert train.main(["tiny"], presets={"tiny": settings}) == 0
    output = workshop.folder / "scenes.json"
    words = ["--split", "test_unseen", "--output", str(output)]
    capsys.readouterr()
    assert evaluate.main([str(workshop.checkpoints / "scenes" / "best"), *words]) == 0
    assert "\n  scene_accuracy  0." in capsys.readouterr().out
    assert all(image["metrics"]["scene_accuracy"] in (0, 1) for image in json.loads(output.read_text())["per_image"])


def test_the_result_says_of_which_images_and_training_it_is(export, tmp_path):
    output = tmp_path / "scores.json"
    words = ["--bootstrap-seed", "2", "--samples", "1", "--seed", "5", "--metrics", "CIDEr-D"]
    assert evaluate.main([str(export), "--output", str(output), *words]) == 0
    content = json.loads(output.read_text())
    assert content["set"] == "3 images, photos test"
    assert content["training_overlap"] == 0
    assert (content["seed"], content["decoding"]["seed"], content["training_seed"]) == (2, 5, 0)
    assert content["model-index"][0]["results"][0]["dataset"]["name"] == "photos"
    low, high = content["confidence_intervals"]["CIDEr-D"]
    assert low <= content["metrics"]["CIDEr-D"] <= high


def test_photos_of_the_training_are_refused_under_another_datasets_name(workshop, export, tmp_path, told, capsys):
    """The export's list tells, far from the dataset that it was trained on."""
    changed = shutil.copytree(export, tmp_path / "export")
    trained = TrainingImages.of(["1000268201_693b08cb0e.jpg"], dataset="flickr8k", fingerprint="8k")
    (changed / "training_images.json").write_text(json.dumps(trained.to_dict()))
    photos = tmp_path / "photos"
    photos.mkdir()
    rows = []
    for name, split in (("1000268201.jpg", "test"), ("2000000000.jpg", "train"), ("3000000000.jpg", "validation")):
        Image.new("RGB", (20, 16), (len(rows) * 50, 0, 0)).save(photos / name)
        rows.append(json.dumps({"image": name, "caption": "a girl climbs the stairs", "split": split}))
    (photos / "captions.jsonl").write_text("\n".join(rows))
    words = ["folder", "--root", str(photos), "--name", "other", "--data-folder", str(tmp_path / "data")]
    assert prepare.main(words) == 0
    capsys.readouterr()
    words = [str(changed), "--data", str(tmp_path / "data" / "other"), "--metrics", "BLEU"]
    assert evaluate.main(words) == 2
    assert "1 of the 1 images of split test were in the captioner's training (first: 1000268201.jpg)" in told()
    assert evaluate.main([*words, "--allow-overlap", "--output", str(tmp_path / "scores.json")]) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["training_overlap"] == 1
    assert evaluate.main([*words, "--split", "train"]) == 0


def test_the_overlap_is_counted_among_the_evaluated_images(export, tmp_path):
    changed, output = shutil.copytree(export, tmp_path / "export"), tmp_path / "scores.json"
    trained = TrainingImages.of(["10.png"], dataset="photos", fingerprint="x")
    (changed / "training_images.json").write_text(json.dumps(trained.to_dict()))
    words = [str(changed), "--allow-overlap", "--metrics", "BLEU", "--output", str(output)]
    for flags, images, overlap in (([], 3, 1), (["--limit", "3"], 3, 1), (["--limit", "2"], 2, 0)):
        assert evaluate.main([*words, *flags]) == 0
        content = json.loads(output.read_text())
        assert (content["images"], content["training_overlap"]) == (images, overlap)


@pytest.fixture
def listless(export, tmp_path):
    """Return an export without a list of its training images, which says that its dataset is called so."""

    def make(dataset: str = "photos"):
        bare = shutil.copytree(export, tmp_path / f"export of {dataset}")
        (bare / "training_images.json").unlink()
        config = json.loads((bare / "config.json").read_text())
        config["settings"]["data"].update(name=dataset, folder=str(tmp_path / "nothing"))
        (bare / "config.json").write_text(json.dumps(config))
        return str(bare)

    return make


def test_an_export_without_a_list_is_checked_against_its_dataset(export, tmp_path, told):
    bare = shutil.copytree(export, tmp_path / "export")
    (bare / "training_images.json").unlink()
    assert evaluate.main([str(bare), "--split", "train"]) == 2
    assert "6 of the 6 images of split train were in the captioner's training" in told()


def test_an_export_without_a_list_is_checked_against_its_dataset_elsewhere(workshop, listless, told, capsys):
    words = [listless(), "--data", str(workshop.data / "photos"), "--metrics", "BLEU"]
    assert evaluate.main([*words, "--split", "train"]) == 2
    assert "6 of the 6 images of split train were in the captioner's training" in told()
    assert evaluate.main(words) == 0
    assert capsys.readouterr().out.startswith("test: 3 images, photos test")


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_nobody_can_know_the_training_saw_is_refused(workshop, listless, split, tmp_path, told):
    words = [listless("elsewhere"), "--data", str(workshop.data / "photos"), "--split", split, "--metrics", "BLEU"]
    assert evaluate.main(words) == 2
    assert told() == (
        "error: the export has no list of its training images, and its dataset elsewhere is not here: nobody knows "
        f"whether it saw split {split} of photos; give --allow-overlap to evaluate on it all the same\n"
    )
    output = tmp_path / "scores.json"
    assert evaluate.main([*words, "--allow-overlap", "--output", str(output)]) == 0
    expected = "not checked: the export has no list of its training images"
    assert json.loads(output.read_text())["training_overlap"] == expected


def test_a_damaged_list_of_training_images_is_one_line(export, tmp_path, told):
    copied = shutil.copytree(export, tmp_path / "export")
    (copied / "training_images.json").write_text('{"format": 1}')
    assert evaluate.main([str(copied)]) == 2
    assert told().startswith(f"error: {copied}/training_images.json: the list of training images is damaged")


def test_scores_are_put_into_the_model_card(export, tmp_path):
    copied = shutil.copytree(export, tmp_path / "export")
    words = ["--split", "validation", "--metrics", "CIDEr-D", "--update-card"]
    assert evaluate.main([str(copied), *words]) == 0
    metrics = json.loads((copied / "metrics.json").read_text())
    assert metrics["validation"]["set"] == "2 images, photos validation"
    assert "model" not in metrics["validation"]  # the card goes to the Hub, this folder's name does not
    assert str(tmp_path) not in json.dumps(metrics)
    card = ModelCard.load(copied / "README.md")
    results = {(one.dataset_split, one.metric_name): one for one in card.data.eval_results}
    found = results["validation", "CIDEr-D"]
    assert found.metric_value == round(metrics["validation"]["metrics"]["CIDEr-D"], 4)
    assert found.dataset_args == {"images": "2 images, photos validation"}
    assert ("test", "BLEU-4") in results
    assert "| validation | 2 |" in card.text
