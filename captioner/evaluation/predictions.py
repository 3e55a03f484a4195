"""Captions of any system, read from a file and brought together with the images they are for."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from captioner.data.photo_names import number_key
from captioner.data.records import parse_json, read_json, read_lines
from captioner.errors import DataError
from captioner.evaluation.references import ReferenceSet, name_some, refuse_torn_text

NAME_KEYS = ("image_id", "image", "file_name", "path")
"""What an image's name goes by; ``caption --output`` writes a path, of which the file's name counts."""

Prediction = tuple[str, str]
"""An image's name or number, and its caption."""


def read_predictions(path: str | Path) -> list[Prediction]:
    """Read one caption an image.

    Arguments:
        path: COCO's result format, ``[{"image_id": …, "caption": …}]`` in .json; the same objects a line in .jsonl;
            or .csv with columns image_id and caption. ``image``, ``file_name`` and ``path`` will do for ``image_id``.

    Raises DataError where the file is missing, malformed or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; check --predictions")
    readers = {".json": _read_coco_results, ".jsonl": _read_jsonl, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: predictions are read from .json, .jsonl or .csv")
    predictions = list(readers[path.suffix.lower()](path))
    if not predictions:
        raise DataError(f"{path}: has no predictions")
    return predictions


def align_predictions(
    predictions: list[Prediction], references: ReferenceSet, *, allow_missing: bool = False
) -> tuple[list[str], ReferenceSet]:
    """Bring predictions into the order of the references.

    Arguments:
        predictions: as ``read_predictions`` gives them.
        references: the images, with all the names that they go by.
        allow_missing: leave out images without a prediction, instead of refusing.

    Returns one caption an image, and the references of these images.
    Raises DataError, with counts and names, for images that are predicted twice, unknown, or without a prediction.
    """
    predictions, names = _match_names(predictions, references)
    captions, known = dict(predictions), set(names)
    doubled = [name for name, count in Counter(name for name, _ in predictions).items() if count > 1]
    extra = [name for name in captions if name not in known]
    missing = [name for name in names if name not in captions]
    where = f"the references{f' of split {references.split}' * bool(references.split)}"
    problems = [f"{name_some(doubled)} predicted more than once"] if doubled else []
    problems += [f"{name_some(extra)} not in {where}"] if extra else []
    problems += [f"{name_some(missing)} of {where} without a prediction"] if missing and not allow_missing else []
    if len(extra) == len(captions):
        raise DataError(
            f"predictions are of other images ({', '.join(extra[:3])}) than {where} ({', '.join(names[:3])}); "
            "give image ids as the references have them, and the right --split"
        )
    if problems:
        advice = "give one caption for each image" + (
            ", or --allow-different-set to score those that there are" if missing and not doubled and not extra else ""
        )
        raise DataError(f"predictions do not fit the references: {'; '.join(problems)}; {advice}")
    rows = [row for row, name in enumerate(names) if name in captions]
    return [captions[names[row]] for row in rows], references.select(rows) if missing else references


def _match_names(predictions: list[Prediction], references: ReferenceSet) -> tuple[list[Prediction], list[str]]:
    """The predictions and the images of the references, both under the kind of names in which most of them meet.

    These are file names, without their folder or ending too, or numbers. Predictions are taken by the names they have,
    or else without folder, or else by the number of the photo: 391895 is COCO_val2014_000000391895.jpg.
    """
    kinds = [
        references.image_ids,
        [PurePosixPath(name).name for name in references.image_ids],
        [PurePosixPath(name).stem for name in references.image_ids],
        *references.other_names.values(),
        [_photo_number(name) for name in references.image_ids],
    ]
    unambiguous = [names for names in kinds if len(set(names)) == len(names)]
    for rename in (str, _file_name, _photo_number):
        renamed = [(rename(name), caption) for name, caption in predictions]
        given = {name for name, _ in renamed}
        names = max(unambiguous, key=lambda names: len(given.intersection(names)))
        if not given.isdisjoint(names):
            return renamed, names
    return predictions, unambiguous[0]


def _file_name(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


def _photo_number(name: str) -> str:
    """The number that COCO or Flickr gave a photo, for any of its file names; other names as they are."""
    key = number_key(_file_name(name))
    return key.partition(":")[2] if key else name


def _read_coco_results(path: Path) -> Iterator[Prediction]:
    content = read_json(path)
    if not isinstance(content, list):
        raise DataError(f'{path}: is not a list like [{{"image_id": 1, "caption": "…"}}], COCO\'s result format')
    for number, entry in enumerate(content, start=1):
        yield _take(entry, f"{path} entry {number}")


def _read_jsonl(path: Path) -> Iterator[Prediction]:
    for number, line in read_lines(path):
        yield _take(parse_json(line, path, line=number), f"{path} line {number}")


def _read_csv(path: Path) -> Iterator[Prediction]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            file.seek(0)
            # Spreadsheets write the separator of the computer's language.
            rows = csv.DictReader(file, delimiter=max(",;\t", key=header.count))
            columns = rows.fieldnames or []
            if "caption" not in columns or not set(NAME_KEYS) & set(columns):
                raise DataError(f"{path} line 1: has columns {', '.join(columns) or 'none'}; use image_id and caption")
            for row in rows:
                if None in row:
                    raise DataError(f"{path} line {rows.line_num}: has more fields than the header; quote its caption")
                yield _take(row, f"{path} line {rows.line_num}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: is not CSV ({error}); correct it there") from error


def _take(entry: Any, place: str) -> Prediction:
    if not isinstance(entry, dict):
        raise DataError(f'{place}: is not an object like {{"image_id": 1, "caption": "…"}}')
    key = next((key for key in NAME_KEYS if entry.get(key) not in (None, "")), None)
    if key is None:
        raise DataError(f'{place}: has no "image_id"; give the image\'s number or file name')
    if not isinstance(entry[key], str | int) or isinstance(entry[key], bool):
        raise DataError(f'{place}: has an "{key}" that is neither a text nor a whole number; correct it there')
    if not isinstance(entry.get("caption"), str):
        raise DataError(f'{place}: has {"no" if entry.get("caption") is None else "another"} "caption"; give one text')
    name = str(entry[key])
    for what, text in ((key, name), ("caption", entry["caption"])):
        refuse_torn_text(text, f'{place}: its "{what}"')
    return (_file_name(name) if key == "path" else name), entry["caption"]
