"""A plain folder of images with a file of captions."""

import csv
import json
from collections import Counter

import pytest
from source_layouts import IMAGES, NAMES, SPLIT_OF, captions_of, unescaped, write_images

from captioner.data.sources import read_source
from captioner.errors import DataError


def test_folder_with_jsonl(tmp_path):
    write_images(tmp_path / "photos")
    rows = [{"image": f"photos/{name}", "captions": captions_of(name), "split": SPLIT_OF[name]} for name in NAMES[:3]]
    rows += [{"file_name": "photos/4000.jpg", "caption": "A  cat\nsleeps .", "split": "test"}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    source = read_source("folder", tmp_path)
    records = {record.image_id: record for record in source.records}
    assert {name: record.split for name, record in records.items()} == {f"photos/{n}": SPLIT_OF[n] for n in NAMES}
    assert records["photos/1000.jpg"].captions == unescaped("1000.jpg")
    assert records["photos/4000.jpg"].captions == ("A cat sleeps .",)
    assert records["photos/4000.jpg"].load() == IMAGES["4000.jpg"]


@pytest.mark.parametrize("separator", [",", ";"])
def test_folder_with_csv_and_no_splits(tmp_path, separator):
    write_images(tmp_path)
    with (tmp_path / "captions.csv").open("w", newline="", encoding="utf-8-sig") as file:
        rows = csv.writer(file, delimiter=separator)
        rows.writerow(["image", "caption"])
        rows.writerows([name, caption] for name in NAMES[:3] for caption in ("A dog, running", "Ein Müller"))
    source = read_source("folder", tmp_path)
    assert all(record.captions == ("A dog, running", "Ein Müller") for record in source.records)
    assert Counter(record.split for record in source.records) == {"train": 1, "validation": 1, "test": 1}
    assert source.skipped == ["4000.jpg: has no captions in captions.csv"]


def test_folder_problems_are_collected_with_their_lines(tmp_path):
    write_images(tmp_path)
    lines = [
        '{"image": "1000.jpg", "captions": ["A dog ."],}',
        '{"captions": ["A dog ."]}',
        '{"image": "1000.jpg", "captions": [1]}',
        '["1000.jpg"]',
        '{"image": "1000.jpg", "caption": "A dog .", "split": "trian"}',
        '{"image": "1000.jpg", "caption": "A dog .", "split": ["train"]}',
        '{"image": "2000.jpg", "caption": "A dog .", "split": "train"}',
        '{"image": "2000.jpg", "caption": "A dog .", "split": "dev"}',
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    problems = read_source("folder", tmp_path).problems
    assert problems[0].startswith("captions.jsonl: is not JSON (line 1, column ")
    assert "a comma before the closing bracket" in problems[0]
    assert problems[1:] == [
        'captions.jsonl line 2: has no "image" (a file\'s name)',
        'captions.jsonl line 3: has no "captions" (a list of texts) or "caption" (a text)',
        'captions.jsonl line 4: is not an object like {"image": "a.jpg", "captions": ["…"]}',
        "captions.jsonl line 5: has the unknown split 'trian'; use train, validation or test",
        "captions.jsonl line 6: has the unknown split ['train']; use train, validation or test",
        "captions.jsonl line 8: 2000.jpg is in both train and validation",
    ]


def test_folder_csv_that_is_wrong(tmp_path):
    write_images(tmp_path)
    path = tmp_path / "captions.csv"
    path.write_text("file,text\n")
    with pytest.raises(DataError, match=r"has columns file, text; it needs image and caption"):
        read_source("folder", tmp_path)
    path.write_bytes("image,caption\n1000.jpg,Müller\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"is not UTF-8 text; save it as UTF-8"):
        read_source("folder", tmp_path)
    path.write_text("image,caption\n1000.jpg,A dog, running\n2000.jpg\n")
    assert read_source("folder", tmp_path).problems == [
        "captions.csv line 2: has more fields than the header; put captions with commas in quotes",
        "captions.csv line 3: has no caption",
    ]


def test_folder_revision_follows_captions_and_images(tmp_path):
    write_images(tmp_path)
    (tmp_path / "captions.csv").write_text("image,caption\n1000.jpg,A dog\n")
    first = read_source("folder", tmp_path).revision
    assert read_source("folder", tmp_path).revision == first
    (tmp_path / "1000.jpg").write_bytes(b"changed")
    assert read_source("folder", tmp_path).revision != first
