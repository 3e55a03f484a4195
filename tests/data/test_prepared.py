"""From a source to a dataset on disk: what is written, replaced and opened again."""

import io
import json
import logging
import sys

import datasets
import pytest
from made_records import jpeg, record, source

from captioner import __version__, progress
from captioner.data.prepared import open_prepared, prepare, read_manifest
from captioner.data.records import Source
from captioner.errors import DataError


def test_what_is_written(tmp_path):
    captions = ("A dog .", 'Two "cats" & a mouse')
    folder = tmp_path / "data" / "photos"
    manifest = prepare(source(record("d.jpg", captions=captions)), folder, progress=False)
    assert manifest == read_manifest(folder)
    assert manifest.pop("fingerprint").isalnum()
    assert manifest == {
        "format": 1,
        "source": "photos",
        "revision": "r1",
        "splits": "standard",
        "split_rule": "the source's own",
        "images": {"train": 2, "validation": 1, "test": 1},
        "captions": {"train": 3, "validation": 1, "test": 1},
        "skipped": [],
        "duplicates": [],
        "captioner": __version__,
    }
    opened = open_prepared(folder)
    assert list(opened) == ["train", "validation", "test"]
    assert opened["train"].column_names == ["image_id", "image", "captions"]
    assert opened["train"][1]["captions"] == list(captions)
    assert opened["train"][1]["image"].size == (32, 24)
    encoded = opened["test"].cast_column("image", datasets.Image(decode=False))[0]
    assert encoded["image"]["bytes"] == record("c.jpg").load()
    assert encoded["image_id"] == encoded["image"]["path"] == "c.jpg"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["photos"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*opened, "dataset_dict.json", "manifest.json"])


def test_objects_and_further_splits_are_kept(tmp_path):
    records = [record("a.jpg", objects=("red ball", "cat")), record("u.jpg", "test_unseen", objects=("blue ball",))]
    prepare(Source("scenes", iter(records)), tmp_path / "scenes")
    opened = open_prepared(tmp_path / "scenes")
    assert {split: len(part) for split, part in opened.items()} == read_manifest(tmp_path / "scenes")["images"]
    assert list(opened) == ["train", "validation", "test", "test_unseen"]
    assert opened["train"][0]["objects"] == ["red ball", "cat"]


def test_no_cache_is_left_behind(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    prepare(source(), tmp_path / "photos")
    open_prepared(tmp_path / "photos")
    assert not cache.exists()


def test_all_trains_on_every_image_and_rest_is_left_out_otherwise(tmp_path):
    prepare(source(record("r.jpg", "rest")), tmp_path / "standard")
    prepare(source(record("r.jpg", "rest")), tmp_path / "all", splits="all")
    assert read_manifest(tmp_path / "standard")["images"] == {"train": 1, "validation": 1, "test": 1}
    assert read_manifest(tmp_path / "all")["images"] == {"train": 4, "validation": 1, "test": 1}
    assert sorted(open_prepared(tmp_path / "all")["train"]["image_id"]) == ["a.jpg", "b.jpg", "c.jpg", "r.jpg"]


def test_fingerprint_covers_names_captions_bytes_and_splits(tmp_path):
    variants = {
        "same": record("d.jpg", data=jpeg(1)),
        "name": record("e.jpg", data=jpeg(1)),
        "caption": record("d.jpg", data=jpeg(1), captions=["A cat ."]),
        "bytes": record("d.jpg", data=jpeg(2)),
        "split": record("d.jpg", "test", data=jpeg(1)),
    }
    prints = {key: prepare(source(extra), tmp_path / key)["fingerprint"] for key, extra in variants.items()}
    prints["all"] = prepare(source(variants["same"]), tmp_path / "all", splits="all")["fingerprint"]
    assert prints["same"] == prepare(source(variants["same"]), tmp_path / "again")["fingerprint"]
    assert len(set(prints.values())) == len(prints)


def test_already_prepared_is_left_alone_and_another_is_replaced_only_when_asked(tmp_path, caplog):
    caplog.set_level(logging.INFO, "captioner")
    folder = tmp_path / "photos"
    first = prepare(source(), folder)
    (folder / "tokenizer.json").write_text("{}")
    assert prepare(source(), folder) == first
    assert "is already prepared from photos" in caplog.text
    with pytest.raises(DataError, match=r"holds another dataset \(revision 'r1', not 'r2'\); give --overwrite"):
        prepare(source(revision="r2"), folder)
    with pytest.raises(DataError, match=r"splits 'standard', not 'all'"):
        prepare(source(), folder, splits="all")
    assert (folder / "tokenizer.json").exists()
    assert prepare(source(revision="r2"), folder, overwrite=True)["revision"] == "r2"
    assert not (folder / "tokenizer.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_failing_replacement_keeps_the_old_dataset(tmp_path):
    folder = tmp_path / "photos"
    first = prepare(source(), folder)
    with pytest.raises(DataError, match=r"has no captions"):
        prepare(source(record("d.jpg", captions=[])), folder, overwrite=True)
    assert read_manifest(folder) == first
    assert len(open_prepared(folder)["train"]) == 1


def test_other_files_are_never_replaced(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(jpeg(0))
    with pytest.raises(DataError, match=r"is not empty and no prepared dataset; choose another --name"):
        prepare(source(), folder, overwrite=True)
    for root in (folder, folder / "raw"):
        with pytest.raises(DataError, match=r"holds the source itself; choose another --name"):
            prepare(source(root=root), folder, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: is a file; choose another --name"):
        prepare(source(), tmp_path / "file")
    assert (folder / "holiday.jpg").exists()


def test_a_linked_folder_is_replaced_where_the_link_leads(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "photos", target_is_directory=True)
    prepare(source(), tmp_path / "link")
    prepare(source(revision="r2"), tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert read_manifest(tmp_path / "disk" / "photos")["revision"] == "r2"


def test_progress_without_a_terminal_is_plain_lines(tmp_path, caplog, capsys, monkeypatch):
    caplog.set_level(logging.INFO, "captioner")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    prepare(source(), tmp_path / "photos")
    assert caplog.messages[-1].startswith("preparing photos: 100 % (3 of 3 images), ")
    assert capsys.readouterr().err == ""


def test_progress_on_a_terminal_is_a_bar(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    prepare(source(), tmp_path / "photos")
    assert "preparing photos: 100%" in terminal.getvalue()


def test_opening_what_is_not_there_names_the_command(tmp_path):
    expected = f"no prepared dataset there; prepare it: python prepare_dataset.py scenes --data-folder {tmp_path}"
    with pytest.raises(DataError) as caught:
        open_prepared(tmp_path / "scenes")
    assert str(caught.value) == f"{tmp_path / 'scenes'}: {expected}"
    with pytest.raises(DataError, match=r"python prepare_dataset.py SOURCE --name mine$"):
        read_manifest("data/mine")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"source": "photos",}', "is not JSON"),
        ("[]", "is not a manifest of captioner"),
        ('{"format": 9, "source": "", "images": {}, "fingerprint": ""}', "has format 9, not 1"),
    ],
)
def test_a_broken_manifest_names_the_command(tmp_path, text, reason):
    prepare(source(), tmp_path / "photos")
    (tmp_path / "photos" / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=rf"manifest.json: {reason}.*; prepare it again: python .* --overwrite$"):
        open_prepared(tmp_path / "photos")


def test_a_torn_dataset_names_the_command(tmp_path):
    folder = tmp_path / "photos"
    prepare(source(), folder)
    arrow = next((folder / "test").glob("*.arrow"))
    whole = arrow.read_bytes()
    for torn in (whole[: len(whole) // 2], b""):
        arrow.write_bytes(torn)
        with pytest.raises(DataError, match=r"photos: the dataset is torn .* prepare it again: python .* --overwrite$"):
            open_prepared(folder)
    arrow.unlink()
    with pytest.raises(DataError, match=r"is torn"):
        open_prepared(folder)
    with pytest.raises(DataError, match=r"is torn"):
        prepare(source(), folder)


def test_a_manifest_of_other_images_is_refused(tmp_path):
    manifest = prepare(source(), tmp_path / "photos")
    manifest["images"]["train"] = 2
    (tmp_path / "photos" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"photos: holds .* images but its manifest says"):
        open_prepared(tmp_path / "photos")
