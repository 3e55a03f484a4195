"""Shards of captioned images: .parquet or WebDataset .tar files, found, counted, and streamed through `datasets`.

What a sample must have, by the names that are common for such shards:

- the image: a column ``image``, of type `datasets.Image` or a file's bytes; in a .tar a member ``KEY.jpg`` (or .jpeg,
  .png, .webp);
- the captions: ``captions`` (texts) or ``caption`` (a text); in a .tar a member ``KEY.txt`` with one caption a line, or
  ``KEY.json`` with ``captions`` or ``caption``;
- if it has one, its name: ``image_id`` or ``key``; in a .tar it is ``KEY``.
"""

import glob
import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets.distributed import split_dataset_by_node

from captioner.data.records import clean_caption
from captioner.data.shard_files import CAPTIONS, IMAGES, count_files
from captioner.errors import DataError

KINDS: dict[str, Literal["parquet", "webdataset"]] = {".parquet": "parquet", ".tar": "webdataset"}
NAMES = ("image_id", "key", "__key__")


@dataclass(frozen=True)
class Sample:
    """One image of a shard, not decoded, with its captions; any of these may be empty, for others fill the shard."""

    name: str
    image: bytes
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Shards:
    """Files of one kind."""

    kind: Literal["parquet", "webdataset"]
    paths: tuple[str, ...]
    counts: tuple[int, ...]
    """Samples of each file."""
    columns: tuple[str, ...]
    """Of .parquet files, all of them."""

    @cached_property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over the files' names and counts."""
        listed = [(Path(path).name, count) for path, count in zip(self.paths, self.counts, strict=True)]
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:16]

    def share(self, rank: int, processes: int) -> int:
        """Samples an epoch that ``stream`` gives one of several processes."""
        if len(self.paths) % processes:
            return len(range(rank, sum(self.counts), processes))
        return sum(self.counts[rank::processes])

    def stream(
        self, *, order: random.Random | None = None, rank: int = 0, processes: int = 1, captions_only: bool = False
    ) -> datasets.IterableDataset:
        """The samples as `datasets` streams them, undecoded; ``read_sample`` understands them.

        Whole files are shared out where their number is a multiple of the processes', else every ``processes``-th
        sample, for which each process must read them all.

        Args:
            order: shuffles the files; the same in every process.
            rank: number of this process.
            processes: number of processes.
            captions_only: leave the images unread, where the files can do it.
        """
        paths: Sequence[str] = self.paths
        if order:
            # The files of a process stay its own, so that every epoch has as many samples for it.
            turns = [order.sample(paths[first::processes], len(paths[first::processes])) for first in range(processes)]
            paths = [turns[place % processes][place // processes] for place in range(len(paths))]
        options = {"columns": _parquet_columns(self.columns, captions_only)} if self.kind == "parquet" else {}
        opened = datasets.load_dataset(
            self.kind, data_files={"train": list(paths)}, split="train", streaming=True, **options
        )
        return split_dataset_by_node(opened.decode(False), rank=rank, world_size=processes)


def find_shards(pattern: str, *, memory: Path | None = None) -> Shards:
    """The shards in a folder, or those that a pattern such as ``shards/*.tar`` names, counted.

    Args:
        pattern: a folder or a pattern.
        memory: file that keeps the counts for the next time.

    Raises DataError if there are none, if they are of both kinds, or if one is torn or has no images or captions.
    """
    place = Path(pattern)
    found = [str(path) for path in place.iterdir()] if place.is_dir() else glob.glob(pattern, recursive=True)
    paths = sorted(path for path in found if Path(path).suffix in KINDS)
    if not paths:
        raise DataError(f"{pattern}: no .parquet or .tar files there; name their folder, or a pattern like 'dir/*.tar'")
    kinds = {KINDS[Path(path).suffix] for path in paths}
    if len(kinds) > 1:
        raise DataError(f"{pattern}: names .parquet and .tar files; train from one kind, as in '{pattern}/*.tar'")
    kind, files = kinds.pop(), count_files(paths, memory=memory)
    columns = files[0].names if kind == "parquet" else ()
    wanted = _parquet_columns(columns, False)
    for path, file in zip(paths, files, strict=True) if kind == "parquet" else ():
        others = _parquet_columns(file.names, False)
        if others != wanted:
            raise DataError(f"{path}: has the columns {', '.join(others)}, {paths[0]} {', '.join(wanted)}; rename them")
    return Shards(kind, tuple(paths), tuple(file.samples for file in files), columns)


def read_sample(columns: Mapping[str, Any], place: int) -> Sample:
    """A sample from what ``datasets`` gives for it; ``place`` is its number in the stream, for one without a name."""
    image = next((columns[name] for name in IMAGES if columns.get(name) is not None), None)
    image = image.get("bytes") if isinstance(image, Mapping) else image
    name = next((columns[name] for name in NAMES if columns.get(name) is not None), f"sample {place}")
    return Sample(str(name), image or b"", _captions_of(columns))


def read_captions(shards: Shards, *, most: int) -> Iterator[str]:
    """The captions of the first ``most`` samples."""
    for columns in shards.stream(captions_only=True).take(most):
        yield from _captions_of(columns)


def _captions_of(columns: Mapping[str, Any]) -> tuple[str, ...]:
    found = next((columns[name] for name in CAPTIONS if columns.get(name) is not None), ())
    if isinstance(found, Mapping):  # a .json member
        found = found.get("captions") or found.get("caption") or ()
    texts = found.splitlines() if isinstance(found, str) else found
    return tuple(filter(None, map(clean_caption, texts)))


def _parquet_columns(present: Sequence[str], captions_only: bool) -> list[str]:
    wanted = (CAPTIONS, NAMES) if captions_only else (IMAGES, CAPTIONS, NAMES)
    return [name for names in wanted for name in [next((name for name in names if name in present), None)] if name]
