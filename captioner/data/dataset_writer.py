"""Write checked records as a `datasets.DatasetDict`, with memory bounded and a progress bar, and nothing in caches."""

import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import datasets
from datasets.arrow_writer import ArrowWriter

from captioner.data.inspection import Inspection, inspect
from captioner.data.records import REST, SPLITS, Record, Source
from captioner.progress import Progress

ROWS_A_WRITE = 64


def write_dataset(
    source: Source, inspection: Inspection, folder: Path, *, splits: str, skip_bad: bool, progress: bool
) -> dict[str, dict[str, int]]:
    """Write the good records, and return the images and captions a split: none if there are problems.

    Arguments:
        source: its records are read to the end, also behind a problem, so that all problems are found.
        inspection: takes what is found.
        folder: exists and is empty.
        splits: "standard" or "all", as for ``prepare``.
        skip_bad: leave undecodable images out.
        progress: show progress.
    """
    parts = folder / ".parts"
    parts.mkdir()
    writers: dict[str, ArrowWriter] = {}
    images: Counter[str] = Counter()
    captions: Counter[str] = Counter()
    total = count_records(source)
    with (
        ExitStack() as stack,
        Progress(f"preparing {source.name}", total=total, unit="images", enabled=progress) as bar,
    ):
        for record, data in inspect(source, inspection, rest=splits == "all", skip_bad=skip_bad):
            bar.advance()
            if inspection.problems:
                continue  # nothing will be kept; the rest is only checked
            if not writers:
                features = _features(record)
            for split in _target_splits(record, splits):
                if split not in writers:
                    writers.update(_open_writers({split, *SPLITS} - writers.keys(), parts, features, stack))
                writers[split].write(_row(record, data))
                images[split] += 1
                captions[split] += len(record.captions)
        for writer in writers.values():
            writer.finalize()
    if not writers or inspection.problems:
        return {}
    order = sorted(writers, key=lambda split: (SPLITS.index(split) if split in SPLITS else len(SPLITS), split))
    _save(parts, order, folder)
    return {split: {"images": images[split], "captions": captions[split]} for split in order}


def _save(parts: Path, order: list[str], folder: Path) -> None:
    """Copy the streamed parts, shard by shard, into the layout that datasets opens, whatever it is at present."""
    with _quiet_datasets():
        files = {split: datasets.Dataset.from_file(str(parts / f"{split}.arrow")) for split in order}
        # Left to itself, datasets saves an empty split as no shards at all, which it cannot open.
        shards = {split: None if len(file) else 1 for split, file in files.items()}
        datasets.DatasetDict(files).save_to_disk(str(folder), num_shards=shards)
    shutil.rmtree(parts)


def _row(record: Record, data: bytes) -> dict[str, Any]:
    row = {
        "image_id": record.image_id,
        "image": {"bytes": data, "path": record.image_id},
        "captions": list(record.captions),
    }
    return row if record.objects is None else {**row, "objects": list(record.objects)}


def _target_splits(record: Record, splits: str) -> list[str]:
    if record.split == REST:
        return ["train"]
    return ["train", record.split] if splits == "all" and record.split != "train" else [record.split]


def _features(record: Record) -> datasets.Features:
    features = {
        "image_id": datasets.Value("string"),
        "image": datasets.Image(),
        "captions": datasets.List(datasets.Value("string")),
    }
    if record.objects is not None:
        features["objects"] = datasets.List(datasets.Value("string"))
    return datasets.Features(features)


def _open_writers(
    splits: set[str], folder: Path, features: datasets.Features, stack: ExitStack
) -> dict[str, ArrowWriter]:
    return {
        split: stack.enter_context(
            ArrowWriter(path=str(folder / f"{split}.arrow"), features=features, writer_batch_size=ROWS_A_WRITE)
        )
        for split in splits
    }


def count_records(source: Source) -> int | None:
    """Images of the source as far as that is known before its records are read."""
    if isinstance(source.records, list):
        return len(source.records)
    return sum(source.expected.values()) if source.expected else None


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Without the progress bars of datasets, which would come one a split."""
    disabled = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()
