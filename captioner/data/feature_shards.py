"""Shards of features on the disk: written whole or not at all, mapped into memory, checked against their place."""

import mmap
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from captioner.errors import DISK_FULL, DataError

SAFETENSORS_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}
LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header."""


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


@dataclass(frozen=True)
class MappedShard:
    """A shard's features, read from the disk where they are looked at."""

    features: Tensor
    """[views, rows, patches, width]; writing into them does not change the file."""
    mapping: mmap.mmap
    """What ``features`` lies in."""

    def release(self) -> None:
        """Give back the memory of what was read; it is read again, mostly from the system's cache, where it is needed.

        Systems without ``madvise`` give it back by themselves when they run short.
        """
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED)


def map_shard(path: Path, *, dtype: torch.dtype, views: int, rows: int) -> MappedShard:
    """Map a shard's features [views, rows, patches, width]; nothing but the header is read until rows are asked for.

    Raises DataError if the file is missing, torn or of another shape or type.
    """
    try:
        with safe_open(path, framework="pt") as file:  # checks the header against the file's size
            shape, name = file.get_slice("features").get_shape(), file.get_slice("features").get_dtype()
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: missing or torn ({error}); {_remedy(path)}") from error
    if len(shape) != 4 or shape[:2] != [views, rows] or name != SAFETENSORS_NAMES[dtype]:
        wanted = f"{[views, rows]} of {SAFETENSORS_NAMES[dtype]}"
        raise DataError(f"{path}: holds {shape} of {name}, not {wanted}; {_remedy(path)}")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(LENGTH_BYTES), "little")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants memory that can be written
    # The only tensor begins right behind the header (https://github.com/huggingface/safetensors#format).
    features = torch.frombuffer(mapping, dtype=dtype, offset=LENGTH_BYTES + header).view(shape)
    return MappedShard(features, mapping)


def _remedy(path: Path) -> str:
    return f"delete the folder {path.parent} and build the features again"


def _full(folder: Path, needed: int) -> str:
    return (
        f"{folder}: no space left on this disk: the features still to be written take {needed:,} bytes; free that"
        " much and run again (finished parts stay), or set data.folder to a larger disk"
    )
