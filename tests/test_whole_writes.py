"""Whatever fails, and whenever a process dies, what was there before is whole."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from captioner import whole_writes
from captioner.errors import CheckpointError


@pytest.fixture
def umask():
    """A usual one."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_all_may_read_what_the_umask_lets_them(tmp_path, umask):
    def fill(folder):
        save_file({"a": torch.zeros(1)}, folder / "private.safetensors")  # for its user alone
        (folder / "inner").mkdir(mode=0o700)
        (folder / "inner" / "a.txt").write_text("")

    whole_writes.write_folder(tmp_path / "best", fill)
    paths = [tmp_path / "best", *(tmp_path / "best").rglob("*")]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert modes == {"best": 0o755, "private.safetensors": 0o644, "inner": 0o755, "a.txt": 0o644}


FULL = "No space left on device"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, FULL), f"{FULL}; free some space"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "Quota exceeded; free some space"),
        (OSError(errno.EACCES, "Permission denied", "a/b"), "a/b: Permission denied"),
        (OSError(errno.ENOENT, "No such file"), "No such file"),
        (SafetensorError("I/O error: full (os error 28)"), f"{FULL}; free some space"),
        (SafetensorError("I/O error: gone (os error 2)"), "No such file or directory"),
        (CheckpointError("it is torn; train anew"), "it is torn; train anew"),
    ],
)
def test_a_warning_tells_the_reason_and_the_remedy(caplog, error, message):
    with whole_writes.warn_instead_of_stop("nothing is saved"):
        raise error
    rest = ", training goes on" if message.endswith("space") else "; training goes on"
    assert caplog.messages == [f"nothing is saved: {message}{rest}"]


def test_text_is_on_the_disk_with_its_name(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(whole_writes, "flush", flushed.append)
    whole_writes.write_text(tmp_path / "a.json", "{}")
    assert flushed == [tmp_path / ".a.json.writing", tmp_path]


def test_written_folder_replaces_the_old_one_whole(tmp_path):
    for text in ("old", "new"):
        whole_writes.write_folder(tmp_path / "best", lambda folder, text=text: (folder / "a").write_text(text))
    assert (tmp_path / "best" / "a").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failed_writing_leaves_the_old_folder(tmp_path, error):
    whole_writes.write_folder(tmp_path / "best", lambda folder: (folder / "a").write_text("old"))

    def fail(folder):
        (folder / "a").write_text("new")
        raise error

    with pytest.raises(type(error)):
        whole_writes.write_folder(tmp_path / "best", fail)
    assert (tmp_path / "best" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_failed_renaming_brings_the_old_folder_back(tmp_path, monkeypatch):
    whole_writes.write_folder(tmp_path / "best", lambda folder: (folder / "a").write_text("old"))
    rename = Path.rename

    def fail_for_the_new_one(path, target):
        if path.name.endswith(".writing"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="Input/output error"):
        whole_writes.write_folder(tmp_path / "best", lambda folder: (folder / "a").write_text("new"))
    assert (tmp_path / "best" / "a").read_text() == "old"


def test_folder_that_a_kill_left_half_renamed_is_brought_back(tmp_path):
    whole_writes.write_folder(tmp_path / "best", lambda folder: (folder / "a").write_text("old"))
    (tmp_path / "best").rename(tmp_path / ".best.retired")
    (tmp_path / ".best.writing").mkdir()

    def fail(folder):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        whole_writes.write_folder(tmp_path / "best", fail)
    assert (tmp_path / "best" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["best"]


def test_failed_text_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "settings.json"
    whole_writes.write_text(path, "old")

    def fail(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_writes.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left") as error:
        whole_writes.write_text(path, "new")
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
