"""Flickr30k from the Hugging Face Hub (nlphuji/flickr30k): its CSV and zip, or the Hub's parquet conversion.

The repository ships a loading script, which ``datasets`` refuses since version 4; these readers take its files instead.
Both also read copies of the same files from a local folder, without the network.
"""

import csv
import json
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from captioner.data.records import (
    FLICKR30K_IMAGES,
    SPLIT_ALIASES,
    Record,
    Source,
    clean_caption,
    describe_json_error,
    find_file,
    hash_files,
    index_images,
    missing_image,
    require_file,
    require_root,
)
from captioner.errors import DISK_FULL, DataError, HubError

logger = logging.getLogger(__name__)

REPOSITORY = "nlphuji/flickr30k"
REVISION = "2b239befc81b6e3f035ce6bd52f5f4d60f5625f7"
PARQUET_BRANCH = "refs/convert/parquet"
ANNOTATIONS = "flickr_annotations_30k.csv"
IMAGES = "flickr30k-images.zip"


def read_flickr30k(root: Path | None, seed: int = 0) -> Source:
    """Flickr30k from the Hub's CSV and zip, or from a folder that holds them (the images may be unzipped).

    Raises HubError if the Hub cannot be reached or refuses, DataError if a file is malformed.
    """
    if root is None:
        annotations, archive = _download(ANNOTATIONS, REVISION), _download(IMAGES, REVISION)
        revision = f"{REPOSITORY}@{REVISION}"
    else:
        root = require_root(root, "flickr30k")
        annotations, archive = require_file(root, ANNOTATIONS), find_file(root, IMAGES)
        revision = hash_files(annotations)
    source = Source("flickr30k", (), revision, expected=FLICKR30K_IMAGES, captions_per_image=5, root=root)
    loaders: Mapping[str, Callable[[], bytes]]
    if archive:
        loaders = _index_zip(archive)
    else:
        assert root is not None
        loaders = {name: path.read_bytes for name, path in index_images(root).items()}
    source.records = list(_read_annotations(annotations, loaders, source.problems, place=archive or root))
    return source


def read_flickr30k_parquet(root: Path | None, seed: int = 0) -> Source:
    """Flickr30k from the Hub's parquet conversion, or from a folder that holds its .parquet files.

    The conversion holds all images in one split named test; the column ``split`` tells the real one.

    Raises HubError if the Hub cannot be reached or refuses, DataError if a file is malformed.
    """
    if root is None:
        commit, names = _list_parquet_files()
        files = [_download(name, commit) for name in names]
        revision = f"{REPOSITORY}@{commit}"
    else:
        root = require_root(root, "flickr30k-parquet")
        files = sorted(root.rglob("*.parquet"))
        if not files:
            raise DataError(f"{root}: has no .parquet files in it or below; check --root")
        revision = hash_files(*files)
    source = Source("flickr30k-parquet", (), revision, expected=FLICKR30K_IMAGES, captions_per_image=5, root=root)
    source.records = _read_parquet(files, source.problems)
    return source


def _read_annotations(
    path: Path, loaders: Mapping[str, Callable[[], bytes]], problems: list[str], *, place: Path | None
) -> Iterator[Record]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            missing = {"raw", "split", "filename"} - set(rows.fieldnames or [])
            if missing:
                raise DataError(f"{path}: lacks the columns {', '.join(sorted(missing))}; download it again")
            for row in rows:
                name, split = row["filename"], SPLIT_ALIASES.get(row["split"] or "")
                try:
                    captions = json.loads(row["raw"] or "")
                except json.JSONDecodeError as error:
                    detail = describe_json_error(error)
                    problems.append(f"{path.name} line {rows.line_num}: column raw is not JSON ({detail})")
                    continue
                if not name or not split or not _is_texts(captions):
                    problems.append(f"{path.name} line {rows.line_num}: has no filename, split or list of captions")
                    continue
                load = loaders.get(name) or missing_image(name, place or path.parent)
                yield Record(name, split, tuple(map(clean_caption, captions)), load)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: is not a CSV file in UTF-8 ({error}); download it again") from error


def _index_zip(path: Path) -> dict[str, Callable[[], bytes]]:
    """Map the images' names to what reads them; members are read under zipfile's own lock, from any thread."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path}: is not a whole zip archive ({error}); download it again") from error
    members = [member for member in archive.namelist() if not member.startswith("__MACOSX/")]
    return {PurePosixPath(member).name: partial(_read_member, archive, member) for member in members}


def _read_member(archive: zipfile.ZipFile, member: str) -> bytes:
    try:
        return archive.read(member)
    except (zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{member} in {archive.filename}: is damaged ({error}); download the archive again") from error


def _read_parquet(files: Sequence[Path], problems: list[str]) -> Iterator[Record]:
    """Stream the rows, a few images in memory at a time; the images stay encoded."""
    import pyarrow
    import pyarrow.parquet

    for path in files:
        try:
            with pyarrow.parquet.ParquetFile(path) as table:
                missing = {"image", "caption", "split", "filename"} - set(table.schema_arrow.names)
                if missing:
                    raise DataError(f"{path}: lacks the columns {', '.join(sorted(missing))}; is it Flickr30k?")
                for batch in table.iter_batches(32, columns=["image", "caption", "split", "filename"]):
                    for row in batch.to_pylist():
                        yield from _parquet_record(row, path, problems)
        except pyarrow.ArrowInvalid as error:
            raise DataError(f"{path}: is not a whole parquet file ({error}); download it again") from error


def _parquet_record(row: Mapping[str, Any], path: Path, problems: list[str]) -> Iterator[Record]:
    name, split, data = row["filename"], SPLIT_ALIASES.get(row["split"] or ""), (row["image"] or {}).get("bytes")
    if not name or not split or not _is_texts(row["caption"]):
        problems.append(f"{path.name}: {name or 'a row'} has no filename, split or list of captions")
        return
    load = (lambda: data) if data else missing_image(name, path)
    yield Record(name, split, tuple(map(clean_caption, row["caption"])), load)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _download(filename: str, revision: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _hub_errors(filename):
        return Path(hf_hub_download(REPOSITORY, filename, repo_type="dataset", revision=revision))


def _list_parquet_files() -> tuple[str, list[str]]:
    """Commit of the parquet branch and its files; the branch moves, so the files are fetched at this commit."""
    from huggingface_hub import HfApi

    with _hub_errors(PARQUET_BRANCH):
        info = HfApi().dataset_info(REPOSITORY, revision=PARQUET_BRANCH)
    names = sorted(file.rfilename for file in info.siblings or () if file.rfilename.endswith(".parquet"))
    if not names or not info.sha:
        raise HubError(f"{REPOSITORY}: has no parquet files on {PARQUET_BRANCH}; use the source flickr30k instead")
    return info.sha, names


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    logger.info("fetching %s of %s from the Hugging Face Hub, unless it is cached", what, REPOSITORY)
    hub_logger = logging.getLogger("huggingface_hub")
    level = hub_logger.level
    hub_logger.setLevel(logging.ERROR)  # each of its five retries would warn in two lines
    try:
        yield
    except (OSError, HTTPError, EntryNotFoundError) as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        reason = " ".join(str(error).split()).split(". ")[0] or type(error).__name__
        raise HubError(
            f"cannot fetch {what} of {REPOSITORY} from the Hugging Face Hub ({reason}); check the network and "
            "HF_HUB_OFFLINE, or name a folder with its files by --root"
        ) from error
    finally:
        hub_logger.setLevel(level)
