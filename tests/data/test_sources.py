"""What all sources have in common: drawn splits, the scenes, and what is not there."""

import io
from collections import Counter

import pytest
from PIL import Image
from source_layouts import NAMES, write_flickr8k

from captioner.data import scenes
from captioner.data.records import split_by_hash
from captioner.data.scenes import generate_scenes
from captioner.data.sources import SOURCES, read_source
from captioner.errors import DataError


def test_scenes(monkeypatch):
    sizes = {"train": 3, "validation": 1, "test": 1, "test_unseen": 1}
    monkeypatch.setattr(scenes, "generate_scenes", lambda seed: generate_scenes(seed, sizes))
    source = read_source("scenes", seed=5)
    records = list(source.records)
    assert Counter(record.split for record in records) == sizes
    assert all(record.objects and record.captions for record in records)
    assert Image.open(io.BytesIO(records[0].load())).format == "JPEG"
    assert (source.revision, source.expected) == ("seed 5", scenes.SPLIT_SIZES)
    assert len({record.load() for record in records}) == 6


def test_split_by_hash_ignores_order_and_keeps_shares():
    names = [f"{number}.jpg" for number in range(200)]
    pairs = split_by_hash(names)
    assert Counter(split for _, split in pairs) == {"train": 180, "validation": 10, "test": 10}
    assert dict(pairs) == dict(split_by_hash(reversed(names)))
    assert dict(pairs) != dict(split_by_hash(names, seed=1))
    sized = split_by_hash(names, sizes={"train": 150, "validation": 20, "test": 10})
    assert Counter(split for _, split in sized) == {"train": 150, "validation": 20, "test": 10, "rest": 20}


@pytest.mark.parametrize(("count", "held_out"), [(1, 0), (2, 0), (3, 1), (5, 1)])
def test_split_by_hash_of_few_images(count, held_out):
    splits = Counter(split for _, split in split_by_hash(map(str, range(count))))
    assert (splits["train"], splits["validation"], splits["test"]) == (count - 2 * held_out, held_out, held_out)


def test_unknown_source_offers_the_nearest():
    with pytest.raises(
        DataError, match=r"unknown source 'flickr30'; did you mean flickr30k\? the sources are scenes, "
    ):
        read_source("flickr30")


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in ("scenes", "flickr30k", "flickr30k-parquet")])
def test_a_folder_that_is_not_given_missing_or_empty(name, tmp_path):
    with pytest.raises(DataError, match=rf"{name} is read from a folder; name it with --root FOLDER"):
        read_source(name)
    with pytest.raises(DataError, match=r"missing: no such folder; check --root"):
        read_source(name, tmp_path / "missing")
    with pytest.raises(DataError, match=r"has no .* check --root"):
        read_source(name, tmp_path)


def test_captions_without_any_images(tmp_path):
    write_flickr8k(tmp_path)
    for name in NAMES:
        (tmp_path / "Images" / name).unlink()
    with pytest.raises(DataError, match=r"has no images in it or below; put the image folder there"):
        read_source("flickr8k", tmp_path)
