"""Checkpoints: everything a run needs to go on, written so that a crash leaves the earlier ones whole, without pickle.

A checkpoint is the folder ``step-00001200/`` of a run with ``model.safetensors``, ``optimizer.safetensors``,
``average.safetensors`` where the weights are averaged, and ``state.json``. It is written to a temporary sibling,
flushed to the disk and renamed; ``state.json`` carries the SHA-256 of the other files and of itself, so a torn or
flipped one is recognised.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioner.errors import CaptionerError, CheckpointError

logger = logging.getLogger(__name__)

FORMAT = 1  # raised when what a checkpoint holds changes
MODEL, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"
STATE = "state.json"
_STEP_FOLDER = re.compile(r"step-(\d{8,})")


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


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; raises OSError with the older file untouched."""
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


@contextlib.contextmanager
def warn_instead_of_stop(loss: str) -> Iterator[None]:
    """Turn a failed write into a warning that says what is lost for now; an error of ours tells its own remedy."""
    try:
        yield
    except CaptionerError as error:
        logger.warning("%s: %s; training goes on", loss, error)
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        reason = getattr(error, "strerror", None) or error
        logger.warning("%s: %s; free some space, training goes on", loss, reason)


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a checkpoint, whole or not, be it one that ``clear_leftovers`` will bring back."""
    return bool(list_checkpoints(run)) or any(run.glob(".step-*.retired"))


def clear_leftovers(run: Path) -> None:
    """Put a folder in order after a kill: what was being replaced comes back, what was half written goes."""
    for retired in run.glob(".*.retired"):
        whole = run / retired.name.removeprefix(".").removesuffix(".retired")
        if whole.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            retired.rename(whole)
    for unfinished in run.glob(".*.writing"):
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of files, is on the disk: a power cut does not take it back."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_checkpoint(
    run: Path,
    *,
    step: int,
    model: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    average: dict[str, Tensor] | None = None,
    state: dict[str, Any],
) -> Path:
    """Write ``run/step-<step>/`` whole or not at all; raises OSError, for example when the disk is full."""
    contents = {MODEL: model, OPTIMIZER: optimizer, **({} if average is None else {AVERAGE: average})}

    def fill(folder: Path) -> None:
        for name, tensors in contents.items():
            save_file(tensors, folder / name)
        files = {name: checksum(folder / name) for name in contents}
        content = {"format": FORMAT, **state, "step": step, "files": files}
        content["checksum"] = _content_checksum(content)
        (folder / STATE).write_text(json.dumps(content))

    folder = run / f"step-{step:08d}"
    try:
        write_folder(folder, fill)
    except SafetensorError as error:  # safetensors reports a full disk as its own error
        raise OSError(f"cannot write {folder}: {error}") from error
    return folder


def _content_checksum(content: dict[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's state.json, with every file verified.

    Raises CheckpointError if one is torn or damaged, or if the checkpoint is of another format.
    """
    try:
        content = json.loads((folder / STATE).read_text())
        if content["format"] == FORMAT:
            names = [MODEL, OPTIMIZER, *([AVERAGE] if AVERAGE in content["files"] else [])]
            broken = [name for name in names if checksum(folder / name) != content["files"][name]]
            broken += [STATE] if content["checksum"] != _content_checksum(content) else []
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder} is not a whole checkpoint ({error}); resume from an earlier one") from error
    if content["format"] != FORMAT:  # first, because another format may have other files and sums
        raise CheckpointError(
            f"{folder} has checkpoint format {content['format']}, this captioner reads {FORMAT}; "
            "resume it with the version named in the run's settings.json"
        )
    if broken:
        raise CheckpointError(f"{folder} is damaged ({', '.join(broken)}); resume from an earlier one")
    return content


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint's ``model``, ``optimizer`` or ``average``.

    Raises CheckpointError if they are not safetensors.
    """
    path = folder / f"{name}.safetensors"
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); resume from an earlier checkpoint") from error


def names_step(path: Path) -> bool:
    """Whether a path ends in a checkpoint's name, such as ``step-00001200``."""
    return _STEP_FOLDER.fullmatch(path.name) is not None


def list_checkpoints(run: Path) -> list[Path]:
    """A run's checkpoint folders, oldest first, whole or not."""
    return sorted((path for path in run.glob("step-*") if path.is_dir() and names_step(path)), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def find_checkpoint(path: Path) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint of a run, or the given step folder itself, with its state.

    Damaged checkpoints of a run are reported and passed over; raises CheckpointError if none is whole.
    """
    if names_step(path):
        return path, read_state(path)
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a run folder; name a folder like checkpoints/scenes to --resume")
    for folder in reversed(list_checkpoints(path)):
        try:
            return folder, read_state(folder)
        except CheckpointError as error:
            logger.warning("%s", error)
    raise CheckpointError(
        f"{path} holds no whole checkpoint to resume; name a run's folder, or train anew with --trainer.overwrite"
    )


def prune_checkpoints(run: Path, *, keep: int, last: int) -> None:
    """Remove all but the newest ``keep`` checkpoints; nothing is removed while none of these is whole.

    Args:
        run: the run's folder.
        keep: how many to keep.
        last: step of the newest one; later ones are of a future that was given up by resuming an earlier step.
    """
    folders = list_checkpoints(run)
    kept = [folder for folder in folders if _step(folder) <= last][-keep:]
    if not any(_iswhole_tensor(folder) for folder in reversed(kept)):
        return
    for folder in folders:
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _iswhole_tensor(folder: Path) -> bool:
    try:
        read_state(folder)
    except CheckpointError as error:
        logger.warning("%s", error)
        return False
    return True
