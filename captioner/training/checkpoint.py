"""Checkpoints: everything a run needs to go on, written so that a crash leaves the earlier ones whole, without pickle.

A checkpoint is the folder ``step-00001200/`` of a run with ``model.safetensors``, ``optimizer.safetensors``,
``average.safetensors`` where the weights are averaged, ``state.json``, and copies of the run's settings and tokenizer.
``state.json`` carries the SHA-256 of the other files and of itself, so a torn or flipped one is recognised; the
settings, which tell of a command line, carry their own.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from captioner.errors import CheckpointError, as_os_error
from captioner.whole_writes import remove, write_folder, write_text

logger = logging.getLogger(__name__)

FORMAT = 1  # raised when what a checkpoint holds changes
MODEL, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "average.safetensors"
STATE, SETTINGS = "state.json", "settings.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_STEP_FOLDER = re.compile(r"step-(\d{8,})")


def has_checkpoint(run: Path) -> bool:
    """Whether a run has a checkpoint, whole or not, be it one that ``clear_leftovers`` will bring back."""
    return bool(list_checkpoints(run)) or any(run.glob(".step-*.retired"))


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
    documents: Mapping[str, bytes] | None = None,
) -> Path:
    """Write ``run/step-<step>/`` whole or not at all; raises OSError, for example when the disk is full.

    ``documents`` are the run's settings and tokenizer, as ``read_documents`` gives them.
    """
    contents = {MODEL: model, OPTIMIZER: optimizer, **({} if average is None else {AVERAGE: average})}

    def fill(folder: Path) -> None:
        for name, tensors in contents.items():
            save_file(tensors, folder / name)
        for name, text in (documents or {}).items():
            (folder / name).write_bytes(text)
        summed = (*contents, *(name for name in documents or {} if name != SETTINGS))
        files = {name: checksum(folder / name) for name in summed}
        content = {"format": FORMAT, **state, "step": step, "files": files}
        content["checksum"] = _content_checksum(content)
        (folder / STATE).write_text(json.dumps(content))

    folder = step_folder(run, step)
    try:
        write_folder(folder, fill)
    except SafetensorError as error:  # safetensors reports a full disk as its own error
        raise as_os_error(error, folder) from error
    return folder


def read_documents(run: Path) -> dict[str, bytes]:
    """The files of a run's settings and tokenizer, as far as they are there."""
    paths = (run / name for name in (SETTINGS, *TOKENIZER_FILES))
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def repair_tokenizer(run: Path, folder: Path, state: Mapping[str, Any]) -> None:
    """Bring a run's tokenizer back from a whole checkpoint, with a warning, where it is not that of the checkpoint."""
    for name in TOKENIZER_FILES:
        if name in state["files"]:
            damaged = not (run / name).is_file() or checksum(run / name) != state["files"][name]
            if damaged:
                logger.warning("%s is damaged or missing: taken from %s", run / name, folder)
                write_text(run / name, (folder / name).read_text(encoding="utf-8"))


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
            names = [MODEL, OPTIMIZER, *(name for name in (AVERAGE, *TOKENIZER_FILES) if name in content["files"])]
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


def read_weights(folder: Path) -> list[dict[str, Tensor]]:
    """A whole checkpoint's model, and its average where it has one; raises CheckpointError if it is not whole."""
    names = ["model", *(["average"] if AVERAGE in read_state(folder)["files"] else [])]
    return [read_tensors(folder, name) for name in names]


def names_step(path: Path) -> bool:
    """Whether a path ends in a checkpoint's name, such as ``step-00001200``."""
    return _STEP_FOLDER.fullmatch(path.name) is not None


def list_checkpoints(run: Path) -> list[Path]:
    """A run's checkpoint folders, oldest first, whole or not."""
    return sorted((path for path in run.glob("step-*") if path.is_dir() and names_step(path)), key=step_of)


def step_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is or would be."""
    return run / f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a checkpoint's folder."""
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


def set_aside(paths: Iterable[Path]) -> None:
    """Rename what a run gives up by going on from an earlier step, until ``prune_checkpoints`` removes it."""
    for path in paths:
        aside = path.with_name(f".{path.name}.abandoned")
        remove(aside)
        path.rename(aside)


def prune_checkpoints(run: Path, *, keep: int, best: int | None = None) -> None:
    """Remove all but the newest ``keep`` checkpoints and that of the best step, and what was set aside.

    Nothing is removed while none of the newest is whole.
    """
    folders = list_checkpoints(run)
    kept = folders[-keep:]
    if not any(_is_whole(folder) for folder in reversed(kept)):
        return
    for folder in (*folders, *run.glob(".*.abandoned")):
        if folder not in kept and not (names_step(folder) and step_of(folder) == best):
            remove(folder)


def _is_whole(folder: Path) -> bool:
    try:
        read_state(folder)
    except CheckpointError as error:
        logger.warning("%s", error)
        return False
    return True
