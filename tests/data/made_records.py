"""Records and sources made in memory."""

import hashlib
import io

import numpy
from PIL import Image

from captioner.data.records import Record, Source


def jpeg(seed: int) -> bytes:
    """A picture of noise."""
    file = io.BytesIO()
    values = numpy.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=numpy.uint8)
    Image.fromarray(values).save(file, "JPEG")
    return file.getvalue()


def record(name: str, split: str = "train", captions=("A dog .",), data: bytes | None = None, **options) -> Record:
    """An image with captions; its bytes follow from its name unless they are given."""
    data = jpeg(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")) if data is None else data
    return Record(name, split, tuple(captions), lambda: data, **options)


def source(*records: Record, **options) -> Source:
    """One image a split, and the given records."""
    three = [record("a.jpg"), record("b.jpg", "validation"), record("c.jpg", "test")]
    return Source("photos", [*three, *records], **({"revision": "r1"} | options))
