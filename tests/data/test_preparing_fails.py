"""What stops a preparation, and that nothing is left half done."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_records import jpeg, record, source

from captioner.data import dataset_writer
from captioner.data.prepared import open_prepared, prepare
from captioner.data.records import Record, Source
from captioner.errors import DataError


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
from made_records import record, source
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
