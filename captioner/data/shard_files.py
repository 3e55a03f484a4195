"""What files of captioned images hold: each is counted once, and never again while it stays as it is.

A .parquet file tells at its end how many rows it has. A .tar has to be gone through from member to member, unless
img2dataset has told beside it: ``00000_stats.json`` of ``00000.tar`` (https://github.com/rom1504/img2dataset).
"""

import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import signal
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from captioner.errors import DataError
from captioner.progress import Progress

logger = logging.getLogger(__name__)

IMAGES = ("image", "jpg", "jpeg", "png", "webp")
CAPTIONS = ("captions", "caption", "txt", "json")
LAYOUT = f"an image ({', '.join(IMAGES)}) and captions ({', '.join(CAPTIONS)})"
FEW = 16
"""So many files are counted before other processes would have started."""
FIRST_MEMBERS = 16
"""Members of a .tar that tell what is in it, where its samples are counted already."""
TAR_END = 1024
"""Zeros at the end of a whole .tar, https://www.gnu.org/software/tar/manual/html_node/Standard.html."""


@dataclass(frozen=True)
class ShardFile:
    """A file, as it was when it was counted."""

    path: str
    size: int
    """Bytes."""
    changed: int
    """When, in nanoseconds."""
    samples: int
    names: tuple[str, ...]
    """Columns of a .parquet file in their order, endings of members of a .tar."""


def count_files(paths: Sequence[str], *, memory: Path | None = None) -> list[ShardFile]:
    """What every file holds; those that are not known yet, or have changed, are counted, many by all processors.

    Args:
        paths: .parquet or .tar files.
        memory: where counts are kept, a line of JSON a file.

    Raises DataError if one is torn, or has no images or captions.
    """
    paths = [os.path.abspath(path) for path in paths]
    known = _read_known(memory)
    new = [path for path in paths if path not in known or _stamp(path) != (known[path].size, known[path].changed)]
    with Progress("Counting samples", total=len(new), unit="files") as progress:
        for file in _count_all(new):
            known[file.path] = file
            memory = _remember(file, memory)
            progress.advance()
    return [known[path] for path in paths]


def _read_known(memory: Path | None) -> dict[str, ShardFile]:
    """The files of a memory, the newest line of each; torn lines are passed over."""
    known = {}
    for text in memory.read_text(errors="replace").splitlines() if memory and memory.is_file() else []:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            line = json.loads(text)
            known[line["path"]] = ShardFile(**{**line, "names": tuple(line["names"])})
    return known


def _remember(file: ShardFile, memory: Path | None) -> Path | None:
    """Keep a count; returns the memory, None where it cannot be written, which is told once."""
    if memory:
        try:
            memory.parent.mkdir(parents=True, exist_ok=True)
            with memory.open("a") as lines:
                lines.write(json.dumps(asdict(file)) + "\n")
        except OSError as error:
            logger.warning("the files will be counted again: cannot write %s (%s)", memory, error.strerror)
            return None
    return memory


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def _count_all(paths: Sequence[str]) -> Iterator[ShardFile]:
    """What every file holds, in their order."""
    if len(paths) <= FEW:
        yield from map(_count, paths)
        return
    # Not threads: going through a .tar is work for the interpreter, which does one thread's at a time. Ctrl-C is left
    # to this process, which then ends the others.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(mp_context=context, initializer=signal.signal, initargs=ignore) as pool:
        yield from pool.map(_count, paths)


def _count(path: str) -> ShardFile:
    size, changed = _stamp(path)
    samples, names = _read_stated(path) or COUNTERS[Path(path).suffix](path)
    if not _fits(names):
        raise DataError(f"{path}: has {', '.join(sorted(names)) or 'nothing'}; each sample needs {LAYOUT}")
    return ShardFile(path, size, changed, samples, names)


def _fits(names: Sequence[str]) -> bool:
    return not (set(names).isdisjoint(IMAGES) or set(names).isdisjoint(CAPTIONS))


def _count_parquet(path: str) -> tuple[int, tuple[str, ...]]:
    import pyarrow  # here, for the processes that count .tar files start without it
    from pyarrow import parquet

    try:
        content = parquet.read_metadata(path)
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise DataError(f"{path}: torn, or no parquet file ({error}); fetch it again") from error
    return content.num_rows, tuple(content.schema.to_arrow_schema().names)


def _count_tar(path: str) -> tuple[int, tuple[str, ...]]:
    """Samples of a .tar, neighbouring members with the same name but for what stands behind its first dot."""
    try:
        with tarfile.open(path, "r:") as archive:
            return _count_members(archive)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path}: torn, or no .tar file ({error}); fetch it again") from error


COUNTERS = {".parquet": _count_parquet, ".tar": _count_tar}
"""How many samples a file has, and what its columns or members are called."""


def _count_members(members: Iterable[tarfile.TarInfo]) -> tuple[int, tuple[str, ...]]:
    keys: set[str] = set()
    endings: dict[str, None] = {}
    for member in members:
        folder, _, name = member.name.rpartition("/")
        key, dot, ending = name.partition(".")
        if member.isfile() and key and dot:
            keys.add(f"{folder}/{key}")
            endings[ending] = None
    return len(keys), tuple(endings)


def _read_stated(path: str) -> tuple[int, tuple[str, ...]] | None:
    """What img2dataset counted in a .tar and its first members' endings; None where it did not, or the file changed."""
    stats = Path(path).with_name(f"{Path(path).stem}_stats.json")
    try:
        if Path(path).suffix != ".tar" or stats.stat().st_mtime_ns < _stamp(path)[1]:
            return None
        samples = json.loads(stats.read_text())["successes"]
        with tarfile.open(path, "r:") as archive, open(path, "rb") as file:
            _, names = _count_members(itertools.islice(archive, FIRST_MEMBERS))
            file.seek(-TAR_END, os.SEEK_END)
            whole = not any(file.read())
    except (OSError, ValueError, KeyError, TypeError, tarfile.TarError):
        return None  # what is wrong is told by who counts
    return (samples, names) if type(samples) is int and whole and _fits(names) else None
