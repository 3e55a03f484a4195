"""What a score is measured on, and with what: the published splits, named and counted, and the metrics' versions.

A figure compares with a published one only where the images are the published ones. They are known by themselves,
whatever the set is called, and a set that merely has the name of a published split is told apart.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata

import captioner
from captioner.data.photo_names import image_key
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


# Flickr8k's lists are Flickr_8k.*Images.txt. Flickr30k's are those of Multi30k, which keeps Karpathy's split of 29,000,
# 1,014 and 1,000 images: https://github.com/multi30k/dataset/tree/master/data/task1/image_splits, val.txt and
# test_2016_flickr.txt. Of COCO's splits, and Flickr30k's training split, only the sizes are known here.
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
        {"validation": "a1e936e67e8c62af", "test": "315b83a89505893a"},
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


def describe_set(references: ReferenceSet, *, of: ReferenceSet | None = None) -> EvaluatedSet:
    """Name and count the images that are evaluated.

    Arguments:
        references: of the evaluated images.
        of: the whole split, where these are knowingly a part of it.
    """
    if of and len(of.image_ids) != len(references.image_ids):
        whole = describe_set(of)
        label = f"{len(references.image_ids):,} of the {whole.label}"
        return EvaluatedSet(label, fingerprint_ids(references.image_ids), whole.problem)
    fingerprint, count = fingerprint_ids(references.image_ids), len(references.image_ids)
    name, problem = f"{references.dataset} {references.split}".strip(), ""
    if protocol := _find_protocol(references):
        problem = _difference(protocol, references, fingerprint)
        name = f"{name}, not the {protocol.author} split" if problem else f"{protocol.author} {references.split}"
    elif known := _recognise(fingerprint):
        name = known
    return EvaluatedSet(f"{count:,} image{'s' * (count != 1)}, {name}", fingerprint, problem)


def refuse_different_set(evaluated: EvaluatedSet) -> None:
    """Raise DataError if the images are not those that their name promises."""
    if evaluated.problem:
        raise DataError(
            f"{evaluated.problem}: figures would not compare with published ones; "
            "prepare the published split, or give --allow-different-set to have that said in the result"
        )


def fingerprint_ids(image_ids: Iterable[str]) -> str:
    """SHA-256 of image ids, shortened to 16 digits; a photo's names in several datasets count as one."""
    return _hash(sorted(map(image_key, image_ids)))


def fingerprint_references(references: ReferenceSet) -> str:
    """SHA-256 of the image ids and their captions, in whatever order, shortened to 16 digits."""
    rows = zip(references.image_ids, references.captions, strict=True)
    return _hash(sorted("\t".join([image_key(name), *sorted(map(_squeeze, texts))]) for name, texts in rows))


def metric_versions(names: Iterable[str], made_with: Mapping[str, str]) -> dict[str, str]:
    """What computed each metric, with its version.

    Arguments:
        names: of metrics.
        made_with: what else some of them depend on, by their name: a dual encoder, document frequencies of a file.
    """
    ours = f"captioner {captioner.__version__}"
    theirs = f"pycocoevalcap {metadata.version('pycocoevalcap')}"
    others = {"METEOR": f"{ours} (METEOR 1.5, data of {theirs})", "SPICE": theirs}
    return {name: others.get(name, ours) + (f" ({made_with[name]})" if name in made_with else "") for name in names}


def _find_protocol(references: ReferenceSet) -> Protocol | None:
    """The protocol whose images these claim to be: by their reader, their dataset's name, or the size of its splits."""
    for protocol in PROTOCOLS:
        named = references.source in protocol.sources or references.dataset.lower() == protocol.dataset
        sized = references.source == "karpathy" and dict(references.counts) == dict(protocol.images)
        if (named or sized) and references.split in protocol.images:
            return protocol
    return None


def _recognise(fingerprint: str) -> str:
    """Whose split has these very images, and which: "Karpathy test"; empty where none is known to."""
    for protocol in PROTOCOLS:
        for split, known in protocol.fingerprints.items():
            if known == fingerprint:
                return f"{protocol.author} {split}"
    return ""


def _difference(protocol: Protocol, references: ReferenceSet, fingerprint: str) -> str:
    """In what the images are not the published ones, in words; empty where they are."""
    split, expected, count = references.split, protocol.images[references.split], len(references.image_ids)
    what = f"split {split} of {references.dataset}"
    if count != expected:
        return f"{what} has {count:,} images, the {protocol.author} {split} of {protocol.dataset} has {expected:,}"
    if references.split_rule.startswith(DRAWN_BY_HASH):
        return f"{what} was drawn {references.split_rule}"
    known = protocol.fingerprints.get(split)
    if known and known != fingerprint:
        return f"{what} has {count:,} images as the {protocol.author} {split} of {protocol.dataset} has, but others"
    return ""


def _squeeze(caption: str) -> str:
    return " ".join(caption.split())


def _hash(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()[:16]
