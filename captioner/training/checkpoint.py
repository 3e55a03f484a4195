"""Checkpoints: everything a run needs to go on, written so that a crash leaves the earlier ones whole, without pickle.

A checkpoint is the folder ``step-00001200/`` of a run with ``model.safetensors``, ``optimizer.safetensors``,
``average.safetensors`` where the weights are averaged, and ``state.json``. It is written to a temporary sibling,
flushed to the disk and renamed; ``state.json`` carries the SHA-256 of the other files and of itself, so a torn or
flipped one is recognised.
"""

import base64
import contextlib
import hashlib
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from captioner.errors import CheckpointError

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
            _flush(path)
        if folder.exists():
            folder.rename(retired)
        sibling.rename(folder)
    except BaseException:
        if retired.exists() and not folder.exists():
            retired.rename(folder)
        shutil.rmtree(sibling, ignore_errors=True)
        raise
    _flush(folder.parent)
    shutil.rmtree(retired, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all; raises OSError with the older file untouched."""
    sibling = path.with_name(f".{path.name}.writing")
    try:
        sibling.write_text(text, encoding="utf-8")
        _flush(sibling)
        sibling.replace(path)
    except BaseException:
        sibling.unlink(missing_ok=True)
        raise


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers on the CPU, tied weights once; of a sharded one, all processes must ask."""
    tensors, seen = {}, set()
    for name, variable in module.state_dict(keep_vars=True).items():
        if variable.numel() and identity(variable) in seen:
            continue
        seen.add(identity(variable))
        tensors[name] = whole_tensor(variable)
    return tensors


def identity(variable: Tensor) -> int:
    """The same for tied weights of ``state_dict(keep_vars=True)``, also where a process has no part of a shard."""
    return id(variable) if isinstance(variable, DTensor) else variable.data_ptr()


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, put together where FSDP has sharded it."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().contiguous()


def shard_like(parameter: Tensor, value: Tensor) -> Tensor:
    """This process's part of a value, as FSDP has sharded the parameter."""
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def load_module_state(module: nn.Module, tensors: dict[str, Tensor], *, origin: Path) -> None:
    """Load what ``module_state`` gave; raises CheckpointError if names or shapes do not fit."""
    expected = module_state(module)
    wrong = sorted(expected.keys() ^ tensors.keys())
    wrong += [name for name in expected if name in tensors and expected[name].shape != tensors[name].shape]
    if wrong:
        raise CheckpointError(
            f"{origin}: {len(wrong)} weights do not fit the settings (first: {wrong[0]}); "
            "resume with the run's own settings"
        )
    present = module.state_dict()
    sharded = {
        name: shard_like(present[name], value) for name, value in tensors.items() if isinstance(present[name], DTensor)
    }
    module.load_state_dict({**tensors, **sharded}, strict=False)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors ``<parameter>/<quantity>``; its groups carry their parameters' names."""
    tensors = {}
    for name, parameter in _named(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = whole_tensor(torch.as_tensor(value))
    return tensors


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], *, origin: Path) -> None:
    """Load what ``optimizer_state`` gave; raises CheckpointError if it is of parameters that are not trained."""
    parameters = dict(_named(optimizer))
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"{origin}: {name!r} is not trained by these settings; resume with the run's own")
        optimizer.state[parameters[name]][quantity] = _laid_out_like(parameters[name], value)


def _laid_out_like(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """On the parameter's device, and in its memory format: fused kernels walk both in the order of memory."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return shard_like(parameter, value)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _named(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators as JSON values."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "torch": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
    }
    if torch.cuda.is_available():
        states = torch.cuda.get_rng_state_all()
        state["cuda"] = [base64.b64encode(item.numpy().tobytes()).decode() for item in states]
    return state


def load_random_state(state: dict[str, Any]) -> None:
    """Restore what ``random_state`` gave."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        for device, item in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):  # perhaps fewer now
            torch.cuda.set_rng_state(_bytes(item), device)


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Whatever is drawn inside, the generators go on from where they were before."""
    state = random_state()
    try:
        yield
    finally:
        load_random_state(state)


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


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
