"""Check records while they stream by: captions, duplicates, splits and decodable images; every problem is kept."""

import hashlib
import json
import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from captioner.data.images import check_image
from captioner.data.records import REST, Record, Source
from captioner.errors import DataError

MAX_CAPTION_LENGTH = 1000
"""Characters; a longer caption is a file pasted into the wrong place."""
PROBLEMS_SHOWN = 20
IMAGES_IN_FLIGHT = 64


@dataclass
class Inspection:
    """What the check of a source found; complete once ``inspect`` has been read to its end."""

    problems: list[str] = field(default_factory=list)
    """What stops the preparation, each as "file: reason"."""
    skipped: list[str] = field(default_factory=list)
    """Images left out because they cannot be decoded, each as "file: reason"."""
    duplicates: list[str] = field(default_factory=list)
    """Images with the same bytes in different splits, each as "a (train) = b (test)"."""
    found: Counter[str] = field(default_factory=Counter)
    """Images a split as the source lists them, also those with problems."""
    image_bytes: int = 0
    """Size of the encoded images that were read so far."""
    digests: list[str] = field(default_factory=list)
    """SHA-256 of every good image with its captions."""
    splits: dict[str, str] = field(default_factory=dict)
    """Split of every image by its name."""
    first_with: dict[bytes, tuple[str, str]] = field(default_factory=dict)
    """First image and its split by the SHA-256 of its bytes."""

    def fingerprint(self, splits: str) -> str:
        """SHA-256 over split, name, captions and bytes of all good images in their order, and the choice of splits."""
        return hashlib.sha256("\n".join([splits, *self.digests]).encode()).hexdigest()


def inspect(source: Source, inspection: Inspection, *, rest: bool, skip_bad: bool) -> Iterator[tuple[Record, bytes]]:
    """Give the good records with their encoded images, in order, and write down everything else.

    Arguments:
        source: its records are read to the end; images are read and decoded on all processors.
        inspection: filled while the records stream by.
        rest: whether the images in no split are wanted.
        skip_bad: leave undecodable images out instead of counting them as problems.
    """
    for record, data, trouble in _load_all(source, inspection, rest=rest):
        problems = [] if trouble is None or skip_bad else [trouble]
        if trouble is not None and skip_bad:
            inspection.skipped.append(trouble)
        problems += _check_captions(record, source.captions_per_image)
        inspection.problems += problems
        if trouble is not None or problems:
            continue
        inspection.image_bytes += len(data)
        _note_content(record, data, inspection)
        yield record, data


def compare_counts(source: Source, inspection: Inspection) -> None:
    """Add a problem for every split that has not as many images as the source is known to have."""
    for split, wanted in (source.expected or {}).items():
        found = inspection.found[split]
        if found != wanted:
            inspection.problems.append(
                f"{source.name}: {found:,} images in split {split} instead of {wanted:,}; "
                "complete the source, or give --no-check-counts to take it as it is"
            )


def raise_problems(source: Source, inspection: Inspection) -> None:
    """Raise one DataError for all problems of the source and its records, if there are any."""
    problems = source.problems + inspection.problems
    if not problems:
        return
    if len(problems) == 1:
        raise DataError(f"{problems[0]} (nothing was written)")
    shown = "".join(f"\n  {problem}" for problem in problems[:PROBLEMS_SHOWN])
    more = len(problems) - PROBLEMS_SHOWN
    raise DataError(
        f"{len(problems):,} problems in {source.root or source.name}, nothing was written; correct them and try again:"
        f"{shown}" + (f"\n  … and {more:,} more" if more > 0 else "")
    )


def _load_all(source: Source, inspection: Inspection, *, rest: bool) -> Iterator[tuple[Record, bytes, str | None]]:
    """Read and decode ahead on threads (Pillow decodes without the interpreter lock), with memory bounded."""
    window: deque[tuple[Record, Future[tuple[bytes, str | None]]]] = deque()
    with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
        try:
            for record in source.records:
                if not _register(record, inspection) or (record.split == REST and not rest):
                    continue
                window.append((record, pool.submit(_load, record)))
                if len(window) >= IMAGES_IN_FLIGHT:
                    oldest, future = window.popleft()
                    yield (oldest, *future.result())
            while window:
                oldest, future = window.popleft()
                yield (oldest, *future.result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _load(record: Record) -> tuple[bytes, str | None]:
    try:
        data = record.load()
        check_image(data, name=record.image_id)
    except DataError as error:
        return b"", str(error)
    except OSError as error:
        return b"", f"{record.image_id}: cannot be read ({error.strerror or error})"
    return data, None


def _register(record: Record, inspection: Inspection) -> bool:
    """Count the record; False for an image that was there before."""
    before = inspection.splits.get(record.image_id)
    if before is None:
        inspection.found[record.split] += 1
        inspection.splits[record.image_id] = record.split
    elif before == record.split:
        inspection.problems.append(f"{record.image_id}: is twice in {record.split}")
    else:
        inspection.problems.append(f"{record.image_id}: is in both {before} and {record.split}")
    return before is None


def _check_captions(record: Record, wanted: int | None) -> list[str]:
    problems = []
    if not record.captions:
        problems.append(f"{record.image_id}: has no captions")
    elif wanted is not None and len(record.captions) != wanted:
        problems.append(f"{record.image_id}: has {len(record.captions)} captions instead of {wanted}")
    for number, caption in enumerate(record.captions, start=1):
        if not caption.strip():
            problems.append(f"{record.image_id}: caption {number} is empty")
        elif len(caption) > MAX_CAPTION_LENGTH:
            problems.append(
                f"{record.image_id}: caption {number} has {len(caption):,} characters; "
                f"the limit is {MAX_CAPTION_LENGTH:,}"
            )
    return problems


def _note_content(record: Record, data: bytes, inspection: Inspection) -> None:
    content = hashlib.sha256(data).digest()
    first_id, first_split = inspection.first_with.setdefault(content, (record.image_id, record.split))
    if first_split != record.split:
        inspection.duplicates.append(f"{first_id} ({first_split}) = {record.image_id} ({record.split})")
    described = json.dumps([record.split, record.image_id, record.captions, record.objects, content.hex()])
    inspection.digests.append(hashlib.sha256(described.encode()).hexdigest())
