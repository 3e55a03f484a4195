import errno
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import captioner
from captioner import whole_writes
from captioner.errors import CheckpointError, ConfigError
from captioner.run_folder import (
    check_free,
    check_made_from,
    check_resumable,
    exported_step,
    give_up_future,
    has_best,
    read_settings,
    run_of,
    write_settings,
)
from captioner.settings import Settings
from captioner.settings_json import settings_to_dict

SETTINGS = replace(Settings(), optim=replace(Settings().optim, lr=0.25, betas=(0.5, 0.75)))


def test_settings_come_back_with_where_they_came_from(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "tiny preset", "--optim.lr", "0.25"])
    write_settings(tmp_path / "runs" / "a", SETTINGS, preset="tiny")
    assert read_settings(tmp_path / "runs" / "a") == ("tiny", SETTINGS)
    content = json.loads((tmp_path / "runs" / "a" / "settings.json").read_text())
    names = ("preset", "settings", "captioner_version", "versions", "commit", "command", "resumed", "checksum")
    assert set(content) == {*names}
    assert content["command"] == "train.py 'tiny preset' --optim.lr 0.25"
    assert content["captioner_version"] == captioner.__version__
    assert {"torch", "transformers"} <= set(content["versions"])


def test_each_resumption_is_recorded_with_what_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "tiny"])
    write_settings(tmp_path, SETTINGS, preset="tiny")
    longer = replace(SETTINGS, trainer=replace(SETTINGS.trainer, epochs=99))
    for step, settings in ((10, SETTINGS), (20, longer)):
        monkeypatch.setattr(sys, "argv", ["train.py", "--resume", str(step)])
        write_settings(tmp_path, settings, preset="tiny", resumed_at=step)
    content = json.loads((tmp_path / "settings.json").read_text())
    assert content["command"] == "train.py tiny"
    assert content["resumed"] == [
        {"step": 10, "command": "train.py --resume 10", "changed": []},
        {"step": 20, "command": "train.py --resume 20", "changed": ["trainer.epochs: 20 -> 99"]},
    ]
    assert read_settings(tmp_path) == ("tiny", longer)


def changed(**groups):
    return replace(SETTINGS, **{name: replace(getattr(SETTINGS, name), **each) for name, each in groups.items()})


def test_settings_that_a_run_cannot_go_on_with_are_all_named():
    after = changed(decoder={"width": 256, "dropout": 0.3}, data={"name": "b"}, encoder={"trainable": True})
    with pytest.raises(ConfigError) as refusal:
        check_resumable(SETTINGS, after, position=0)
    assert [problem.partition(";")[0] for problem in refusal.value.problems] == [
        "the run cannot go on with data.name: 'scenes' -> 'b'",
        "the run cannot go on with encoder.trainable: False -> True",
        "the run cannot go on with decoder.width: 512 -> 256",
    ]


def test_what_makes_the_batches_can_change_between_epochs():
    after = changed(trainer={"batch_images": 8})
    check_resumable(SETTINGS, after, position=0)
    message = "the run cannot go on within an epoch with trainer.batch_images: 32 -> 8; resume a step between epochs"
    with pytest.raises(ConfigError, match=f"^{message}$"):
        check_resumable(SETTINGS, after, position=3)


def test_other_settings_can_change():
    after = changed(
        trainer={"epochs": 99, "precision": "fp32", "keep": 5, "gradient_accumulation": 4},
        optim={"lr": 1e-5, "ema": 0.9},
        tracking={"wandb": True},
        decoder={"dropout": 0.5},
        data={"folder": "elsewhere"},
    )
    check_resumable(SETTINGS, after, position=3)


def git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def recorded_commit(tmp_path, monkeypatch, package):
    package.mkdir(exist_ok=True)
    (package / "__init__.py").touch()
    with monkeypatch.context() as patch:
        patch.setattr(captioner, "__file__", str(package / "__init__.py"))
        write_settings(tmp_path / "run", SETTINGS, preset="tiny")
    return json.loads((tmp_path / "run" / "settings.json").read_text())["commit"]


def test_commit_says_whether_the_source_was_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    package = tmp_path / "source" / "captioner"
    package.parent.mkdir()
    assert recorded_commit(tmp_path, monkeypatch, package) is None  # no repository
    git(package.parent, "init", "-q")
    assert recorded_commit(tmp_path, monkeypatch, package) is None  # another project's, as around a virtual environment
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-q", "-m", "first")
    commit = git(package.parent, "rev-parse", "HEAD")
    assert recorded_commit(tmp_path, monkeypatch, package) == commit
    (package / "__init__.py").write_text("changed = True\n")
    assert recorded_commit(tmp_path, monkeypatch, package) == f"{commit}+changes"
    monkeypatch.setenv("PATH", "")
    assert recorded_commit(tmp_path, monkeypatch, package) is None  # no git


def test_full_disk_leaves_the_settings_as_they_were(tmp_path, monkeypatch):
    write_settings(tmp_path, SETTINGS, preset="tiny")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_writes.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_settings(tmp_path, Settings(), preset="other")
    assert read_settings(tmp_path) == ("tiny", SETTINGS)


def test_folder_without_settings_is_no_run(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "nowhere", tmp_path, tmp_path / "file"):
        with pytest.raises(CheckpointError, match=rf"{path} is not a run: it has no settings.json; name a folder like"):
            read_settings(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"preset": "tiny",', "Expecting property name"),
        ("[]", "list indices"),
        ('{"preset": "tiny"}', "'settings'"),
        ('{"preset": "tiny", "settings": 3}', "items"),
        ('{"preset": "tiny", "settings": {"optim": {"learning": 1}}}', r"optim\.learning: no such setting"),
    ],
)
def test_settings_of_another_shape(tmp_path, text, reason):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"settings.json is damaged or of another version .*{reason}.*train anew"):
        read_settings(tmp_path)


def truncate(text):
    return text[:-9]


def flip_a_digit(text):
    return text.replace('"lr": 0.25', '"lr": 0.35')


def flip_a_name(text):
    return text.replace('"clip_norm"', '"clip_oorm"')


@pytest.mark.parametrize("damage", [truncate, flip_a_digit, flip_a_name, lambda text: ""])
def test_damaged_settings_come_from_the_newest_checkpoint_that_has_them(tmp_path, caplog, damage):
    """A flipped digit is not even bad JSON: only the checksum tells."""
    write_settings(tmp_path, SETTINGS, preset="tiny")
    path = tmp_path / "settings.json"
    whole = path.read_text()
    for step in (1, 2, 3):
        (tmp_path / f"step-0000000{step}").mkdir()
    for step in (1, 2):
        (tmp_path / f"step-0000000{step}" / "settings.json").write_text(whole if step == 2 else "old")
    path.write_text(damage(whole))
    assert path.read_text() != whole
    assert read_settings(tmp_path) == ("tiny", SETTINGS)
    assert (
        f"{path} is damaged, edited or missing: the settings are those of {tmp_path / 'step-00000002'}" in caplog.text
    )
    write_settings(tmp_path, SETTINGS, preset="tiny", resumed_at=2)
    caplog.clear()
    assert read_settings(tmp_path) == ("tiny", SETTINGS)
    assert caplog.messages == []


def test_settings_that_nobody_has_whole(tmp_path):
    write_settings(tmp_path, SETTINGS, preset="tiny")
    path = tmp_path / "settings.json"
    path.write_text(flip_a_digit(path.read_text()))
    with pytest.raises(CheckpointError, match=r"settings.json is damaged or of another version \(its checksum is"):
        read_settings(tmp_path)


def test_what_a_run_was_made_from_must_be_what_it_goes_on_with(tmp_path):
    known = {"dataset": "1234567890", "encoder": "abcdefghij"}
    for before in ({}, known, {"encoder": "abcdefghij"}):
        check_made_from(before, known, origin=tmp_path)
    with pytest.raises(CheckpointError) as refusal:
        check_made_from(known, {"dataset": "0987654321", "encoder": "jihgfedcba"}, origin=tmp_path)
    assert str(refusal.value) == (
        f"{tmp_path} was trained with another dataset (fingerprint 12345678…, here it is 09876543…) and "
        "another encoder (fingerprint abcdefgh…, here it is jihgfedc…); make it again from the same files, or name "
        "another --data.folder; or start a new run with --trainer.run"
    )


@pytest.mark.parametrize(
    ("content", "step"),
    [
        ('{"validation_at_best": {"step": 7}}', 7),
        ('{"validation_at_best": {}}', None),
        ("[]", None),
        ("{", None),
        (None, None),
    ],
)
def test_step_of_the_export(tmp_path, content, step):
    (tmp_path / "best").mkdir()
    if content:
        (tmp_path / "best" / "metrics.json").write_text(content)
    assert exported_step(tmp_path) == step


@pytest.mark.parametrize(("exported", "left"), [(4, {"step-00000002", "step-00000004", "best"}), (6, None)])
def test_what_is_later_than_a_resumed_step_is_set_aside(tmp_path, caplog, exported, left):
    for step in (2, 4, 6, 8):
        (tmp_path / f"step-0000000{step}").mkdir()
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "metrics.json").write_text(json.dumps({"validation_at_best": {"step": exported}}))
    give_up_future(tmp_path, 4)
    names = {path.name for path in tmp_path.iterdir()}
    later = {".step-00000006.abandoned", ".step-00000008.abandoned"}
    assert names == later | (left or {"step-00000002", "step-00000004", ".best.abandoned"})
    assert "goes on from step 4; what is later is given up: step-00000006, step-00000008" in caplog.text
    caplog.clear()
    give_up_future(tmp_path, 4)
    assert caplog.messages == []


def test_a_later_export_may_stay_and_counts_until_its_step_is_taken_again(tmp_path, caplog):
    (tmp_path / "step-00000004").mkdir()
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "metrics.json").write_text('{"validation_at_best": {"step": 6}}')
    give_up_future(tmp_path, 4, keep_best=True)
    assert f"{tmp_path / 'best'} is of step 6, which is not saved: it stays until there is another" in caplog.text
    assert [has_best(tmp_path, step) for step in (4, 6)] == [True, True]
    (tmp_path / "step-00000006").mkdir()
    assert [has_best(tmp_path, step) for step in (4, 6)] == [False, True]


@pytest.mark.parametrize(("options", "stays"), [({"finished": True}, True), ({}, False)])
def test_figures_stay_while_no_steps_are_left(tmp_path, options, stays):
    (tmp_path / "step-00000004").mkdir()
    (tmp_path / "evaluation-test.json").touch()
    give_up_future(tmp_path, 4, **options)
    assert (tmp_path / "evaluation-test.json").exists() == stays


def test_settings_of_an_earlier_version_take_defaults_for_new_ones(tmp_path):
    settings = settings_to_dict(SETTINGS)
    del settings["export"], settings["optim"]["clip_norm"]
    (tmp_path / "settings.json").write_text(json.dumps({"preset": "tiny", "settings": settings}))
    assert read_settings(tmp_path) == ("tiny", SETTINGS)


@pytest.mark.parametrize(
    ("path", "run"),
    [
        ("checkpoints/a", "checkpoints/a"),
        ("checkpoints/a/", "checkpoints/a"),
        ("checkpoints/a/step-00001200", "checkpoints/a"),
        ("checkpoints/a/best", "checkpoints/a"),
        ("checkpoints/step-by-step", "checkpoints/step-by-step"),
    ],
)
def test_run_of_a_path(path, run):
    assert run_of(Path(path)) == Path(run)


def test_run_of_the_folder_one_is_in(tmp_path, monkeypatch):
    step = tmp_path / "a" / "step-00001200"
    step.mkdir(parents=True)
    for folder in (step.parent, step):
        monkeypatch.chdir(folder)
        assert run_of(Path()) == tmp_path / "a"
    assert run_of(Path("..")) == tmp_path / "a"


@pytest.mark.parametrize("name", ["best", "step-00000001"])
def test_existing_run_is_not_overwritten_by_accident(tmp_path, name):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".lock").touch()
    check_free(tmp_path / "a")
    (tmp_path / "a" / "settings.json").touch()
    (tmp_path / "a" / "metrics.jsonl").touch()
    check_free(tmp_path / "a")  # nothing that could be lost
    (tmp_path / "a" / name).mkdir()
    with pytest.raises(ConfigError) as error:
        check_free(tmp_path / "a")
    assert str(error.value) == (
        f"{tmp_path}/a holds a run already: go on with --resume {tmp_path}/a, start another with --trainer.run NAME, "
        "or replace it with --trainer.overwrite"
    )
    check_free(tmp_path / "a", overwrite=True)
