"""What leaves this machine of a run: all that a resume takes, and nothing that tells of the machine."""

import json
import os
from dataclasses import replace

import pytest
from tiny_models import make_captioner

from captioner.data.training_images import TrainingImages
from captioner.export_writing import write_encoder
from captioner.publish import export
from captioner.run_folder import write_settings
from captioner.settings import EncoderSettings
from captioner.sharing import write_shared_copy
from captioner.training.checkpoint import find_checkpoint, read_documents, save_checkpoint


@pytest.fixture
def run(tiny_captioner, tmp_path, monkeypatch):
    """A run with an export and a checkpoint, started by a command line with paths."""
    monkeypatch.setattr("sys.argv", ["/home/me/private/train.py", "tiny", "--data.root", "/home/me/private/photos"])
    run = tmp_path / "private" / "run"
    write_settings(run, tiny_captioner.settings, preset="tiny")
    changed = replace(tiny_captioner.settings, data=replace(tiny_captioner.settings.data, root="/home/me/private/b"))
    write_settings(run, changed, preset="tiny", resumed_at=3)
    tiny_captioner.tokenizer.save(run / "tokenizer.json")
    (run / "metrics.jsonl").write_text('{"step": 5}\n')
    (run / "timings.jsonl").write_text('{"step": 5, "training": 1.0}\n')
    (run / "8.png").write_bytes(b"a picture of the data")
    trained = TrainingImages.of(["/home/me/private/1.jpg"], dataset="old", fingerprint="x")
    (run / "training_images.json").write_text(json.dumps(trained.to_dict()))
    export(tiny_captioner, run / "best")
    tensors = tiny_captioner.model.state_dict()
    model = {"a": tensors["decoder.output.weight"]}
    save_checkpoint(run, step=5, model=model, optimizer={}, state={"position": 0}, documents=read_documents(run))
    return run


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


CHECKPOINT = {
    *("training/settings.json", "training/metrics.jsonl", "training/timings.jsonl", "training/training_images.json"),
    *("training/tokenizer.json", "training/tokenizer_config.json"),
    *(f"training/step-00000005/{name}" for name in ("model.safetensors", "optimizer.safetensors", "state.json")),
    *(f"training/step-00000005/{name}" for name in ("tokenizer.json", "tokenizer_config.json")),
}


def share(run, folder, checkpoint=True):
    folder.mkdir()
    write_shared_copy(run / "best", folder, "me/captioner", checkpoint=run / "step-00000005" if checkpoint else None)
    return folder


def test_a_checkpoint_goes_with_the_export_and_tells_nothing_of_the_machine(run, tmp_path):
    exported = names(share(run, tmp_path / "export", checkpoint=False))
    shared = share(run, tmp_path / "shared")
    assert names(shared) == exported | CHECKPOINT
    for name in names(shared):
        content = (shared / name).read_bytes()
        assert b"/home/me" not in content, name
        assert str(tmp_path).encode() not in content, name
    settings = json.loads((shared / "training/settings.json").read_text())
    assert (settings["command"], settings["streamed"]) == ("", True)
    assert settings["resumed"] == [{"step": 3, "command": "", "changed": []}]
    assert settings["settings"]["hub"]["repo_id"] == "me/captioner"


def test_scores_go_without_the_folder_of_the_evaluated_model(run, tmp_path, tiny_captioner):
    scores = {"metrics": {"CIDEr-D": 0.5}, "images": 3, "decoding": {"beams": 3}}
    best = {"step": 5, "epoch": 1, "CIDEr-D": 0.25}
    tiny_captioner.metrics = {"test": {**scores, "model": "/home/me/private/run"}, "validation_at_best": best}
    export(tiny_captioner, run / "best")  # as one that was evaluated by an older version
    shared = share(run, tmp_path / "shared", checkpoint=False)
    assert json.loads((shared / "metrics.json").read_text()) == {"test": scores, "validation_at_best": best}
    for name in names(shared):
        assert b"/home/me" not in (shared / name).read_bytes(), name


def test_before_the_first_best_there_is_the_checkpoint_alone(run, tmp_path):
    (run / "best").rename(tmp_path / "none")
    assert names(share(run, tmp_path / "shared")) == CHECKPOINT


def test_what_training_does_later_does_not_change_the_copy(run, tmp_path, tiny_captioner):
    shared = share(run, tmp_path / "shared")
    before = {name: (shared / name).read_bytes() for name in names(shared)}
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6}\n')
    save_checkpoint(run, step=5, model={}, optimizer={}, state={"position": 1})
    tiny_captioner.metrics = {"new": 1}
    export(tiny_captioner, run / "best")
    for path in (run / "step-00000005").iterdir():
        path.unlink()  # as when it is pruned
    assert {name: (shared / name).read_bytes() for name in names(shared)} == before
    find_checkpoint(shared / "training")


def test_weights_take_no_second_place_on_the_disk(run, tmp_path):
    shared = share(run, tmp_path / "shared")
    for name in ("model.safetensors", "training/step-00000005/model.safetensors"):
        assert os.stat(shared / name).st_nlink == 2


def test_the_encoder_of_a_local_folder_goes_along_under_its_name(tiny_settings, tiny_tokenizer, run, tmp_path):
    made = make_captioner(tiny_settings, tiny_tokenizer)
    local = tmp_path / "private" / "tiny-resnet"
    write_encoder(made.model.encoder, made.processor, local)
    (local / "notes.txt").write_text("mine")
    settings = replace(tiny_settings, encoder=EncoderSettings(name=str(local), image_size=32))
    write_settings(run, settings, preset="tiny")
    shared = share(run, tmp_path / "shared")
    found = {name for name in names(shared) if "encoder" in name}
    files = ("config.json", "model.safetensors", "preprocessor_config.json")
    assert found == {f"training/encoder/tiny-resnet/{name}" for name in files}
    assert json.loads((shared / "training/settings.json").read_text())["settings"]["encoder"]["name"] == "tiny-resnet"
    for name in names(shared):
        assert str(tmp_path).encode() not in (shared / name).read_bytes(), name
