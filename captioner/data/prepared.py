"""The prepared dataset: records -> a `datasets.DatasetDict` on disk beside its manifest, checked; and open it again.

A folder holds what ``DatasetDict.save_to_disk`` writes, and ``manifest.json``. Columns: image_id (the file's name),
image (`datasets.Image`, the encoded bytes), captions (texts) and, where the source knows, objects (texts).
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, Literal

import datasets

import captioner
from captioner.data.dataset_writer import count_records, write_dataset
from captioner.data.inspection import Inspection, compare_counts, raise_problems
from captioner.data.records import Source
from captioner.data.sources import SOURCES
from captioner.errors import DISK_FULL, DataError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
NOTES_SHOWN = 3


def prepare(
    source: Source,
    folder: str | Path,
    *,
    splits: Literal["standard", "all"] = "standard",
    check_counts: bool = True,
    skip_bad: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Check a source and write it as a prepared dataset; nothing appears at ``folder`` unless all is well.

    Arguments:
        source: what to prepare; its records are read once.
        folder: where the dataset goes; already prepared from the same source and revision: left as it is.
        splits: "standard": the source's splits; "all": every image of the source is in the training split,
            also those of validation and test, which stay for watching the training but no longer measure anything.
        check_counts: whether each split must have the images that the source is known to have.
        skip_bad: leave undecodable images out, and note them in the manifest, instead of stopping.
        overwrite: replace another dataset at ``folder``, with everything that was computed from it.
        progress: show progress: a bar on a terminal, else a log line every ten seconds.

    Returns the manifest. Raises DataError listing every problem, or naming the folder if it is taken or the disk full.
    """
    folder = Path(folder)
    _check_target(source, folder)
    present = _find_prepared(source, folder, splits=splits, overwrite=overwrite)
    if present is not None:
        logger.info("%s is already prepared from %s", folder, source.name)
        return present
    target = folder.resolve()  # where a link leads, so that renaming stays on one disk
    partial = target.with_name(f".{target.name}.partial")
    inspection = Inspection()
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        counts = write_dataset(source, inspection, partial, splits=splits, skip_bad=skip_bad, progress=progress)
        if check_counts:
            compare_counts(source, inspection)
        raise_problems(source, inspection)
        if not counts:
            raise DataError(f"{source.root or source.name}: has no images with captions")
        manifest = _describe(source, inspection, counts, splits=splits)
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        _replace(partial, target)
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DataError(_describe_full_disk(source, inspection, folder)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _warn(manifest, folder)
    return manifest


def open_prepared(folder: str | Path) -> datasets.DatasetDict:
    """Open a prepared dataset, memory-mapped; raises DataError with the command to type if it is missing or torn."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    again = f"prepare it again: {_command(manifest.get('source', 'SOURCE'), folder)} --overwrite"
    try:
        opened = datasets.load_from_disk(str(folder))
    # Whichever file is torn: OSError, ArrowInvalid (a ValueError), KeyError or IndexError, TypeError, JSONDecodeError.
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{folder}: the dataset is torn ({reason}); {again}") from error
    rows = {split: len(part) for split, part in opened.items()} if isinstance(opened, datasets.DatasetDict) else {}
    if rows != manifest["images"]:
        raise DataError(f"{folder}: holds {rows} images but its manifest says {manifest['images']}; {again}")
    return opened


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read a prepared dataset's manifest; raises DataError with the command to type if it is missing or broken."""
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no prepared dataset there; prepare it: {_command(folder.name, folder)}") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); {_again(folder)}") from error
    if not isinstance(manifest, dict) or not {"source", "images", "fingerprint"} <= manifest.keys():
        raise DataError(f"{path}: is not a manifest of captioner; {_again(folder)}")
    if manifest.get("format") != MANIFEST_FORMAT:
        raise DataError(f"{path}: has format {manifest.get('format')}, not {MANIFEST_FORMAT}; {_again(folder)}")
    return manifest


def _command(source: str, folder: Path) -> str:
    """The command that prepares ``folder``, as the user would type it."""
    words = ["python prepare_dataset.py", source if source in SOURCES else "SOURCE"]
    words += [f"--name {folder.name}"] if folder.name != source or source not in SOURCES else []
    words += [f"--data-folder {folder.parent}"] if folder.parent != Path("data") else []
    return " ".join(words)


def _again(folder: Path) -> str:
    return f"prepare it again: {_command(folder.name, folder)} --overwrite"


def _check_target(source: Source, folder: Path) -> None:
    """The dataset replaces its folder, so the folder must not hold what it is made from."""
    if source.root is not None and source.root.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{folder}: holds the source itself; choose another --name or --data-folder")
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: is a file; choose another --name or --data-folder")


def _find_prepared(source: Source, folder: Path, *, splits: str, overwrite: bool) -> dict[str, Any] | None:
    """Return the manifest if the dataset is there already, None if it is to be written."""
    if not folder.exists() or not any(folder.iterdir()):
        return None
    if not (folder / MANIFEST).exists() and not (folder / "dataset_dict.json").exists():
        raise DataError(f"{folder}: is not empty and no prepared dataset; choose another --name, or move it away")
    if overwrite:
        return None
    manifest = read_manifest(folder)
    wanted = {"source": source.name, "revision": source.revision, "splits": splits}
    present = {key: manifest.get(key) for key in wanted}
    if present != wanted:
        changed = [f"{key} {present[key]!r}, not {wanted[key]!r}" for key in wanted if present[key] != wanted[key]]
        raise DataError(
            f"{folder}: holds another dataset ({', '.join(changed)}); give --overwrite to replace it, or another --name"
        )
    open_prepared(folder)
    return manifest


def _describe(
    source: Source, inspection: Inspection, counts: dict[str, dict[str, int]], *, splits: str
) -> dict[str, Any]:
    return {
        "format": MANIFEST_FORMAT,
        "source": source.name,
        "revision": source.revision,
        "splits": splits,
        "split_rule": source.split_rule,
        "images": {split: count["images"] for split, count in counts.items()},
        "captions": {split: count["captions"] for split, count in counts.items()},
        "fingerprint": inspection.fingerprint(splits),
        "skipped": source.skipped + inspection.skipped,
        "duplicates": inspection.duplicates,
        "captioner": captioner.__version__,
    }


def _replace(partial: Path, folder: Path) -> None:
    """Put the finished dataset in its place; an older one goes with all that was computed from it."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _describe_full_disk(source: Source, inspection: Inspection, folder: Path) -> str:
    done, total = len(inspection.digests), count_records(source)
    # The images are on the disk twice for a moment: as they stream in, and in the dataset's shards.
    need = f"{2 * inspection.image_bytes * total / done / 1e9:.2g} GB" if done and total else "twice its images' size"
    return (
        f"{folder}: the disk is full; preparing {source.name} needs about {need} free; free some, or use --data-folder"
    )


def _warn(manifest: dict[str, Any], folder: Path) -> None:
    for split, count in manifest["images"].items():
        if count == 0:
            logger.warning("warning: %s has no images in split %s", folder, split)
    for key, what in (("skipped", "left out"), ("duplicates", "the same image in two splits")):
        for entry in manifest[key][:NOTES_SHOWN]:
            logger.warning("note: %s: %s", what, entry)
        if len(manifest[key]) > NOTES_SHOWN:
            logger.warning("note: %s: %d more, in %s", what, len(manifest[key]) - NOTES_SHOWN, folder / MANIFEST)
