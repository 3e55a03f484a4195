import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from captioner import whole_writes
from captioner.errors import CheckpointError
from captioner.training import checkpoint, states

FILES = (checkpoint.MODEL, checkpoint.OPTIMIZER, checkpoint.AVERAGE, checkpoint.STATE)


@pytest.fixture
def save(tmp_path):
    """Write a small checkpoint of a step."""

    def save(step):
        return checkpoint.save_checkpoint(
            tmp_path,
            step=step,
            model={"weight": torch.arange(6.0).view(2, 3) + step},
            optimizer={"weight/exp_avg": torch.full((2, 3), float(step))},
            average={"weight": torch.full((2, 3), step - 0.5)},
            state={"epoch": 1, "random": states.random_state()},
        )

    return save


def seal(folder, **changes):
    """Change a state.json as a writer would, with its sums right."""
    content = {**json.loads((folder / checkpoint.STATE).read_text()), **changes}
    content["files"] = {name: checkpoint.checksum(folder / name) for name in FILES[:-1]}
    content["checksum"] = checkpoint._content_checksum(content)
    (folder / checkpoint.STATE).write_text(json.dumps(content))


def test_save_and_read(save, tmp_path):
    folder = save(1200)
    assert folder == tmp_path / "step-00001200"
    assert {path.name for path in folder.iterdir()} == set(FILES)
    state = checkpoint.read_state(folder)
    assert (state["format"], state["step"], state["epoch"]) == (1, 1200, 1)
    assert checkpoint.read_tensors(folder, "model")["weight"].tolist() == [[1200, 1201, 1202], [1203, 1204, 1205]]
    assert checkpoint.read_tensors(folder, "optimizer")["weight/exp_avg"].eq(1200).all()
    assert checkpoint.read_tensors(folder, "average")["weight"].eq(1199.5).all()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00001200"]


def test_a_checkpoint_without_an_average_is_whole(tmp_path):
    folder = checkpoint.save_checkpoint(tmp_path, step=1, model={}, optimizer={}, state={})
    assert sorted(checkpoint.read_state(folder)["files"]) == [checkpoint.MODEL, checkpoint.OPTIMIZER]
    assert not (folder / checkpoint.AVERAGE).exists()


DOCUMENTS = {"settings.json": b"{}", "tokenizer.json": b'{"a": 1}', "tokenizer_config.json": b'{"b": 2}'}


@pytest.fixture
def described(tmp_path):
    """A run and its checkpoint, both with settings and tokenizer."""
    for name, content in DOCUMENTS.items():
        (tmp_path / name).write_bytes(content)
    documents = checkpoint.read_documents(tmp_path)
    return checkpoint.save_checkpoint(tmp_path, step=1, model={}, optimizer={}, state={}, documents=documents)


def test_settings_and_tokenizer_are_in_it(described):
    assert checkpoint.read_documents(described) == DOCUMENTS
    assert {"tokenizer.json", "tokenizer_config.json"} < checkpoint.read_state(described)["files"].keys()


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_tokenizer_of_a_run_comes_back(described, tmp_path, caplog, name):
    state = checkpoint.read_state(described)
    checkpoint.repair_tokenizer(tmp_path, described, state)
    assert caplog.messages == []
    for damage in (empty, Path.unlink):
        damage(tmp_path / name)
        checkpoint.repair_tokenizer(tmp_path, described, state)
        assert checkpoint.read_documents(tmp_path) == DOCUMENTS
    assert caplog.messages == [f"{tmp_path / name} is damaged or missing: taken from {described}"] * 2


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_tokenizer_of_a_checkpoint_is_recognised(described, name):
    (described / name).write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=f"is damaged .{name}"):
        checkpoint.read_state(described)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [truncate, empty, flip_bit, Path.unlink, replace_by_folder])
@pytest.mark.parametrize("name", FILES)
def test_damaged_checkpoint_is_recognised_and_the_one_before_is_used(save, tmp_path, caplog, name, damage):
    before, newest = save(1), save(2)
    damage(newest / name)
    with pytest.raises(CheckpointError, match=r"step-00000002 is (damaged|not a whole checkpoint) .*earlier one$") as e:
        checkpoint.read_state(newest)
    assert "\n" not in str(e.value)
    assert checkpoint.find_checkpoint(tmp_path)[0] == before
    assert "step-00000002" in caplog.text
    with pytest.raises(CheckpointError):  # asked for by name, it is not replaced by another
        checkpoint.find_checkpoint(newest)


@pytest.mark.parametrize(
    "text", ["[]", "3", "null", '"step"', "{}", '{"format": 1}', '{"format": 1, "files": 3}', "\0"]
)
def test_state_of_another_shape_is_no_checkpoint(save, text):
    folder = save(1)
    (folder / checkpoint.STATE).write_text(text)
    with pytest.raises(CheckpointError, match="step-00000001 is not a whole checkpoint"):
        checkpoint.read_state(folder)


def test_flipped_digit_of_the_state_is_recognised(save):
    folder = save(1)
    text = (folder / checkpoint.STATE).read_text()
    (folder / checkpoint.STATE).write_text(text.replace('"epoch": 1', '"epoch": 3'))
    with pytest.raises(CheckpointError, match=r"step-00000001 is damaged \(state.json\); resume from an earlier one"):
        checkpoint.read_state(folder)


def test_other_format_is_named(save, tmp_path):
    folder = save(1)
    seal(folder, format=2, files=None)
    message = r"step-00000001 has checkpoint format 2, this captioner reads 1; resume it with the version named in"
    with pytest.raises(CheckpointError, match=message):
        checkpoint.find_checkpoint(folder)
    with pytest.raises(CheckpointError, match="holds no whole checkpoint to resume"):
        checkpoint.find_checkpoint(tmp_path)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", FILES)
def test_pickles_are_never_opened(save, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickle, "loads", lambda *a, **o: pytest.fail("unpickled"))
    monkeypatch.setattr(torch, "load", lambda *a, **o: pytest.fail("unpickled"))
    folder = save(1)
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    if name != checkpoint.STATE:
        seal(folder)  # by someone who knows the sums
        with pytest.raises(CheckpointError, match=f"{name} cannot be read .*; resume from an earlier checkpoint"):
            checkpoint.read_tensors(checkpoint.find_checkpoint(tmp_path)[0], name.removesuffix(".safetensors"))
    else:
        with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
            checkpoint.find_checkpoint(tmp_path)
    torch.save({"weight": torch.zeros(1)}, folder / "pytorch_model.bin")  # nor is anything else looked at
    assert not Path("exploded").exists()


def test_find_names_what_is_missing(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere is not a run folder; name a folder like checkpoints/scenes"):
        checkpoint.find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"step-00000007 is not a whole checkpoint"):
        checkpoint.find_checkpoint(tmp_path / "step-00000007")
    with pytest.raises(
        CheckpointError, match=r"holds no whole checkpoint to resume; name a run's folder, or train anew"
    ):
        checkpoint.find_checkpoint(tmp_path)


def test_checkpoints_are_listed_by_step(save, tmp_path):
    for step in (123_456_789, 20, 3):
        save(step)
    for name in ("step-5", "step-00000004.old", ".step-00000009.writing", "best"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000011").write_text("a file")
    assert [folder.name for folder in checkpoint.list_checkpoints(tmp_path)] == [
        *("step-00000003", "step-00000020", "step-123456789")
    ]


def test_prune_keeps_the_newest(save, tmp_path):
    folders = [save(step) for step in (1, 2, 3)]
    (tmp_path / "best").mkdir()
    checkpoint.prune_checkpoints(tmp_path, keep=2)
    assert checkpoint.list_checkpoints(tmp_path) == folders[1:]
    assert (tmp_path / "best").exists()


def test_prune_removes_nothing_while_none_of_the_kept_is_whole(save, tmp_path, caplog):
    folders = [save(step) for step in (1, 2, 3)]
    for folder in folders[1:]:
        flip_bit(folder / checkpoint.MODEL)
    checkpoint.prune_checkpoints(tmp_path, keep=2)
    assert checkpoint.list_checkpoints(tmp_path) == folders
    assert checkpoint.find_checkpoint(tmp_path)[0] == folders[0]
    assert "step-00000003 is damaged" in caplog.text


def test_prune_keeps_the_best_and_removes_what_was_set_aside(save, tmp_path):
    folders = [save(step) for step in (1, 2, 3, 4, 5)]
    checkpoint.set_aside(folders[4:])
    assert checkpoint.list_checkpoints(tmp_path) == folders[:4]
    checkpoint.prune_checkpoints(tmp_path, keep=1, best=2)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000002", "step-00000004"}


def test_what_is_set_aside_stays_while_nothing_else_is_whole(save, tmp_path):
    first, later = save(1), save(2)
    checkpoint.set_aside([later])
    flip_bit(first / checkpoint.MODEL)
    checkpoint.prune_checkpoints(tmp_path, keep=1)
    assert (tmp_path / ".step-00000002.abandoned").is_dir()
    assert checkpoint.list_checkpoints(tmp_path) == [first]


def test_saving_a_step_again_replaces_it(save, tmp_path):
    save(1)
    shutil.copytree(save(1), tmp_path / ".step-00000001.retired")
    assert checkpoint.read_state(save(1))["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_leftovers_of_a_kill_are_cleared(save, tmp_path):
    save(1), save(2)
    (tmp_path / "step-00000002").rename(tmp_path / ".step-00000002.retired")  # killed between the two renames
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000001.retired")  # killed before the old one went
    shutil.copytree(tmp_path / "step-00000001", tmp_path / ".step-00000003.writing")
    (tmp_path / ".metrics.jsonl.writing").write_text("half")
    (tmp_path / "metrics.jsonl").write_text("whole")
    whole_writes.clear_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000001", "step-00000002", "metrics.jsonl"}
    assert checkpoint.find_checkpoint(tmp_path)[1]["step"] == 2
    whole_writes.clear_leftovers(tmp_path / "nowhere")


def test_a_checkpoint_that_a_kill_left_half_renamed_counts(save, tmp_path):
    assert not checkpoint.has_checkpoint(tmp_path)
    folder = save(2)
    assert checkpoint.has_checkpoint(tmp_path)
    folder.rename(tmp_path / ".step-00000002.retired")
    assert checkpoint.has_checkpoint(tmp_path)
