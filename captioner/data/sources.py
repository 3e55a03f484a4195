"""Readers of captioned images in the layouts they are handed round in; one reader each, all giving a Source."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from captioner.data.captioned_folder import read_folder
from captioner.data.flickr30k_hub import read_flickr30k, read_flickr30k_parquet
from captioner.data.records import (
    COCO_IMAGES,
    FLICKR8K_IMAGES,
    FLICKR30K_IMAGES,
    REST,
    SPLIT_ALIASES,
    Record,
    Source,
    clean_caption,
    find_file,
    hash_files,
    index_images,
    missing_image,
    read_json,
    read_lines,
    require_file,
    require_root,
    split_by_hash,
)
from captioner.errors import DataError

Reader = Callable[[Path | None, int], Source]
"""Folder of the source's files (None where it needs none) and seed (of what it draws, if it draws) -> Source."""


def read_source(name: str, root: str | Path | None = None, *, seed: int = 0) -> Source:
    """Read a source by its name in SOURCES.

    Arguments:
        name: a key of SOURCES.
        root: folder of the source's files; None or empty for those that need none.
        seed: of the pictures of ``scenes``, and of splits that are drawn.

    Raises DataError for an unknown name and for missing or malformed files, HubError if the Hub cannot be reached.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise DataError(f"unknown source {name!r}; {hint}the sources are {', '.join(SOURCES)}")
    return SOURCES[name](Path(root) if root else None, seed)


def read_scenes(root: Path | None = None, seed: int = 0) -> Source:
    """The embedded set: pictures drawn while they are read, so that no folder is needed."""
    from captioner.data import scenes

    def draw() -> Iterator[Record]:
        for picture in scenes.generate_scenes(seed=seed):
            captions = tuple(clean_caption(caption) for caption in picture.captions)
            yield Record(picture.image_id, picture.split, captions, lambda image=picture.image: image, picture.objects)

    return Source("scenes", draw(), revision=f"seed {seed}", expected=scenes.SPLIT_SIZES)


def read_flickr8k(root: Path | None, seed: int = 0) -> Source:
    """Flickr8k as published: Flickr8k.token.txt, the three lists of images and the image folder, flat or as unzipped.

    Five of its captions belong to ``2258277193_586949ec62.jpg.1``, which has no image; they are skipped and noted.
    """
    root = require_root(root, "flickr8k")
    token = require_file(root, "Flickr8k.token.txt")
    lists = {
        "train": require_file(root, "Flickr_8k.trainImages.txt"),
        "validation": require_file(root, "Flickr_8k.devImages.txt"),
        "test": require_file(root, "Flickr_8k.testImages.txt"),
    }
    return _read_token_layout("flickr8k", root, token=token, lists=lists, expected=FLICKR8K_IMAGES)


def read_flickr30k_token(root: Path | None, seed: int = 0) -> Source:
    """Flickr30k as published: results_20130124.token, Karpathy's splits as three lists, and the image folder."""
    root = require_root(root, "flickr30k-token")
    token = require_file(root, "results_20130124.token")
    lists = {
        "train": require_file(root, "train.txt", "flickr30k_train.txt"),
        "validation": require_file(root, "val.txt", "flickr30k_val.txt"),
        "test": require_file(root, "test.txt", "flickr30k_test.txt"),
    }
    return _read_token_layout("flickr30k-token", root, token=token, lists=lists, expected=FLICKR30K_IMAGES)


def read_flickr30k_kaggle(root: Path | None, seed: int = 0) -> Source:
    """Kaggle's Flickr30k: results.csv, separated by ``|``, and flickr30k_images/, which may be nested twice.

    It comes without splits. Karpathy's are taken from a dataset_flickr30k.json in the folder; without one, 29,000 /
    1,014 / 1,000 images are drawn by hash: figures measured on them do not compare with published ones.
    """
    root = require_root(root, "flickr30k-kaggle")
    results = require_file(root, "results.csv")
    karpathy = find_file(root, "dataset_flickr30k.json")
    source = Source("flickr30k-kaggle", (), root=root, expected=FLICKR30K_IMAGES, captions_per_image=5)
    captions = _read_kaggle_captions(results, source.problems)
    if karpathy:
        source.split_rule = f"Karpathy's, from {karpathy.name}"
        splits = [(entry["filename"], _karpathy_split(entry)) for entry in _read_karpathy_entries(karpathy, source)]
    else:
        source.split_rule = f"by hash of the name, seed {seed}; not Karpathy's"
        splits = split_by_hash(captions, seed=seed, sizes=FLICKR30K_IMAGES)
    source.revision = hash_files(results, *([karpathy] if karpathy else []))
    source.records = _join(captions, splits, source)
    return source


def read_karpathy(root: Path | None, seed: int = 0) -> Source:
    """A Karpathy JSON (dataset_flickr30k.json, dataset_flickr8k.json or dataset_coco.json) beside an image folder.

    https://cs.stanford.edu/people/karpathy/deepimagesent/; its split "restval" counts as train.
    """
    root = require_root(root, "karpathy")
    path = require_file(root, "dataset*.json")
    known = {
        "dataset_flickr8k": (FLICKR8K_IMAGES, 5),
        "dataset_flickr30k": (FLICKR30K_IMAGES, 5),
        "dataset_coco": (COCO_IMAGES, None),
    }
    expected, captions_per_image = known.get(path.stem, (None, None))
    source = Source(
        "karpathy", (), hash_files(path), expected=expected, captions_per_image=captions_per_image, root=root
    )
    index = index_images(root)
    records = []
    for entry in _read_karpathy_entries(path, source):
        name = entry["filename"]
        captions = tuple(clean_caption(sentence["raw"]) for sentence in entry["sentences"])
        image = index.get(name)
        load = image.read_bytes if image else missing_image(name, root)
        records.append(Record(name, _karpathy_split(entry), captions, load))
    source.records = records
    return source


def _read_karpathy_entries(path: Path, source: Source) -> list[dict]:
    document = read_json(path)
    entries = document.get("images") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise DataError(f'{path}: has no list "images"; it is not a Karpathy JSON')
    good = []
    for number, entry in enumerate(entries):
        try:
            texts = [entry["filename"], entry["split"], *(sentence["raw"] for sentence in entry["sentences"])]
        except (KeyError, TypeError):
            texts = [None]
        if not all(isinstance(text, str) for text in texts):
            source.problems.append(f"{path.name}: image number {number} has no filename, split or sentences")
        elif entry["split"] not in SPLIT_ALIASES:
            source.problems.append(f"{path.name}: {entry['filename']} has the unknown split {entry['split']!r}")
        else:
            good.append(entry)
    return good


def _karpathy_split(entry: Mapping[str, str]) -> str:
    return SPLIT_ALIASES[entry["split"]]


def _read_kaggle_captions(path: Path, problems: list[str]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split("|", 2)]
        if number == 1 and fields[0] == "image_name":
            continue
        # One row of the published file lacks its second separator: "2199200615.jpg | 4   A dog runs across …".
        short = re.fullmatch(r"\d+\s+(.+)", fields[1]) if len(fields) == 2 else None
        if len(fields) < 3 and not short:
            problems.append(f"{path.name} line {number}: is not image | number | caption")
        else:
            captions.setdefault(fields[0], []).append(clean_caption(short[1] if short else fields[2]))
    return captions


def _read_token_layout(
    name: str, root: Path, *, token: Path, lists: Mapping[str, Path], expected: Mapping[str, int]
) -> Source:
    """A .token file, "image.jpg#0<tab>caption" a line, and a list of images a split (with or without .jpg)."""
    source = Source(name, (), hash_files(token, *lists.values()), expected=expected, captions_per_image=5, root=root)
    captions: dict[str, list[str]] = {}
    for number, line in read_lines(token):
        image, tab, caption = line.partition("\t")
        image, hash_sign, _ = image.rpartition("#")
        if not tab or not hash_sign:
            source.problems.append(f"{token.name} line {number}: is not image#number<tab>caption")
            continue
        captions.setdefault(image, []).append(clean_caption(caption))
    splits = []
    for split, path in lists.items():
        names = (line.strip() for _, line in read_lines(path))
        splits += [(name if name.lower().endswith(".jpg") else f"{name}.jpg", split) for name in names]
    source.records = _join(captions, splits, source)
    return source


def _join(captions: Mapping[str, list[str]], splits: Iterable[tuple[str, str]], source: Source) -> list[Record]:
    """Bring captions, splits and image files together; an image listed twice gives two records, for the check."""
    assert source.root is not None
    index = index_images(source.root)
    records = []
    listed = set()
    for name, split in splits:
        listed.add(name)
        load = index[name].read_bytes if name in index else missing_image(name, source.root)
        records.append(Record(name, split, tuple(captions.get(name, ())), load))
    for name in captions:
        if name in listed:
            continue
        if name in index:
            records.append(Record(name, REST, tuple(captions[name]), index[name].read_bytes))
        else:
            source.skipped.append(f"{name}: {len(captions[name])} captions in no split and without an image")
    return records


SOURCES: dict[str, Reader] = {
    "scenes": read_scenes,
    "flickr8k": read_flickr8k,
    "flickr30k": read_flickr30k,
    "flickr30k-parquet": read_flickr30k_parquet,
    "flickr30k-kaggle": read_flickr30k_kaggle,
    "flickr30k-token": read_flickr30k_token,
    "karpathy": read_karpathy,
    "folder": read_folder,
}
