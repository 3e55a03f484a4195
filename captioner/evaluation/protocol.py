"""What a score is measured on, and with what: the published splits, named and counted, and the metrics' versions.

A figure compares with a published one only where the images are the published ones; a set that merely has the name of
a published split is told apart here.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import PurePosixPath

import captioner
from captioner.data.photo_names import photo_key
from captioner.data.records import COCO_IMAGES, FLICKR8K_IMAGES, FLICKR30K_IMAGES
from captioner.errors import DataError
from captioner.evaluation.references import ReferenceSet

TOKENIZER = "PTBTokenizer 3.4.1 and COCO's list of punctuation, in Python"
DRAWN_BY_HASH = "by hash"
"""How the split rule of a manifest begins where the splits are not the published ones."""


@dataclass(frozen=True)
class Protocol:
    """The published splits of one dataset."""

    dataset: str
    sources: tuple[str, ...]
    """The readers that read these splits."""
    images: Mapping[str, int]
    author: str
    """Whose splits they are, as papers call them."""
    fingerprints: Mapping[str, str] = field(default_factory=dict)
    """Of the image ids of each split, where they are known."""


PROTOCOLS = (
    Protocol(
        "flickr8k",
        ("flickr8k",),
        FLICKR8K_IMAGES,
        "published",
        {"train": "8797beeafc23b9df", "validation": "47335bb5812960f4", "test": "3e8a1f0717373579"},
    ),
    Protocol(
        "flickr30k",
        ("flickr30k", "flickr30k-parquet", "flickr30k-kaggle", "flickr30k-token"),
        FLICKR30K_IMAGES,
        "Karpathy",
    ),
    Protocol("coco", (), COCO_IMAGES, "Karpathy"),
)


@dataclass(frozen=True)
class EvaluatedSet:
    """Which images a score is of."""

    label: str
    """In words: "1,000 images, Karpathy test"."""
    fingerprint: str
    """SHA-256 of the image ids, in whatever order, shortened to 16 digits."""
    problem: str = ""
    """Why the images are not those that their name promises; empty where they are, or where nothing is promised."""


def describe_set(references: ReferenceSet, *, of: int | None = None) -> EvaluatedSet:
    """Name and count the images that are evaluated.

    Arguments:
        references: of the evaluated images.
        of: how many images the split has, where these are knowingly a part of it.
    """
    fingerprint = fingerprint_ids(references.image_ids)
    count, split = of or len(references.image_ids), references.split
    protocol = _find_protocol(references)
    name, problem = f"{references.dataset} {split}".strip(), ""
    if protocol:
        problem = _difference(protocol, references, count, fingerprint, whole=not of)
        name = f"{name}, not the {protocol.author} split" if problem else f"{protocol.author} {split}"
    part = f"{len(references.image_ids):,} of the " if of and of != len(references.image_ids) else ""
    return EvaluatedSet(f"{part}{count:,} image{'s' * (count != 1)}, {name}", fingerprint, problem)


def refuse_different_set(evaluated: EvaluatedSet) -> None:
    """Raise DataError if the images are not those that their name promises."""
    if evaluated.problem:
        raise DataError(
            f"{evaluated.problem}: figures would not compare with published ones; "
            "prepare the published split, or give --allow-different-set to have that said in the result"
        )


def fingerprint_ids(image_ids: Iterable[str]) -> str:
    """SHA-256 of image ids, shortened to 16 digits; a photo's names in several datasets count as one."""
    keys = sorted(photo_key(name) or PurePosixPath(name).as_posix() for name in image_ids)
    return _hash(keys)


def fingerprint_references(references: ReferenceSet) -> str:
    """SHA-256 of the image ids and their captions, in whatever order, shortened to 16 digits."""
    rows = zip(references.image_ids, references.captions, strict=True)
    return _hash(sorted("\t".join([photo_key(name) or name, *sorted(map(_squeeze, texts))]) for name, texts in rows))


def metric_versions(names: Iterable[str]) -> dict[str, str]:
    """What computed each metric, with its version."""
    ours = f"captioner {captioner.__version__}"
    theirs = f"pycocoevalcap {metadata.version('pycocoevalcap')}"
    others = {"METEOR": f"{ours} (METEOR 1.5, data of {theirs})", "SPICE": theirs}
    return {name: others.get(name, ours) for name in names}


def _find_protocol(references: ReferenceSet) -> Protocol | None:
    """The protocol whose images these claim to be: by their reader, their dataset's name, or the size of its splits."""
    for protocol in PROTOCOLS:
        named = references.source in protocol.sources or references.dataset.lower() == protocol.dataset
        sized = references.source == "karpathy" and dict(references.counts) == dict(protocol.images)
        if (named or sized) and references.split in protocol.images:
            return protocol
    return None


def _difference(protocol: Protocol, references: ReferenceSet, count: int, fingerprint: str, *, whole: bool) -> str:
    """In what the images are not the published ones, in words; empty where they are."""
    split, expected = references.split, protocol.images[references.split]
    what = f"split {split} of {references.dataset}"
    if count != expected:
        return f"{what} has {count:,} images, the {protocol.author} {split} of {protocol.dataset} has {expected:,}"
    if references.split_rule.startswith(DRAWN_BY_HASH):
        return f"{what} was drawn {references.split_rule}"
    known = protocol.fingerprints.get(split) if whole and references.source != "karpathy" else None
    if known and known != fingerprint:
        return f"{what} has {count:,} images as the {protocol.author} {split} has, but others"
    return ""


def _squeeze(caption: str) -> str:
    return " ".join(caption.split())


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]
