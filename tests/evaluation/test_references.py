import json

import datasets
import pytest
from caption_files import PHOTOS, file_name, write_coco, write_json, write_karpathy

from captioner.errors import DataError
from captioner.evaluation.references import read_references

NAMES = [file_name(number) for number in PHOTOS]


def test_coco_annotations(tmp_path):
    found = read_references(write_coco(tmp_path / "captions_val2014.json"))
    assert (found.dataset, found.split, found.image_ids) == ("captions_val2014", "", NAMES)
    assert found.captions == list(PHOTOS.values())
    assert found.other_names == {"COCO id": [str(number) for number in PHOTOS]}


def test_coco_annotations_without_a_list_of_images(tmp_path):
    annotations = [{"image_id": 7, "caption": "a dog"}, {"image_id": 7, "caption": "one dog"}]
    found = read_references(write_json(tmp_path / "a.json", {"annotations": annotations}))
    assert (found.image_ids, found.captions) == (["7"], [["a dog", "one dog"]])


def test_coco_annotations_have_no_split_to_choose(tmp_path):
    path = write_coco(tmp_path / "captions_val2014.json")
    with pytest.raises(DataError, match=r"2014.json: COCO annotations are one set, without splits; leave out --split"):
        read_references(path, "test")


def test_an_image_that_coco_annotations_list_twice_is_refused(tmp_path):
    path = write_coco(tmp_path / "a.json")
    content = json.loads(path.read_text())
    content["images"].append({"id": 391895, "file_name": "another.jpg"})
    with pytest.raises(DataError, match=r"a.json: 1 image \(391895\) in it more than once$"):
        read_references(write_json(path, content))


def test_a_karpathy_json_is_read_by_split(tmp_path):
    path = write_karpathy(tmp_path / "dataset_mine.json", others={"restval": ["a.jpg", "b.jpg"], "val": ["c.jpg"]})
    found = read_references(path)
    assert (found.dataset, found.split, found.image_ids) == ("mine", "test", NAMES)
    assert found.counts == {"test": 3, "train": 2, "validation": 1}
    assert read_references(path, "val").image_ids == ["c.jpg"]
    assert read_references(path, "train").image_ids == ["a.jpg", "b.jpg"]
    assert list(found.training) == ["a dog", "a dog"]
    assert read_references(write_karpathy(tmp_path / "alone.json")).training is None


def test_a_selection_keeps_the_names_together(tmp_path):
    found = read_references(write_coco(tmp_path / "a.json")).select([2, 0])
    assert found.image_ids == [NAMES[2], NAMES[0]]
    assert found.captions == [PHOTOS[184613], PHOTOS[391895]]
    assert found.other_names["COCO id"] == ["184613", "391895"]


def test_a_folder_that_is_no_prepared_dataset(tmp_path):
    with pytest.raises(DataError, match="no prepared dataset there"):
        read_references(tmp_path)
    datasets.DatasetDict().save_to_disk(tmp_path / "other")
    with pytest.raises(DataError, match="no prepared dataset there"):
        read_references(tmp_path / "other")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is neither COCO annotations, nor a Karpathy JSON, nor the folder of a prepared dataset"),
        ({"annotations": []}, "has no images with captions"),
        (
            {"annotations": [{"image_id": 1}]},
            'an image without "id", or an annotation without "image_id" and "caption"',
        ),
        ({"annotations": [{"image_id": 1, "caption": 3}]}, 'an image without "id", or an annotation without'),
        ({"images": [{"id": 1}, {"id": 2}], "annotations": []}, r"2 images \(1, 2\) without a caption"),
        ({"images": [{"filename": "a.jpg"}]}, "an image without filename, split or sentences; it is not a Karpathy"),
        ({"images": [{"filename": "a.jpg", "split": "test", "sentences": []}]}, r"1 image \(a.jpg\) without a caption"),
        (
            {"images": [{"filename": "a.jpg", "split": "test", "sentences": [{"raw": "x"}]}] * 2},
            r"1 image \(a.jpg\) in it more than once",
        ),
        (
            {"annotations": [{"image_id": 7, "caption": "a \ud800 dog"}]},
            r"a caption of image 7 has \\ud800, which is half a character; correct it there",
        ),
        (
            {"images": [{"filename": "a.jpg", "split": "test", "sentences": [{"raw": "\udfff"}]}]},
            r"a caption of image a.jpg has \\udfff, which is half a character; correct it there",
        ),
        (
            {"images": [{"filename": "\ud800.jpg", "split": "test", "sentences": [{"raw": "x"}]}]},
            r"the file name of an image has \\ud800, which is half a character; correct it there",
        ),
        (
            {"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "x"}]}]},
            "has no images in a split test; it has train",
        ),
    ],
)
def test_wrong_references_are_refused_in_one_line(tmp_path, content, message):
    path = write_json(tmp_path / "references.json", content)
    with pytest.raises(DataError, match=f"^{path}: {message}") as caught:
        read_references(path)
    assert "\n" not in str(caught.value)


def test_missing_references(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.json: no such file or folder; check --references$"):
        read_references(tmp_path / "nowhere.json")
