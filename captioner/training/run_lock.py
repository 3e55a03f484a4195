"""One process trains a run at a time: a lock on a file in the run's folder, which the system releases at any death."""

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from captioner.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

logger = logging.getLogger(__name__)

LOCK = ".lock"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Numbers of the OSErrors that say that a file system has no locks."""


@contextlib.contextmanager
def locked_run(run: Path) -> Iterator[None]:
    """Inside, no other process trains this run; folders that are made for that go again if they are empty.

    Raises CheckpointError if another process has it. A file system without locks is a warning.
    """
    path, made = run / LOCK, [folder for folder in (run, *run.parents) if not folder.exists()]
    file = _take(path)
    try:
        with contextlib.suppress(OSError):  # for the words of others only
            os.truncate(path, 0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        with contextlib.suppress(OSError):  # it is only a name: what counts ends with the file that is open
            path.unlink()
            for folder in made:
                folder.rmdir()
        file.close()


def _take(path: Path) -> TextIO:
    """The open, locked file of that name."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # who had it has just removed the folder
            continue
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                logger.warning(
                    "%s cannot be locked (%s): see to it that only one process trains it", path, error.strerror
                )
                return file
            file.seek(0)
            holder = file.read() or "another process"
            file.close()
            if not isinstance(error, BlockingIOError):
                raise
            raise CheckpointError(
                f"{path.parent} is being trained by {holder}; wait for its end or stop it, or train another run with "
                "--trainer.run NAME"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # who had it has just removed it, and the folder too where that was empty
