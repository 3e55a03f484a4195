"""Each reader on a small set in exactly the layout it is for, made here."""

import csv
import io
import json
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from captioner.data import flickr30k_hub, scenes
from captioner.data.records import split_by_hash
from captioner.data.scenes import generate_scenes
from captioner.data.sources import SOURCES, read_source
from captioner.errors import DataError, HubError

NAMES = ["1000.jpg", "2000.jpg", "3000.jpg", "4000.jpg"]
SPLIT_OF = dict(zip(NAMES, ["train", "train", "validation", "test"], strict=True))


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (seed % 256, 40, 90)).save(file, "JPEG")
    return file.getvalue()


IMAGES = {name: jpeg(int(name[0]) * 20) for name in NAMES}


def captions_of(name: str) -> list[str]:
    return [f"A Man &amp; his dog &quot;{number}&quot; near {name} ." for number in range(5)]


def unescaped(name: str) -> tuple[str, ...]:
    return tuple(f'A Man & his dog "{number}" near {name} .' for number in range(5))


def write_images(folder: Path, names=NAMES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(IMAGES[name])


def check(source, splits=SPLIT_OF) -> None:
    records = {record.image_id: record for record in source.records}
    assert source.problems == []
    assert {name: record.split for name, record in records.items()} == splits
    for name, record in records.items():
        assert record.captions == unescaped(name)
        assert record.load() == IMAGES[name]


# Flickr8k -------------------------------------------------------------------------------------------------------------


def write_flickr8k(root: Path, text="", images="Images") -> None:
    (root / text).mkdir(parents=True, exist_ok=True)
    write_images(root / images)
    lines = [f"{name}#{n}\t{caption}" for name in NAMES for n, caption in enumerate(captions_of(name))]
    lines += [f"2258277193_586949ec62.jpg.1#{n}\tpeople waiting for the subway" for n in range(5)]
    (root / text / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for file, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        names = [name for name in NAMES if SPLIT_OF[name] == split]
        (root / text / f"Flickr_8k.{file}Images.txt").write_text("\n".join(names))


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


# Flickr30k ------------------------------------------------------------------------------------------------------------


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


# Karpathy -------------------------------------------------------------------------------------------------------------


def write_karpathy(root: Path, file: str, names=NAMES, **extra) -> None:
    splits = {"1000.jpg": "restval", "2000.jpg": "train", "3000.jpg": "val", "4000.jpg": "test"}
    entries = [
        {
            "filename": name,
            "split": splits[name],
            "sentences": [{"raw": raw, "tokens": []} for raw in captions_of(name)],
        }
        for name in names
    ]
    (root / file).write_text(json.dumps({"images": [entry | extra for entry in entries], "dataset": "flickr"}))


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


# A plain folder -------------------------------------------------------------------------------------------------------


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


# Scenes, splits and the table -----------------------------------------------------------------------------------------


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
