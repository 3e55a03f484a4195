"""Reference captions in the layouts they are handed round in: COCO's annotations, Karpathy's JSON, a prepared split."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from captioner.data.records import SPLIT_ALIASES, read_json
from captioner.errors import DataError

ROWS_A_BLOCK = 1000
"""Images whose training captions are read at once."""


@dataclass(frozen=True)
class ReferenceSet:
    """The images of a split with their reference captions, and what is known of where they come from."""

    dataset: str
    """The dataset's name, as far as its files tell."""
    split: str
    """Empty where the file has only one."""
    image_ids: list[str]
    """File names, or numbers where there are none."""
    captions: list[list[str]]
    """Of each image, untokenized."""
    other_names: Mapping[str, list[str]] = field(default_factory=dict)
    """What else predictions may call the images, by kind of name: "COCO id" and so on."""
    source: str = ""
    """The reader that a prepared dataset was made by."""
    split_rule: str = "the source's own"
    counts: Mapping[str, int] = field(default_factory=dict)
    """Images of every split of the dataset."""
    fingerprint: str = ""
    """The prepared dataset's."""
    training: Iterable[str] | None = None
    """The captions of the dataset's training split, to be read once; None where there are none."""

    def select(self, rows: Sequence[int]) -> "ReferenceSet":
        """The same with only these images, in this order."""
        return replace(
            self,
            image_ids=[self.image_ids[row] for row in rows],
            captions=[self.captions[row] for row in rows],
            other_names={kind: [names[row] for row in rows] for kind, names in self.other_names.items()},
        )


def read_references(path: str | Path, split: str = "") -> ReferenceSet:
    """Read reference captions.

    Arguments:
        path: a COCO annotations file, a Karpathy JSON, or the folder of a prepared dataset.
        split: which split of the latter two, "test" where it is empty; a COCO file is one set and has none.

    Raises DataError where it is none of these, or has no such split.
    """
    path = Path(path)
    if path.is_dir():
        return _read_prepared(path, split or "test")
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder; check --references")
    document = read_json(path)
    if isinstance(document, dict) and isinstance(document.get("annotations"), list):
        if split:
            raise DataError(f"{path}: COCO annotations are one set, without splits; leave out --split {split}")
        return _read_coco(path, document)
    if isinstance(document, dict) and isinstance(document.get("images"), list):
        return _read_karpathy(path, document, split or "test")
    raise DataError(f"{path}: is neither COCO annotations, nor a Karpathy JSON, nor the folder of a prepared dataset")


def prepared_references(rows: Any, manifest: Mapping[str, Any], *, dataset: str, split: str) -> ReferenceSet:
    """The references of an opened split of a prepared dataset.

    Arguments:
        rows: the split, a ``datasets.Dataset``.
        manifest: the prepared dataset's, or an empty one where it is not known.
        dataset: the dataset's name.
        split: the split's name.
    """
    return ReferenceSet(
        dataset=dataset,
        split=split,
        image_ids=list(rows["image_id"]),
        captions=[list(captions) for captions in rows["captions"]],
        source=manifest.get("source", ""),
        split_rule=manifest.get("split_rule", ReferenceSet.split_rule),
        counts=manifest.get("images", {}),
        fingerprint=manifest.get("fingerprint", ""),
    )


def training_captions(dataset: Mapping[str, Any]) -> Iterable[str] | None:
    """The captions of a prepared dataset's training split, some at a time; None where it has none."""
    if "train" not in dataset or not len(dataset["train"]):
        return None
    blocks = dataset["train"].select_columns("captions").iter(ROWS_A_BLOCK)
    return (text for block in blocks for captions in block["captions"] for text in captions)


def prepared_rows(folder: Path, references: ReferenceSet) -> Any:
    """The rows of the prepared dataset that references were read from, in their order, a ``datasets.Dataset``."""
    from captioner.data.prepared import open_prepared, read_manifest

    rows = open_prepared(folder)[_find_split(folder, references.split, read_manifest(folder)["images"])]
    places = {name: row for row, name in enumerate(rows["image_id"])}
    return rows.select([places[name] for name in references.image_ids])


def _read_prepared(folder: Path, split: str) -> ReferenceSet:
    from captioner.data.prepared import open_prepared, read_manifest

    dataset, manifest = open_prepared(folder), read_manifest(folder)
    split = _find_split(folder, split, manifest["images"])
    references = prepared_references(dataset[split], manifest, dataset=folder.resolve().name, split=split)
    return replace(references, training=training_captions(dataset))


def _read_coco(path: Path, document: dict[str, Any]) -> ReferenceSet:
    """``images`` [{id, file_name}] and ``annotations`` [{image_id, caption}]: https://cocodataset.org/#format-data."""
    captions: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    try:
        images = document.get("images") or []
        listed = [str(image["id"]) for image in images]
        for number, image in zip(listed, images, strict=True):
            captions[number] = []
            names[number] = str(image.get("file_name") or number)
        for annotation in document["annotations"]:
            number = str(annotation["image_id"])
            captions.setdefault(number, []).append(_text(annotation["caption"], path, number))
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path}: an image without "id", or an annotation without "image_id" and "caption"') from error
    _refuse_doubled(path, listed)
    ids = [names.get(number, number) for number in captions]
    _check(path, ids, list(captions.values()))
    return ReferenceSet(path.stem, "", ids, list(captions.values()), {"COCO id": list(captions)})


def _read_karpathy(path: Path, document: dict[str, Any], split: str) -> ReferenceSet:
    """``images`` [{filename, split, sentences [{raw}]}]: https://cs.stanford.edu/people/karpathy/deepimagesent/."""
    try:
        splits = [SPLIT_ALIASES.get(entry["split"], entry["split"]) for entry in document["images"]]
        counts = Counter(splits)
        split = _find_split(path, split, counts)
        entries = [entry for entry, name in zip(document["images"], splits, strict=True) if name == split]
        ids = [entry["filename"] for entry in entries]
        captions = [_karpathy_captions(entry, path) for entry in entries]
        learnt = [entry for entry, name in zip(document["images"], splits, strict=True) if name == "train"]
        training = [text for entry in learnt for text in _karpathy_captions(entry, path)]
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: an image without filename, split or sentences; it is not a Karpathy JSON") from error
    _check(path, ids, captions)
    others = {kind: [str(entry[key]) for entry in entries] for kind, key in _numbers(entries)}
    name = str(document.get("dataset") or path.stem.removeprefix("dataset_"))
    return ReferenceSet(name, split, ids, captions, others, source="karpathy", counts=counts, training=training or None)


def _karpathy_captions(entry: dict[str, Any], path: Path) -> list[str]:
    return [_text(sentence["raw"], path, entry["filename"]) for sentence in entry["sentences"]]


def _numbers(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    kinds = (("COCO id", "cocoid"), ("imgid", "imgid"))
    return [(kind, key) for kind, key in kinds if all(key in entry for entry in entries)]


def _find_split(path: Path, split: str, counts: Mapping[str, int]) -> str:
    split = SPLIT_ALIASES.get(split, split)
    if not counts.get(split):
        raise DataError(f"{path}: has no images in a split {split}; it has {', '.join(map(str, counts)) or 'none'}")
    return split


def _check(path: Path, ids: list[str], captions: list[list[str]]) -> None:
    if not ids:
        raise DataError(f"{path}: has no images with captions")
    for name in ids:
        refuse_torn_text(str(name), f"{path}: the file name of an image")
    _refuse_doubled(path, ids)
    bare = [name for name, texts in zip(ids, captions, strict=True) if not texts]
    if bare:
        raise DataError(f"{path}: {name_some(bare)} without a caption")


def _refuse_doubled(path: Path, names: list[str]) -> None:
    if doubled := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(f"{path}: {name_some(doubled)} in it more than once")


def name_some(names: Sequence[str], shown: int = 3) -> str:
    """Count images and name the first: "5 images (a.jpg, b.jpg, c.jpg, …)"."""
    listed = ", ".join(names[:shown]) + (", …" if len(names) > shown else "")
    return f"{len(names):,} image{'s' * (len(names) != 1)} ({listed})"


def refuse_torn_text(text: str, what: str) -> None:
    """Raise DataError, which says what it is, for a text with half a character of JSON: no file could take it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        half = ascii(text[error.start])[1:-1]
        raise DataError(f"{what} has {half}, which is half a character; correct it there") from error


def _text(caption: Any, path: Path, image: Any) -> str:
    if not isinstance(caption, str):
        raise TypeError("a caption is a text")
    refuse_torn_text(caption, f"{path}: a caption of image {image}")
    return caption
