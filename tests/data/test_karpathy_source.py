"""Karpathy's JSON for each dataset that it was made for."""

import json

import pytest
from source_layouts import check, write_images, write_karpathy

from captioner.data.sources import read_source
from captioner.errors import DataError


@pytest.mark.parametrize(
    ("file", "images", "expected"),
    [
        ("dataset_flickr30k.json", "flickr30k-images", 29000),
        ("dataset_flickr8k.json", "Images", 6000),
        ("dataset_coco.json", "train2014", 113287),
        ("dataset.json", ".", None),
    ],
)
def test_karpathy(tmp_path, file, images, expected):
    write_images(tmp_path / images)
    write_karpathy(tmp_path, file, filepath=images)
    source = read_source("karpathy", tmp_path)
    check(source)
    assert (source.expected or {}).get("train") == expected


def test_karpathy_json_with_a_trailing_comma(tmp_path):
    write_images(tmp_path)
    (tmp_path / "dataset.json").write_text('{"images": [\n  {"filename": "a.jpg"},\n]}')
    with pytest.raises(
        DataError, match=r"dataset\.json: is not JSON \(line [23], .*a comma before the closing bracket"
    ):
        read_source("karpathy", tmp_path)


def test_karpathy_entries_that_are_wrong(tmp_path):
    write_images(tmp_path)
    entries = [{"filename": "a.jpg"}, {"filename": "b.jpg", "split": "dev2", "sentences": []}, 7]
    (tmp_path / "dataset.json").write_text(json.dumps({"images": entries}))
    assert read_source("karpathy", tmp_path).problems == [
        "dataset.json: image number 0 has no filename, split or sentences",
        "dataset.json: b.jpg has the unknown split 'dev2'",
        "dataset.json: image number 2 has no filename, split or sentences",
    ]
    (tmp_path / "dataset.json").write_text("[]")
    with pytest.raises(DataError, match='has no list "images"; it is not a Karpathy JSON'):
        read_source("karpathy", tmp_path)
