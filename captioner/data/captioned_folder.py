"""Reader of a plain folder: images and one captions.jsonl or captions.csv that names them."""

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from captioner.data.images import list_images
from captioner.data.records import (
    SPLIT_ALIASES,
    Record,
    Source,
    clean_caption,
    hash_files,
    missing_image,
    parse_json,
    read_lines,
    require_file,
    require_root,
    split_by_hash,
)
from captioner.errors import DataError

NAME_KEYS = ("image", "file_name")


def read_folder(root: Path | None, seed: int = 0) -> Source:
    """Read a folder of images with captions.jsonl or captions.csv; any number of captions an image, at least one.

    captions.jsonl: an object a line, ``{"image": "a.jpg", "captions": ["…", "…"], "split": "train"}``; ``file_name``
    and a single ``caption`` will do, and ``split`` may be left out. captions.csv: columns image, caption and, if
    wanted, split; a row a caption. Images without a split are assigned by hash: 90 % train, 5 % validation, 5 % test.

    Raises DataError if the folder or its captions file is missing or unreadable as a whole.
    """
    root = require_root(root, "folder")
    path = require_file(root, "captions.jsonl", "captions.csv")
    source = Source(name="folder", records=(), root=root, revision=_hash_folder(path))
    captions: dict[str, list[str]] = {}
    splits: dict[str, str] = {}
    rows = _read_jsonl(path, source.problems) if path.suffix == ".jsonl" else _read_csv(path, source.problems)
    for place, name, texts, split in rows:
        captions.setdefault(name, []).extend(texts)
        if split and splits.setdefault(name, split) != split:
            source.problems.append(f"{place}: {name} is in both {splits[name]} and {split}")
    unassigned = [name for name in captions if name not in splits]
    if unassigned:
        source.split_rule = f"by hash of the name, seed {seed}"
        splits.update(split_by_hash(unassigned, seed=seed))
    source.records = [
        Record(name, splits[name], tuple(captions[name]), _loader(path.parent, name)) for name in captions
    ]
    files = (image.relative_to(path.parent).as_posix() for image in list_images(path.parent))
    source.skipped += [f"{name}: has no captions in {path.name}" for name in files if name not in captions]
    return source


def _loader(folder: Path, name: str):
    path = folder / name
    return path.read_bytes if path.is_file() else missing_image(name, folder)


def _hash_folder(path: Path) -> str:
    """Revision of the captions file together with the names and sizes of the images beside it."""
    images = "\n".join(f"{image.relative_to(path.parent)} {image.stat().st_size}" for image in list_images(path.parent))
    return f"{hash_files(path)}+{hashlib.sha256(images.encode()).hexdigest()[:16]}"


Row = tuple[str, str, list[str], str | None]
"""Place in the captions file, image, captions, split."""


def _read_jsonl(path: Path, problems: list[str]) -> Iterator[Row]:
    for number, line in read_lines(path):
        place = f"{path.name} line {number}"
        try:
            row = parse_json(line, path.name, line=number)
        except DataError as error:
            problems.append(str(error))
            continue
        if not isinstance(row, dict):
            problems.append(f'{place}: is not an object like {{"image": "a.jpg", "captions": ["…"]}}')
            continue
        texts = row.get("captions", row.get("caption"))
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            problems.append(f'{place}: has no "captions" (a list of texts) or "caption" (a text)')
            continue
        yield from _check_row(place, row, texts, problems)


def _read_csv(path: Path, problems: list[str]) -> Iterator[Row]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            # Spreadsheets write the separator of the computer's language.
            rows = csv.DictReader(file, delimiter=max(",;\t|", key=header.count), skipinitialspace=True)
            columns = rows.fieldnames or []
            if "caption" not in columns or not set(NAME_KEYS) & set(columns):
                raise DataError(f"{path}: has columns {', '.join(columns) or 'none'}; it needs image and caption")
            for row in rows:
                place = f"{path.name} line {rows.line_num}"
                if None in row:
                    problems.append(f"{place}: has more fields than the header; put captions with commas in quotes")
                elif row["caption"] is None:
                    problems.append(f"{place}: has no caption")
                else:
                    yield from _check_row(place, row, [row["caption"]], problems)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV ({error}); correct it there") from error


def _check_row(place: str, row: dict, texts: list[str], problems: list[str]) -> Iterator[Row]:
    name = next((row[key] for key in NAME_KEYS if row.get(key)), None)
    split = row.get("split") or None
    if not isinstance(name, str):
        problems.append(f'{place}: has no "image" (a file\'s name)')
    elif split is not None and (not isinstance(split, str) or split not in SPLIT_ALIASES):
        problems.append(f"{place}: has the unknown split {split!r}; use train, validation or test")
    else:
        name = PurePosixPath(name.replace("\\", "/")).as_posix()
        yield place, name, [clean_caption(text) for text in texts], split and SPLIT_ALIASES[split]
