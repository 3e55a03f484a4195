"""Shards of features on the disk: written whole or not at all, mapped into memory, checked against their place."""

import errno
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from captioner.errors import DataError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def shard_path(folder: Path, split: str, number: int) -> Path:
    """The file of a split's shard."""
    return folder / f"{split}-{number:05d}.safetensors"


def write_shard(path: Path, features: Tensor, *, needed: int) -> None:
    """Write features [views, rows, patches, width]; needed: bytes that this shard and those to come take."""
    write_atomically(path, save({"features": features}), needed=needed)


def write_atomically(path: Path, data: bytes, *, needed: int) -> None:
    """Write a file beside its place and rename it, so that it is whole wherever it exists.

    Raises DataError if the disk is full.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in DISK_FULL:
            raise DataError(_full(path.parent, needed)) from error
        raise DataError(f"{path}: cannot be written ({error.strerror}); make its folder writable") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_space(folder: Path, *, needed: int) -> None:
    """Raise DataError unless so many bytes are free; better now than after an hour."""
    if shutil.disk_usage(folder).free < needed:
        raise DataError(_full(folder, needed))


def map_shard(path: Path, *, dtype: torch.dtype, views: int, rows: int) -> Tensor:
    """Map a shard's features [views, rows, patches, width]; nothing but the header is read until rows are asked for.

    Raises DataError if the file is missing, torn or of another shape or type.
    """
    try:
        # safetensors maps the file and gives a tensor over the mapping; its header is checked against the file's size.
        with safe_open(path, framework="pt") as file:
            features = file.get_tensor("features")
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: missing or torn ({error}); {_remedy(path)}") from error
    if features.dim() != 4 or features.shape[:2] != (views, rows) or features.dtype != dtype:
        raise DataError(
            f"{path}: holds {list(features.shape)} of {features.dtype}, not {[views, rows]} of {dtype}; {_remedy(path)}"
        )
    return features


def _remedy(path: Path) -> str:
    return f"delete the folder {path.parent} and build the features again"


def _full(folder: Path, needed: int) -> str:
    return (
        f"{folder}: no space left on this disk: the features still to be written take {needed:,} bytes; free that"
        " much and run again (finished parts stay), or set data.folder to a larger disk"
    )
