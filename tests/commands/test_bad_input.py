"""What a new user may get wrong: one line that names the thing and the remedy, and nothing is lost."""

import errno
import json
import resource
import shutil
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from captioner.commands import caption, evaluate, prepare, train
from captioner.data import feature_shards
from captioner.settings import Settings


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three captioned images of noise, whose files are some kilobytes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.effect_noise((64, 64), 90 + number).convert("RGB").save(folder / f"{number}.jpg", quality=95)
    write_captions(folder, [f"a picture of noise number {number}" for number in range(3)])
    return folder


def write_captions(folder: Path, captions: list[str]) -> None:
    rows = [{"image": f"{number}.jpg", "captions": [text]} for number, text in enumerate(captions)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))


def prepare_photos(photos: Path) -> int:
    return prepare.main(["folder", "--root", str(photos), "--data-folder", str(photos.parent / "data")])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_missing_folder(tmp_path, told):
    assert prepare_photos(tmp_path / "nowhere") == 2
    assert told() == f"error: {tmp_path / 'nowhere'}: no such folder; check --root\n"


def test_captions_with_a_trailing_comma(photos, told):
    path = photos / "captions.jsonl"
    path.write_text(path.read_text().replace('"]}', '"],}', 1))
    assert prepare_photos(photos) == 2
    line = told()
    assert line.startswith("error: captions.jsonl: is not JSON (line 1, column ")
    assert "a comma before the closing bracket); correct it there" in line


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(lambda data: b"I am a text", "is not an image in a known format"), (lambda data: data[:900], "truncated")],
)
def test_a_damaged_image(photos, damage, reason, told):
    path = photos / "1.jpg"
    path.write_bytes(damage(path.read_bytes()))
    assert prepare_photos(photos) == 2
    line = told()
    assert line.startswith("error: 1.jpg: ")
    assert reason in line
    assert not (photos.parent / "data" / "photos").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [("word " * 1000, "caption 1 has 4,999 characters; the limit is 1,000"), ("", "caption 1 is empty")],
)
def test_a_caption_that_is_none(photos, text, reason, told):
    write_captions(photos, ["a picture", text, "another picture"])
    assert prepare_photos(photos) == 2
    assert told().startswith(f"error: 1.jpg: {reason}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokenizer.vocabulary-size", "10"], "tokenizer.vocabulary_size=10 is too small; use 260 or more"),
        (["--optim.lr", "abc"], "--optim.lr abc: not a number; use one"),
        (["--optim.leaning-rate", "1"], "--optim.leaning-rate: no such flag; "),
        (["--data.name", "nowhere"], "is not a prepared dataset; run `python prepare_dataset.py folder --root "),
        (["--encoder.config", "", "--encoder.name", "./nowhere"], "encoder.name=./nowhere: no such folder; "),
        (["--resume", "nowhere"], "nowhere is not a run: it has no settings.json; name a folder like checkpoints/"),
    ],
)
def test_wrong_settings_of_a_training(workshop, words, message, told):
    before = sorted(workshop.folder.rglob("*"))
    assert workshop.train("--trainer.run", "bad", *words) == 2
    assert message in told()
    assert sorted(workshop.folder.rglob("*")) == before


def test_an_unknown_preset(told):
    assert train.main(["flickr30k-clop"]) == 2
    assert told().startswith("error: flickr30k-clop: no such preset; did you mean flickr30k-clip? there are scenes, ")


@pytest.fixture
def broken(export, tmp_path) -> Path:
    """An export that a test may break."""
    shutil.copytree(export, tmp_path / "broken")
    return tmp_path / "broken"


@pytest.mark.parametrize("command", ["caption", "evaluate"])
def test_an_export_without_weights(broken, photos, command, told):
    (broken / "model.safetensors").unlink()
    assert use(command, broken, photos) == 2
    assert told().startswith(f"error: {broken} has no model.safetensors: the export is incomplete; ")


@pytest.mark.parametrize("command", ["caption", "evaluate"])
def test_an_export_of_another_version(broken, photos, command, told):
    path = broken / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99, "captioner_version": "9.0"}))
    assert use(command, broken, photos) == 2
    assert told().startswith(f"error: {broken} was exported in format 99 by captioner 9.0, this one reads format 1; ")


def use(command: str, model: Path, photos: Path) -> int:
    if command == "caption":
        return caption.main([str(photos / "0.jpg"), "--model", str(model)])
    return evaluate.main([str(model)])


def test_a_run_whose_checkpoint_has_no_weights(workshop, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "step-00000002" / "model.safetensors").unlink()
    before = contents(tmp_path)
    assert workshop.train("--resume", str(tmp_path / "run")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"{tmp_path / 'run' / 'step-00000002'} is not a whole checkpoint (")
    assert lines[1:] == [
        f"error: {tmp_path / 'run'} holds no whole checkpoint to resume; name a run's folder, "
        "or train anew with --trainer.overwrite"
    ]
    assert contents(tmp_path) == before


# A full disk ----------------------------------------------------------------------------------------------------------


@contextmanager
def no_room_above(size: int) -> Iterator[None]:
    """Until the end, no file grows beyond so many bytes, whoever writes it: Python, Arrow or safetensors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_preparing(photos, told):
    with no_room_above(4000):
        assert prepare_photos(photos) == 2
    line = told()
    assert line.startswith(
        f"error: {photos.parent / 'data' / 'photos'}: the disk is full; preparing folder needs about"
    )
    assert "free some, or use --data-folder" in line
    assert list((photos.parent / "data").iterdir()) == []


def frozen(settings: Settings, **trainer) -> Settings:
    encoder = replace(settings.encoder, trainable=False, image_size=32)
    return replace(settings, encoder=encoder, trainer=replace(settings.trainer, **trainer))


def test_a_full_disk_before_the_features(workshop, monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(feature_shards.shutil, "disk_usage", lambda folder: usage(10**9, 10**9, 10))
    assert train.main(["tiny"], presets={"tiny": frozen(workshop.settings, run="features")}) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: {workshop.data / 'photos' / 'features'}")
    assert "no space left on this disk: the features still to be written take " in line
    assert not (workshop.checkpoints / "features").exists()


def test_a_full_disk_while_writing_features(workshop, monkeypatch, capsys):
    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    settings = frozen(workshop.settings, run="features")
    with monkeypatch.context() as patch:
        patch.setattr(feature_shards.os, "fsync", fail)
        assert train.main(["tiny"], presets={"tiny": settings}) == 2
    assert "no space left on this disk" in capsys.readouterr().err.splitlines()[-1]
    assert train.main(["tiny"], presets={"tiny": settings}) == 0


def test_a_full_disk_for_checkpoint_and_export(workshop, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    before = contents(tmp_path / "run" / "best") | contents(tmp_path / "run" / "step-00000002")
    words = ["--resume", str(tmp_path / "run"), "--trainer.max-steps", "3"]
    size = (trained / "best" / "model.safetensors").stat().st_size
    with no_room_above(size // 2):
        assert workshop.train(*words) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    assert "no checkpoint at step 3" in errors
    last = errors.splitlines()[-1]
    assert last.startswith(f"error: the test figures could not be written to {tmp_path / 'run' / 'best'} (")
    # Going on with the training would be to take the third step again.
    assert last.endswith(f"); free some space and go on with: captioner evaluate {tmp_path / 'run/best'} --update-card")
    assert {path: path.read_bytes() for path in before} == before
    assert workshop.train(*words) == 0
    assert (tmp_path / "run" / "step-00000003").is_dir()


def test_a_full_disk_while_captioning(export, photos, monkeypatch, told):
    monkeypatch.chdir(photos)
    with no_room_above(60):
        assert caption.main([".", "--model", str(export), "--output", "out.jsonl"]) == 2
    assert told().startswith("error: no space left on the disk of ")
    assert caption.main([".", "--model", str(export), "--output", "out.jsonl"]) == 0
    paths = [json.loads(line)["path"] for line in Path("out.jsonl").read_text().splitlines()]
    assert paths == ["0.jpg", "1.jpg", "2.jpg"]
