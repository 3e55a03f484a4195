"""Only one process trains a run."""

import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from captioner.errors import CheckpointError
from captioner.training.run_lock import locked_run

HOLD = """
import sys, time
from pathlib import Path
from captioner.training.run_lock import locked_run
with locked_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the run."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_another_process_is_refused_and_a_killed_one_lets_go(holder, tmp_path):
    run = tmp_path / "run"
    message = rf"^{run} is being trained by process {holder.pid} on \S+; wait for its end or stop it, or train another"
    for _ in range(2):
        with pytest.raises(CheckpointError, match=message), locked_run(run):
            pytest.fail("two have it")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (run / ".lock").exists()
    with locked_run(run):
        assert re.fullmatch(rf"process {os.getpid()} on \S+", (run / ".lock").read_text())
    assert list(run.iterdir()) == []


def test_nothing_but_the_run_is_left(tmp_path):
    with locked_run(tmp_path / "a" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []
    with locked_run(tmp_path / "a" / "run"):
        (tmp_path / "a" / "run" / "metrics.jsonl").touch()
    assert [path.name for path in (tmp_path / "a" / "run").iterdir()] == ["metrics.jsonl"]


def test_the_lock_counts_also_where_the_file_was_removed_meanwhile(tmp_path, monkeypatch):
    """One that opened the file just before its holder removed it takes the new file, not the nameless one."""
    take, opened = fcntl.flock, []

    def remove_first(file, operation):
        take(file, operation)
        opened.append(file.fileno())
        if len(opened) == 1:
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with locked_run(tmp_path):
        assert len(opened) == 2
        assert (tmp_path / ".lock").exists()


def test_the_folder_may_go_just_before_the_lock_is_taken(tmp_path, monkeypatch):
    """Its last holder removes it when it was empty."""
    run, open_file, opened = tmp_path / "run", Path.open, []

    def remove_first(path, *words, **options):
        opened.append(path)
        if len(opened) == 1:
            run.rmdir()
        return open_file(path, *words, **options)

    monkeypatch.setattr(Path, "open", remove_first)
    with locked_run(run):
        assert (run / ".lock").exists()
    assert len(opened) == 2


def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(file, operation):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked_run(tmp_path / "run"):
        pass
    assert "run/.lock cannot be locked (Operation not supported): see to it that only one process" in caplog.text
