"""`captioner train --resume me/captioner`: a run whose disk is lost goes on from the Hub as if nothing had been."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from hub_stand_in import LOOPBACK
from PIL import Image
from tiny_workshop import write_photos

from captioner import Captioner, uploads
from captioner.commands import evaluate, prepare, push
from captioner.export_writing import write_encoder
from captioner.hub import upload
from captioner.models.encoders import load_encoder
from captioner.models.image_processors import load_processor
from captioner.run_folder import read_settings
from captioner.training import loop
from captioner.training.checkpoint import find_checkpoint

pytestmark = LOOPBACK
LONG = ("--trainer.max-steps", "0", "--trainer.epochs", "3", "--trainer.save-every", "2", "--optim.ema", "0.9")
TO_HUB = ("--hub.repo-id", "me/captioner", "--hub.checkpoints", "--trainer.run", "lost", *LONG)


class InThisProcess:
    """An upload as UploadProcess does it, without a process of its own, which is tested in test_uploads.py."""

    def __init__(self, settings) -> None:
        self.settings = settings

    def __call__(self, folder, message):
        return upload(folder, self.settings.repo_id, private=self.settings.private, commit_message=message)

    def stop(self):
        pass


@pytest.fixture(autouse=True)
def _uploads_in_this_process(monkeypatch):
    monkeypatch.setattr(uploads, "UploadProcess", InThisProcess)


@pytest.fixture
def resume(workshop, tmp_path, monkeypatch):
    """`captioner train --resume NAME …` on another machine, which has the prepared data; returns status and run."""

    def resume(name: str, *words: str) -> tuple[int, Path]:
        monkeypatch.chdir(tmp_path)
        status = workshop.train("--resume", name, "--data.folder", str(workshop.data), *words)
        return status, tmp_path / "checkpoints" / name.split("/")[1]

    return resume


def outcome(run: Path) -> dict[str, bytes]:
    """The contents of the newest checkpoint, of the best model's weights and figures, and of metrics.jsonl."""
    newest, _ = find_checkpoint(run)
    paths = [path for path in newest.iterdir() if path.name != "settings.json"]  # it tells of command lines
    paths += [run / "best/model.safetensors", run / "best/metrics.json", run / "metrics.jsonl"]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def with_local_encoder(workshop, folder: Path) -> list[str]:
    """Flags that train with a frozen encoder of a folder, which is made here."""
    settings = workshop.settings.encoder
    write_encoder(load_encoder(settings), load_processor(settings), folder)
    return ["--encoder.config", "", "--encoder.no-trainable", "--encoder.name", str(folder)]


def steps_on_the_hub(files) -> set[str]:
    return {found[1] for name in files if (found := re.match(r"training/(step-\d+)/", name))}


def lose_machine(workshop, hub, *words: str, checkpoints: int) -> None:
    """Train until so many checkpoints are written and the last one is on the Hub; then all on the disk is gone."""
    save, saved = loop._Fit._save, []

    def save_and_die(fit):
        saved.append(save(fit))
        if len(saved) == checkpoints:
            while not any(saved[-1].name in steps_on_the_hub(found.files) for found in hub.repositories.values()):
                time.sleep(0.01)
            raise SystemError("the machine is gone")
        return saved[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Fit, "_save", save_and_die)
        with pytest.raises(SystemError):
            workshop.train(*TO_HUB, *words)
    shutil.rmtree(workshop.checkpoints / "lost", ignore_errors=True)  # the upload may be removing its copy itself


@pytest.fixture(scope="module")
def whole(workshop) -> dict[str, bytes]:
    """What a run leaves that nothing interrupted."""
    assert workshop.train("--trainer.run", "whole", *LONG) == 0
    return outcome(workshop.checkpoints / "whole")


@pytest.mark.parametrize("checkpoints", [1, 3])  # within the first epoch, before there is a best; within the second
def test_a_lost_run_goes_on_from_the_hub_exactly(workshop, hub, whole, resume, checkpoints, capsys):
    lose_machine(workshop, hub, checkpoints=checkpoints)
    before = steps_on_the_hub(hub.repositories["me/captioner"].files)
    status, run = resume("me/captioner")
    assert status == 0
    assert outcome(run) == whole
    assert f"me/captioner gives {before.pop()}; the run goes on exactly" in capsys.readouterr().err
    # It goes on uploading, and the Hub has the newest checkpoint only, at any time.
    repository = hub.repositories["me/captioner"]
    assert all(len(steps_on_the_hub(files)) <= 1 for files in repository.commits.values())
    assert steps_on_the_hub(repository.files) == {"step-00000009"}
    assert Captioner.from_pretrained("me/captioner").metrics["test"]["images"] == 3
    sent = b"".join(hub.bodies)
    for private in (str(workshop.folder), str(run.parent), "captioner train"):
        assert private.encode() not in sent


def test_the_encoder_of_a_folder_that_is_lost_too_comes_from_the_hub(workshop, hub, resume, tmp_path):
    words = with_local_encoder(workshop, tmp_path / "encoders" / "tiny-resnet")
    assert workshop.train("--trainer.run", "whole-cached", *LONG, *words) == 0
    lose_machine(workshop, hub, *words, checkpoints=1)
    shutil.rmtree(tmp_path / "encoders")
    status, run = resume("me/captioner")
    assert status == 0
    assert outcome(run) == outcome(workshop.checkpoints / "whole-cached")
    assert read_settings(run)[1].encoder.name == "checkpoints/captioner/encoder/tiny-resnet"


def test_a_polite_kill_leaves_the_newest_state_on_the_hub(workshop, hub, monkeypatch, capsys):
    step = loop._Fit._step

    def step_and_stop(fit, *arguments):
        step(fit, *arguments)
        if fit.state.step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop._Fit, "_step", step_and_stop)
    words = ["--trainer.run", "stopped", "--hub.repo-id", "me/captioner", "--hub.checkpoints"]
    assert workshop.train(*words) == 0
    assert steps_on_the_hub(hub.repositories["me/captioner"].files) == {"step-00000001"}
    assert "stopped by SIGTERM" in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def shared(trained, hub):
    """A finished run on the Hub, pushed by hand with its checkpoint."""
    assert push.main([str(trained), "me/captioner", "--checkpoint"]) == 0
    return hub.repositories["me/captioner"]


def test_a_run_is_pushed_by_hand(shared, trained, resume):
    assert steps_on_the_hub(shared.files) == {"step-00000002"}
    assert shared.files["training/metrics.jsonl"] == (trained / "metrics.jsonl").read_bytes()
    status, run = resume("me/captioner", "--hub.repo-id", "", "--trainer.max-steps", "3", "--trainer.run", "mine")
    assert status == 0
    assert (run.with_name("mine") / "step-00000003").is_dir()
    assert not run.exists()


def test_an_exact_resume_with_another_dataset_is_refused(shared, resume, capsys):
    capsys.readouterr()
    status, run = resume("me/captioner", "--data.name", "other", "--decoder.width", "32")
    assert status == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "the run cannot go on with data.name: 'photos' -> 'other'" in line
    assert "the run cannot go on with decoder.width: 16 -> 32" in line
    assert not run.parent.exists()


def test_other_data_under_the_same_name_are_refused(workshop, shared, resume, tmp_path, capsys):
    write_photos(tmp_path / "photos")
    captions = tmp_path / "photos" / "captions.jsonl"
    captions.write_text(captions.read_text().replace("wall", "hill"))
    assert prepare.main(["folder", "--root", str(tmp_path / "photos"), "--data-folder", str(tmp_path / "data")]) == 0
    capsys.readouterr()
    status, run = resume("me/captioner", "--data.folder", str(tmp_path / "data"))
    assert status == 2
    line = capsys.readouterr().err.splitlines()[-1]
    newest = Path("checkpoints/captioner/step-00000002")
    assert line.startswith(f"error: {newest} was trained with another dataset of the name photos (fingerprint ")
    status, _ = resume(str(run))  # with the data it was trained on
    assert status == 0


@pytest.mark.parametrize("name", ["model.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_refused(shared, resume, name, capsys):
    path = f"training/step-00000002/{name}"
    shared.files[path] = shared.files[path].replace(b"e", b"f", 1)
    capsys.readouterr()
    status, run = resume("me/captioner")
    assert status == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: me/captioner has no checkpoint to go on from (")
    assert line.endswith("; upload one with `captioner push RUN me/captioner --checkpoint`")
    assert not run.parent.exists()


@pytest.fixture(scope="module")
def others(workshop) -> list[str]:
    """More datasets, with images and words of their own."""
    names = ["animals", "plants"]
    for number, name in enumerate(names):
        folder = workshop.folder / name
        folder.mkdir()
        rows = ["image,caption,split"]
        for row, split in enumerate(["train", "train", "validation", "test"]):
            Image.new("RGB", (20, 16), (row * 60, 200, number * 90)).save(folder / f"{name}-{row}.png")
            rows.append(f"{name}-{row}.png,one of the {name} number {row},{split}")
        (folder / "captions.csv").write_text("\n".join(rows))
        words = ["--root", str(folder), "--name", name, "--data-folder", str(workshop.data)]
        assert prepare.main(["folder", *words]) == 0
    return names


def test_weights_go_on_learning_from_other_data_and_their_images_stay_known(
    workshop, trained, others, hub, resume, capsys
):
    """Two generations: `photos`, then `animals`, then `plants`."""
    assert push.main([str(trained), "me/photos"]) == 0
    tokenizer = hub.repositories["me/photos"].files["tokenizer.json"]
    previous = "photos"
    for name in others:
        capsys.readouterr()
        status, run = resume(f"me/{previous}", "--data.name", name, "--trainer.max-steps", "1")
        assert status == 0
        said = f"me/{previous} gives its weights, tokenizer and settings to a new run on {name} (it was trained on "
        assert said + f"{previous}); the optimizer and the schedule begin anew" in capsys.readouterr().err
        assert (run / "best" / "tokenizer.json").read_bytes() == tokenizer
        assert push.main([str(run), f"me/{name}"]) == 0
        previous = name
    for name in ("photos", *others):
        data = ["--data", str(workshop.data / name), "--split", "train"]
        assert evaluate.main(["me/plants", *data]) == 2
        assert "were in the captioner's training" in capsys.readouterr().err
    assert evaluate.main(["me/plants", "--data", str(workshop.data / "animals"), "--split", "test"]) == 0


def test_the_encoder_within_an_export_goes_on_too(workshop, others, hub, resume, tmp_path):
    words = with_local_encoder(workshop, tmp_path / "encoders" / "tiny-resnet")
    assert workshop.train("--trainer.run", "of-a-folder", *words) == 0
    assert push.main([str(workshop.checkpoints / "of-a-folder"), "me/captioner"]) == 0
    shutil.rmtree(tmp_path / "encoders")
    status, run = resume("me/captioner", "--data.name", "plants", "--trainer.max-steps", "1")
    assert status == 0
    before, after = (Captioner.from_pretrained(place) for place in ("me/captioner", run))
    weights = after.model.encoder.state_dict()
    assert all(tensor.equal(weights[name]) for name, tensor in before.model.encoder.state_dict().items())
    assert after.processor.to_dict() == before.processor.to_dict()


def test_another_network_is_refused(trained, hub, resume, capsys):
    assert push.main([str(trained), "me/captioner"]) == 0
    capsys.readouterr()
    status, run = resume("me/captioner", "--data.name", "other", "--decoder.width", "32")
    assert status == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "decoder.width: 16 -> 32" in line
    assert "data.name" not in line
    assert not run.parent.exists()
