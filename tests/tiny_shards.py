"""Shards of captioned images in small, of both kinds."""

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow
from PIL import Image
from pyarrow import parquet

KINDS = ("parquet", "tar")


def draw_png(number: int) -> bytes:
    """A picture of one colour, another one for every number."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (number * 7 % 256, number * 31 % 256, 90)).save(file, "PNG")
    return file.getvalue()


def make_captions(number: int) -> list[str]:
    """Two captions of different lengths."""
    return [f"picture number {number}", " ".join(["a red square on", *["a very wide"] * (number % 5), "wall"])]


def write_shards(folder: Path, kind: str, sizes: Sequence[int], *, first: int = 0) -> str:
    """Write shards of so many samples each, named by their number; returns the pattern that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard, size in enumerate(sizes):
        numbers = range(first, first + size)
        (write_parquet if kind == "parquet" else write_tar)(folder / f"{shard:04d}.{kind}", numbers)
        first += size
    return str(folder / f"*.{kind}")


def write_parquet(path: Path, numbers: Sequence[int]) -> None:
    """Columns as ``datasets`` writes them, in row groups of four."""
    rows = [
        {"image_id": f"{number}", "image": {"bytes": draw_png(number), "path": None}, "captions": make_captions(number)}
        for number in numbers
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=4)


def write_tar(path: Path, numbers: Sequence[int]) -> None:
    """A picture and a text a sample."""
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            add_member(archive, f"{number}.png", draw_png(number))
            add_member(archive, f"{number}.txt", "\n".join(make_captions(number)).encode())


def add_member(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add one file to a .tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def add_sample(archive: tarfile.TarFile, key: str, image: bytes, content: dict) -> None:
    """Add a picture and its .json to a .tar."""
    add_member(archive, f"{key}.jpg", image)
    add_member(archive, f"{key}.json", json.dumps(content).encode())
