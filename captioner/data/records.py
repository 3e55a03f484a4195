"""What every reader gives: records of one image with its captions, and the source they come from."""

import hashlib
import html
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from captioner.data.images import list_images
from captioner.errors import DataError, ImageError

SPLITS = ("train", "validation", "test")
SPLIT_ALIASES = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy: the part of COCO's validation images that everyone trains on
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
FLICKR8K_IMAGES = {"train": 6000, "validation": 1000, "test": 1000}
"""Hodosh, Young and Hockenmaier (JAIR 47, 2013), section 3."""
FLICKR30K_IMAGES = {"train": 29000, "validation": 1014, "test": 1000}
"""Karpathy and Fei-Fei (CVPR 2015): the splits that published figures are measured on."""
COCO_IMAGES = {"train": 113287, "validation": 5000, "test": 5000}
"""Karpathy's splits of MS COCO 2014, restval counted as train."""
REST = "rest"
"""The split of images that the source lists in no split; used only with splits="all"."""


@dataclass(frozen=True)
class Record:
    """One image with its captions."""

    image_id: str
    """The file's name."""
    split: str
    """train, validation, test, test_unseen or rest."""
    captions: tuple[str, ...]
    load: Callable[[], bytes]
    """Reads the encoded image; raises OSError or a DataError."""
    objects: tuple[str, ...] | None = None
    """What is in the picture, where the source knows."""


@dataclass
class Source:
    """A set of captioned images, as a reader found it."""

    name: str
    records: Iterable[Record]
    """Read once; may be a generator."""
    revision: str = ""
    """What tells this state of the source from another: a commit, or a hash of its caption files."""
    skipped: list[str] = field(default_factory=list)
    """What the source holds but is knowingly left out, each as "name: reason"."""
    problems: list[str] = field(default_factory=list)
    """What is wrong with the source's files, each as "file: reason"; complete once the records are read."""
    expected: Mapping[str, int] | None = None
    """Images a split that the source is known to have."""
    captions_per_image: int | None = None
    """Captions that every image is known to have."""
    split_rule: str = "the source's own"
    """Where the splits come from."""
    root: Path | None = None
    """The folder it was read from, where there is one."""


def clean_caption(text: str) -> str:
    """Unescape HTML entities and make every run of white space one space; case and punctuation stay."""
    return " ".join(html.unescape(text).split())


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give the non-blank lines of a UTF-8 text file with their numbers; raises DataError for other encodings."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error


def read_json(path: Path) -> Any:
    """Read a JSON file; raises DataError naming line and column where it is malformed."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save it as UTF-8") from error
    if not text.strip():
        raise DataError(f"{path}: is empty; write it again")
    return parse_json(text, path)


def parse_json(text: str, path: Path | str, *, line: int | None = None) -> Any:
    """Parse a file's JSON, or one line of it; raises DataError naming line and column where it is malformed."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is not JSON ({describe_json_error(error, line=line)}); correct it there") from error
    except (ValueError, RecursionError) as error:
        where = f" line {line}" if line else ""
        raise DataError(f"{path}{where}: has too long a number, or too many brackets; correct it there") from error


def describe_json_error(error: json.JSONDecodeError, *, line: int | None = None) -> str:
    """One clause that says where and why JSON is malformed, in words that fit a superfluous comma and a torn file."""
    before, after = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    if (before.endswith(",") and after[:1] in ("]", "}")) or error.msg.startswith("Illegal trailing comma"):
        message = "a comma before the closing bracket"
    elif after.startswith(",") and error.msg == "Extra data":
        message = "a comma behind the closing bracket"
    elif not after or error.msg.startswith("Unterminated string"):
        message = "it breaks off here"
    else:
        message = error.msg
    return f"line {line or error.lineno}, column {error.colno}: {message}"


def require_root(root: Path | None, source: str) -> Path:
    """Return the source's folder; raises DataError if none was given or it is not there."""
    if root is None:
        raise DataError(f"{source} is read from a folder; name it with --root FOLDER")
    if not root.is_dir():
        raise DataError(f"{root}: {'is a file, not a folder' if root.exists() else 'no such folder'}; check --root")
    return root


def find_file(root: Path, *names: str) -> Path | None:
    """Return the first file with one of these names (or patterns) in the folder or one folder below."""
    for name in names:
        for pattern in (name, f"*/{name}"):
            found = sorted(path for path in root.glob(pattern) if path.is_file())
            if found:
                return found[0]
    return None


def require_file(root: Path, *names: str) -> Path:
    """Like find_file; raises DataError if there is none."""
    found = find_file(root, *names)
    if found is None:
        raise DataError(f"{root}: has no {' or '.join(names)}; check --root")
    return found


def index_images(root: Path) -> dict[str, Path]:
    """Map the name of every image under the folder to its path; raises DataError if there is none."""
    index = {path.name: path for path in list_images(root)}
    if not index:
        raise DataError(f"{root}: has no images in it or below; put the image folder there")
    return index


def hash_files(*paths: Path) -> str:
    """Revision of a local source: SHA-256 over its caption files, shortened to 16 digits."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()[:16]}"


def missing_image(name: str, root: Path | str) -> Callable[[], bytes]:
    """A ``load`` for an image that the source's captions name but its files lack."""

    def load() -> bytes:
        raise ImageError(f"{name}: no such image in {root}")

    return load


def split_by_hash(
    names: Iterable[str], *, seed: int = 0, sizes: Mapping[str, int] | None = None
) -> list[tuple[str, str]]:
    """Assign images to splits by the order of their names' SHA-256, the same on every machine and in every order.

    Arguments:
        names: the images.
        seed: another seed gives other splits.
        sizes: images a split; what is left over goes to "rest". None, or more than there are images: 90 % train,
            5 % validation, 5 % test, at least one in each where there are three images.

    Returns pairs of name and split.
    """
    ordered = sorted(names, key=lambda name: (hashlib.sha256(f"{seed}:{name}".encode()).digest(), name))
    if sizes is None or sum(sizes.values()) > len(ordered):
        held_out = max(1, round(0.05 * len(ordered))) if len(ordered) >= 3 else 0
        sizes = {"train": len(ordered) - 2 * held_out, "validation": held_out, "test": held_out}
    pairs, start = [], 0
    for split, size in (*sizes.items(), (REST, len(ordered))):
        pairs += [(name, split) for name in ordered[start : start + size]]
        start += size
    return pairs
