"""`captioner evaluate`."""

import json
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from captioner.commands import evaluate, train
from captioner.data import scenes


def test_the_scores_come_with_the_decoding_settings(export, capsys):
    assert evaluate.main([str(export), "--beams", "1", "--max-length", "5", "--limit", "2"]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("test: 2 of the 3 images, photos test, greedy, ")
    assert first.endswith(", 1 to 5 tokens")
    values = {line.split()[0]: line.split()[1] for line in lines}
    assert {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr", "CIDEr-D", "METEOR"} == values.keys()
    assert float(values["CIDEr"]) >= 0


def test_a_file_of_scores_and_a_sheet_of_examples(trained, tmp_path, capsys):
    words = ["--output", str(tmp_path / "scores.json"), "--examples", str(tmp_path / "sheet.png")]
    assert evaluate.main([str(trained), "--split", "validation", *words]) == 0
    content = json.loads((tmp_path / "scores.json").read_text())
    assert content["split"] == "validation"
    assert content["decoding"]["beams"] == 2
    assert content["images"] == 2
    assert content["references"] == 4
    assert [image["image_id"] for image in content["per_image"]] == ["6.png", "7.png"]
    assert content["per_image"][0]["references"] == ["a red square on a wall", "the red picture number 6"]
    assert {"BLEU-4", "CIDEr"} <= content["per_image"][0]["metrics"].keys()
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 100


def test_images_of_the_training_are_refused(export, told, capsys):
    assert evaluate.main([str(export), "--split", "train"]) == 2
    assert told() == (
        "error: 6 of the 6 images of split train were in the captioner's training (first: 0.png); "
        "choose another split, or give --allow-overlap\n"
    )
    assert evaluate.main([str(export), "--split", "train", "--allow-overlap"]) == 0
    assert capsys.readouterr().out.startswith("train: 6 images, photos train")


def test_a_copy_of_the_dataset_elsewhere(workshop, export, tmp_path, capsys):
    shutil.copytree(workshop.data / "photos", tmp_path / "copy")
    assert evaluate.main([str(export), "--data", str(tmp_path / "copy")]) == 0
    assert capsys.readouterr().out.startswith("test: 3 images, copy test")
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
