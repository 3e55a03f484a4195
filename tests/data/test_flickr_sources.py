"""Flickr8k and Flickr30k, each in exactly the layouts that its readers are for."""

import csv
import json
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from source_layouts import (
    IMAGES,
    NAMES,
    SPLIT_OF,
    captions_of,
    check,
    unescaped,
    write_flickr8k,
    write_images,
    write_karpathy,
)

from captioner.data import flickr30k_hub
from captioner.data.sources import read_source
from captioner.errors import DataError, HubError


@pytest.mark.parametrize(("text", "images"), [("", "Images"), ("Flickr8k_text", "Flicker8k_Dataset")])
def test_flickr8k(tmp_path, text, images):
    write_flickr8k(tmp_path, text, images)
    source = read_source("flickr8k", tmp_path)
    check(source)
    assert source.skipped == ["2258277193_586949ec62.jpg.1: 5 captions in no split and without an image"]
    assert source.expected == {"train": 6000, "validation": 1000, "test": 1000}
    assert source.captions_per_image == 5


def test_flickr8k_images_in_no_list_are_the_rest(tmp_path):
    write_flickr8k(tmp_path)
    (tmp_path / "Flickr_8k.testImages.txt").write_text("")
    check(read_source("flickr8k", tmp_path), SPLIT_OF | {"4000.jpg": "rest"})


def test_flickr8k_problems_are_collected(tmp_path):
    write_flickr8k(tmp_path)
    with (tmp_path / "Flickr8k.token.txt").open("a") as file:
        file.write("1000.jpg#5 no tab\nno number\tA dog .\n")
    source = read_source("flickr8k", tmp_path)
    lines = [f"Flickr8k.token.txt line {n}: is not image#number<tab>caption" for n in (26, 27)]
    assert source.problems == lines


def test_an_image_that_the_lists_name_but_the_folder_lacks(tmp_path):
    write_flickr8k(tmp_path)
    (tmp_path / "Images" / "2000.jpg").unlink()
    record = next(record for record in read_source("flickr8k", tmp_path).records if record.image_id == "2000.jpg")
    with pytest.raises(DataError, match=r"^2000\.jpg: no such image in "):
        record.load()


def write_annotations(root: Path, raw=lambda name: json.dumps(captions_of(name))) -> None:
    root.mkdir(exist_ok=True)
    with (root / "flickr_annotations_30k.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["raw", "sentids", "split", "filename", "img_id"])
        for number, name in enumerate(NAMES):
            split = {"validation": "val"}.get(SPLIT_OF[name], SPLIT_OF[name])
            rows.writerow([raw(name), json.dumps(list(range(5))), split, name, number])


def write_zip(root: Path) -> None:
    with zipfile.ZipFile(root / "flickr30k-images.zip", "w") as archive:
        for name in NAMES:
            archive.writestr(f"flickr30k-images/{name}", IMAGES[name])
            archive.writestr(f"__MACOSX/flickr30k-images/{name}", b"resource fork")


def test_flickr30k_from_csv_and_zip(tmp_path):
    write_annotations(tmp_path)
    write_zip(tmp_path)
    source = read_source("flickr30k", tmp_path)
    check(source)
    assert source.expected == {"train": 29000, "validation": 1014, "test": 1000}


def test_flickr30k_from_csv_and_unzipped_images(tmp_path):
    write_annotations(tmp_path)
    write_images(tmp_path / "flickr30k-images")
    check(read_source("flickr30k", tmp_path))


def test_flickr30k_from_the_hub_is_pinned(tmp_path, monkeypatch):
    write_annotations(tmp_path)
    write_zip(tmp_path)
    asked = []

    def download(repository, filename, *, repo_type, revision):
        asked.append((repository, filename, repo_type, revision))
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    source = read_source("flickr30k")
    check(source)
    pin = ("nlphuji/flickr30k", "dataset", flickr30k_hub.REVISION)
    assert asked == [(pin[0], file, *pin[1:]) for file in ("flickr_annotations_30k.csv", "flickr30k-images.zip")]
    assert source.revision == f"nlphuji/flickr30k@{flickr30k_hub.REVISION}"


@pytest.mark.parametrize("name", ["flickr30k", "flickr30k-parquet"])
def test_an_unreachable_hub_is_one_line_with_the_remedy(name, monkeypatch):
    def fail(*arguments, **options):
        raise ConnectionError("[Errno -2] Name or service not known")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", fail)
    with pytest.raises(HubError, match=r"^cannot fetch .* of nlphuji/flickr30k .*not known\); check .*--root$"):
        read_source(name)


def test_flickr30k_broken_json_in_a_row_is_a_problem(tmp_path):
    write_annotations(
        tmp_path, raw=lambda name: '["A dog .",]' if name == "2000.jpg" else json.dumps(captions_of(name))
    )
    write_zip(tmp_path)
    source = read_source("flickr30k", tmp_path)
    assert [record.image_id for record in source.records] == ["1000.jpg", "3000.jpg", "4000.jpg"]
    (problem,) = source.problems
    assert problem.startswith("flickr_annotations_30k.csv line 3: column raw is not JSON (line 1, column")
    assert "a comma before the closing bracket" in problem


def test_flickr30k_torn_zip(tmp_path):
    write_annotations(tmp_path)
    write_zip(tmp_path)
    path = tmp_path / "flickr30k-images.zip"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"is not a whole zip archive .* download it again"):
        read_source("flickr30k", tmp_path)


def test_flickr30k_wrong_columns(tmp_path):
    (tmp_path / "flickr_annotations_30k.csv").write_text("image,caption\n")
    write_zip(tmp_path)
    with pytest.raises(DataError, match=r"lacks the columns filename, raw, split"):
        read_source("flickr30k", tmp_path)


def write_parquet(root: Path) -> None:
    rows = [
        {
            "image": {"bytes": IMAGES[name], "path": name},
            "caption": captions_of(name),
            "sentids": [str(n) for n in range(5)],
            "split": {"validation": "val"}.get(SPLIT_OF[name], SPLIT_OF[name]),
            "img_id": name[0],
            "filename": name,
        }
        for name in NAMES
    ]
    folder = root / "TEST" / "test"
    folder.mkdir(parents=True)
    for number in range(2):
        table = pyarrow.Table.from_pylist(rows[2 * number : 2 * number + 2])
        pyarrow.parquet.write_table(table, folder / f"{number:04d}.parquet")


def test_flickr30k_parquet(tmp_path):
    write_parquet(tmp_path)
    check(read_source("flickr30k-parquet", tmp_path))


def test_flickr30k_parquet_from_the_hub_records_the_commit(tmp_path, monkeypatch):
    from huggingface_hub.hf_api import DatasetInfo

    write_parquet(tmp_path)
    siblings = [{"rfilename": name} for name in ("README.md", "TEST/test/0000.parquet", "TEST/test/0001.parquet")]
    info = DatasetInfo(id="nlphuji/flickr30k", sha="abc123", siblings=siblings)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, repository, revision: info)
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda repository, name, repo_type, revision: str(tmp_path / name)
    )
    source = read_source("flickr30k-parquet")
    check(source)
    assert source.revision == "nlphuji/flickr30k@abc123"


def test_flickr30k_torn_parquet(tmp_path):
    write_parquet(tmp_path)
    path = tmp_path / "TEST" / "test" / "0001.parquet"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"0001.parquet: is not a whole parquet file"):
        list(read_source("flickr30k-parquet", tmp_path).records)


def write_kaggle(root: Path, images="flickr30k_images/flickr30k_images") -> None:
    write_images(root / images)
    lines = ["image_name| comment_number| comment"]
    lines += [f"{name}| {n}| {caption}" for name in NAMES for n, caption in enumerate(captions_of(name))]
    (root / "results.csv").write_text("\n".join(lines))


def test_kaggle_without_splits_draws_them(tmp_path):
    write_kaggle(tmp_path)
    source = read_source("flickr30k-kaggle", tmp_path)
    assert source.split_rule == "by hash of the name, seed 0; not Karpathy's"
    records = source.records
    check(source, {record.image_id: record.split for record in records})
    assert Counter(record.split for record in records) == {"train": 2, "validation": 1, "test": 1}
    assert [r.split for r in read_source("flickr30k-kaggle", tmp_path).records] == [r.split for r in records]


def test_kaggle_row_with_the_missing_field(tmp_path):
    write_kaggle(tmp_path)
    results = tmp_path / "results.csv"
    broken = results.read_text().replace("4000.jpg| 4| " + captions_of("4000.jpg")[4], "4000.jpg | 4   A dog runs .")
    results.write_text(broken + "\n5000.jpg | nothing")
    source = read_source("flickr30k-kaggle", tmp_path)
    captions = {record.image_id: record.captions for record in source.records}
    assert captions["4000.jpg"] == (*unescaped("4000.jpg")[:4], "A dog runs .")
    assert source.problems == ["results.csv line 22: is not image | number | caption"]


def test_kaggle_takes_karpathys_splits_beside_it(tmp_path):
    write_kaggle(tmp_path)
    write_karpathy(tmp_path, "dataset_flickr30k.json", names=NAMES[1:])
    source = read_source("flickr30k-kaggle", tmp_path)
    check(source, SPLIT_OF | {"1000.jpg": "rest"})
    assert source.split_rule == "Karpathy's, from dataset_flickr30k.json"


@pytest.mark.parametrize(("prefix", "suffix"), [("", ".jpg"), ("flickr30k_", "")])
def test_token_file_with_lists(tmp_path, prefix, suffix):
    write_images(tmp_path / "flickr30k-images")
    lines = [f"{name}#{n}\t{caption}" for name in NAMES for n, caption in enumerate(captions_of(name))]
    (tmp_path / "results_20130124.token").write_text("\r\n".join(lines))
    for file, split in (("train", "train"), ("val", "validation"), ("test", "test")):
        names = [name.removesuffix(".jpg") + suffix for name in NAMES[1:] if SPLIT_OF[name] == split]
        (tmp_path / f"{prefix}{file}.txt").write_text("\n".join(names))
    check(read_source("flickr30k-token", tmp_path), SPLIT_OF | {"1000.jpg": "rest"})
