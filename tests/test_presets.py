"""Every shipped preset is sound, and its tiny form runs from the photos to the caption."""

import io
import json
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from tiny_workshop import without_meteor

from captioner.commands import caption, evaluate, prepare, train
from captioner.data import scenes
from captioner.presets import PRESETS
from captioner.settings import Settings
from captioner.settings_checks import check_settings

SPLITS = {"train": 4, "val": 2, "test": 2}
NAMES = {
    split: [f"{place}00{number}.jpg" for number in range(size)] for place, (split, size) in enumerate(SPLITS.items())
}
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
CAPTIONS = ["A man &amp; his dog .", "A dog runs .", "Two dogs play .", "Someone is outside .", "A brown dog ."]


@pytest.fixture(autouse=True)
def _without_meteor():
    with without_meteor():
        yield


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_sound(name):
    check_settings(PRESETS[name])


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(chain.from_iterable(NAMES.values())):
        file = io.BytesIO()
        Image.new("RGB", (24, 20), (25 * number, 80, 40)).save(file, "JPEG")
        (folder / name).write_bytes(file.getvalue())


def write_flickr30k(root: Path) -> str:
    """Flickr30k's Hub layout."""
    write_images(root / "flickr30k-images")
    lines = ["raw,sentids,split,filename,img_id"]
    raw = json.dumps(CAPTIONS).replace('"', '""')
    for split, names in NAMES.items():
        lines += [f'"{raw}","[0, 1, 2, 3, 4]",{split},{name},{number}' for number, name in enumerate(names)]
    (root / "flickr_annotations_30k.csv").write_text("\n".join(lines))
    return "flickr30k"


def write_flickr8k(root: Path) -> str:
    write_images(root / "Images")
    lines = [f"{name}#{n}\t{text}" for names in NAMES.values() for name in names for n, text in enumerate(CAPTIONS)]
    (root / "Flickr8k.token.txt").write_text("\n".join(lines))
    for file, split in (("train", "train"), ("dev", "val"), ("test", "test")):
        (root / f"Flickr_8k.{file}Images.txt").write_text("\n".join(NAMES[split]))
    return "flickr8k"


def save_clip(folder: Path) -> None:
    vision = TOWER | {"patch_size": 16, "image_size": 32}
    text = TOWER | {"vocab_size": 50}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(folder)


def save_vit(folder: Path) -> None:
    transformers.ViTModel(transformers.ViTConfig(**TOWER, patch_size=16, image_size=32)).save_pretrained(folder)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)


def save_mobilenet(folder: Path) -> None:
    config = transformers.MobileNetV2Config(depth_multiplier=0.1, image_size=32, finegrained_output=False)
    transformers.MobileNetV2Model(config).save_pretrained(folder)
    crop = {"height": 32, "width": 32}
    transformers.MobileNetV2ImageProcessorPil(size={"shortest_edge": 36}, crop_size=crop).save_pretrained(folder)


def shrink(settings: Settings, folder: Path) -> Settings:
    """A preset with everything that costs time made small, and everything else as it is."""
    return replace(
        settings,
        data=replace(settings.data, folder=str(folder / "data")),
        tokenizer=replace(settings.tokenizer, vocabulary_size=280),
        decoder=replace(settings.decoder, width=16, layers=1, heads=2, max_length=12),
        trainer=replace(settings.trainer, folder=str(folder / "runs"), max_steps=2, batch_images=2, log_every=1),
        decoding=replace(settings.decoding, max_length=6, batch_size=4),
    )


def check_run(name: str, settings: Settings, folder: Path, capsys, words: tuple[str, ...] = ()) -> None:
    """Train, evaluate and caption with a tiny preset, through the commands."""
    torch.manual_seed(0)
    assert train.main([name, *words], presets={name: shrink(settings, folder)}) == 0
    run = folder / "runs" / name
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2]
    capsys.readouterr()
    # The tiny splits are not the published ones, whose names they have.
    assert evaluate.main([str(run / "best"), "--split", "validation", "--allow-different-set"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"validation: 2 images, {settings.data.name} validation, ")
    assert f", beam search, {settings.decoding.beams} beams, " in first
    picture = next(path for path in run.iterdir() if path.suffix == ".jpg")
    assert caption.main([str(picture), "--model", str(run / "best")]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert captured.err == ""


@pytest.mark.parametrize(
    ("name", "write_source", "save_encoder"),
    [
        ("flickr30k-clip", write_flickr30k, save_clip),
        ("flickr30k-vit", write_flickr30k, save_vit),
        ("flickr8k", write_flickr8k, save_mobilenet),
    ],
)
def test_a_preset_for_photos_runs_in_its_tiny_form(name, write_source, save_encoder, tmp_path, capsys):
    source = write_source(tmp_path / "source")
    save_encoder(tmp_path / "encoder")
    words = ["--root", str(tmp_path / "source"), "--data-folder", str(tmp_path / "data"), "--no-check-counts"]
    assert prepare.main([source, *words]) == 0
    check_run(name, PRESETS[name], tmp_path, capsys, words=("--encoder.name", str(tmp_path / "encoder")))


def test_scenes_runs_in_its_tiny_form(tmp_path, capsys, monkeypatch):
    sizes = {"train": 4, "validation": 2, "test": 2, "test_unseen": 2}
    draw = scenes.generate_scenes
    monkeypatch.setattr(scenes, "SPLIT_SIZES", sizes)
    monkeypatch.setattr(scenes, "generate_scenes", lambda seed: draw(seed, sizes))
    check_run("scenes", PRESETS["scenes"], tmp_path, capsys)
