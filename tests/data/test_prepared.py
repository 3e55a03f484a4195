"""From a source to a dataset on disk: what is written, what stops it, and that nothing is left half done."""

import errno
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy
import pytest
from PIL import Image

from captioner import __version__, progress
from captioner.data import dataset_writer
from captioner.data.prepared import open_prepared, prepare, read_manifest
from captioner.data.records import Record, Source
from captioner.errors import DataError


def jpeg(seed: int) -> bytes:
    file = io.BytesIO()
    values = numpy.random.default_rng(seed).integers(0, 256, (24, 32, 3), dtype=numpy.uint8)
    Image.fromarray(values).save(file, "JPEG")
    return file.getvalue()


def record(name: str, split: str = "train", captions=("A dog .",), data: bytes | None = None, **options) -> Record:
    data = jpeg(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")) if data is None else data
    return Record(name, split, tuple(captions), lambda: data, **options)


def source(*records: Record, **options) -> Source:
    three = [record("a.jpg"), record("b.jpg", "validation"), record("c.jpg", "test")]
    return Source("photos", [*three, *records], **({"revision": "r1"} | options))


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


def test_every_problem_is_listed_at_once_and_nothing_is_written(tmp_path):
    def missing() -> bytes:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    bad = source(
        record("empty.jpg", captions=["A dog .", " "]),
        record("long.jpg", captions=["dog " * 1250]),
        record("none.jpg", captions=[]),
        record("text.jpg", data=b"not an image"),
        record("torn.jpg", data=jpeg(0)[:-200]),
        record("a.jpg"),
        record("c.jpg", "train"),
        Record("gone.jpg", "train", ("A dog .",), missing),
        problems=["captions.jsonl line 7: is not an object"],
        expected={"train": 9},
    )
    with pytest.raises(DataError) as caught:
        prepare(bad, tmp_path / "photos")
    lines = str(caught.value).splitlines()
    assert lines[0] == "10 problems in photos, nothing was written; correct them and try again:"
    found = "\n".join(sorted(lines[1:]))
    for line in (
        "captions.jsonl line 7: is not an object",
        "empty.jpg: caption 2 is empty",
        "long.jpg: caption 1 has 5,000 characters; the limit is 1,000",
        "none.jpg: has no captions",
        "text.jpg: is not an image in a known format; convert it to JPEG or PNG",
        "torn.jpg: cannot be decoded (image file is truncated",
        "a.jpg: is twice in train",
        "c.jpg: is in both test and train",
        "gone.jpg: cannot be read (No such file or directory)",
        "photos: 7 images in split train instead of 9; complete the source",
    ):
        assert f"  {line}" in found
    assert list(tmp_path.iterdir()) == []


def test_one_problem_is_one_line(tmp_path):
    with pytest.raises(DataError, match=r"^d\.jpg: has no captions \(nothing was written\)$"):
        prepare(source(record("d.jpg", captions=[])), tmp_path / "photos")


def test_many_problems_are_cut_with_their_number(tmp_path):
    with pytest.raises(DataError) as caught:
        prepare(source(*(record(f"{n}.jpg", captions=[]) for n in range(25))), tmp_path / "photos")
    lines = str(caught.value).splitlines()
    assert (len(lines), lines[-1]) == (22, "  … and 5 more")


def test_captions_an_image_are_counted_where_the_source_promises(tmp_path):
    with pytest.raises(DataError, match=r"c\.jpg: has 1 captions instead of 5"):
        prepare(source(captions_per_image=5), tmp_path / "photos")


def test_counts_can_be_left_unchecked(tmp_path):
    expected = {"train": 29000, "validation": 1014, "test": 1000}
    with pytest.raises(DataError, match=r"1 images in split train instead of 29,000; .* --no-check-counts"):
        prepare(source(expected=expected), tmp_path / "photos")
    assert prepare(source(expected=expected), tmp_path / "photos", check_counts=False)["images"]["train"] == 1


def test_bad_images_are_skipped_only_when_asked_and_count_as_found(tmp_path):
    bad = source(record("text.jpg", data=b"text"), expected={"train": 2})
    manifest = prepare(bad, tmp_path / "photos", skip_bad=True)
    assert manifest["skipped"] == ["text.jpg: is not an image in a known format; convert it to JPEG or PNG"]
    assert manifest["images"]["train"] == 1
    with pytest.raises(DataError, match=r"d\.jpg: has no captions"):
        prepare(source(record("d.jpg", captions=[], data=b"text")), tmp_path / "other", skip_bad=True)


def test_the_same_picture_in_two_splits_is_noted(tmp_path, caplog):
    manifest = prepare(source(record("copy.jpg", data=record("c.jpg").load())), tmp_path / "photos")
    assert manifest["duplicates"] == ["c.jpg (test) = copy.jpg (train)"]
    assert "the same image in two splits: c.jpg (test) = copy.jpg (train)" in caplog.text


def test_empty_splits_are_written_and_warned_of(tmp_path, caplog):
    manifest = prepare(Source("photos", [record("a.jpg", "test")]), tmp_path / "photos")
    assert manifest["images"] == {"train": 0, "validation": 0, "test": 1}
    assert len(open_prepared(tmp_path / "photos")["train"]) == 0
    assert "photos has no images in split train" in caplog.text


def test_a_source_without_images(tmp_path):
    with pytest.raises(DataError, match=r"photos: has no images with captions"):
        prepare(Source("photos", []), tmp_path / "photos")
    assert list(tmp_path.iterdir()) == []


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


def test_an_interruption_leaves_nothing_and_leftovers_are_cleared(tmp_path):
    def interrupted():
        yield record("a.jpg")
        raise KeyboardInterrupt

    (tmp_path / ".photos.partial").mkdir()
    (tmp_path / ".photos.partial" / "junk").touch()
    with pytest.raises(KeyboardInterrupt):
        prepare(Source("photos", interrupted()), tmp_path / "photos")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_names_folder_and_need(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dataset_writer, "_save", full)
    with pytest.raises(
        DataError, match=r"photos: the disk is full; preparing photos needs about .* GB free; free some"
    ):
        prepare(source(), tmp_path / "photos")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_really_fails(tmp_path):
    """A limit on the size of files stands for a full disk: the operating system itself refuses the write."""
    script = f"""
import resource, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_prepared import record, source
from captioner.data.prepared import prepare
from captioner.errors import DataError
records = [record(f"{{n}}.jpg") for n in range(200)]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    prepare(source(*records), {str(tmp_path / "photos")!r})
except DataError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ, check=False)
    assert "photos: the disk is full; preparing photos needs about" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


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
