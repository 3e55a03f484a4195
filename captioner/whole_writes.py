"""Files and folders that are written whole or not at all, whatever a process dies of and however full the disk is."""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError

from captioner.errors import DISK_FULL, CaptionerError, as_os_error

logger = logging.getLogger(__name__)


def write_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make ``folder`` out of what ``fill`` writes into a temporary sibling; an existing one is replaced at the end.

    Raises whatever ``fill`` raises, with the sibling removed and an existing folder untouched.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sibling = folder.with_name(f".{folder.name}.writing")
    retired = folder.with_name(f".{folder.name}.retired")
    if retired.exists() and not folder.exists():  # the process died between the two renames below
        retired.rename(folder)
    for leftover in (sibling, retired):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        sibling.mkdir()
        fill(sibling)
        _open_to_readers(sibling)
        for path in [*sorted(sibling.rglob("*")), sibling]:
            flush(path)
        if folder.exists():
            folder.rename(retired)
        sibling.rename(folder)
    except BaseException:
        if retired.exists() and not folder.exists():
            retired.rename(folder)
        shutil.rmtree(sibling, ignore_errors=True)
        raise
    flush(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def _open_to_readers(folder: Path) -> None:
    """Give all in a new folder the mode that the folder itself was made with: some libraries write for their user."""
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; raises OSError with the older file untouched."""
    if path.exists() and not path.is_file():  # a pipe or /dev/stdout, in whose place no file must come
        path.write_text(text, encoding="utf-8")
        return
    sibling = path.with_name(f".{path.name}.writing")
    try:
        sibling.write_text(text, encoding="utf-8")
        flush(sibling)
        sibling.replace(path)
        flush(path.parent)
    except OSError as error:  # a failed write does not say which file it was for
        sibling.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except BaseException:
        sibling.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_leftovers(run: Path) -> None:
    """Put a folder in order after a kill: what was being replaced comes back, what was half written goes."""
    for retired in run.glob(".*.retired"):
        whole = run / retired.name.removeprefix(".").removesuffix(".retired")
        if whole.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            retired.rename(whole)
    for unfinished in run.glob(".*.writing"):
        remove(unfinished)


def remove(path: Path) -> None:
    """Remove a file, a link or all of a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def warn_instead_of_stop(loss: str) -> Iterator[None]:
    """Turn a failed write into a warning that says what is lost for now; an error of ours tells its own remedy."""
    try:
        yield
    except CaptionerError as error:
        logger.warning("%s: %s; training goes on", loss, error)
    except (OSError, SafetensorError) as caught:
        error = caught if isinstance(caught, OSError) else as_os_error(caught)
        remedy = "free some space, " if error.errno in DISK_FULL else ""
        place = f"{error.filename}: " if error.filename and not remedy else ""
        logger.warning("%s: %s%s; %straining goes on", loss, place, error.strerror or error, remedy)
