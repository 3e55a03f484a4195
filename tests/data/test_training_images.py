"""The list of images that a captioner was trained on, and the names of photos."""

import json

import pytest

from captioner.data.photo_names import photo_key
from captioner.data.training_images import TrainingImages, refuse_overlap
from captioner.errors import DataError

TRAINED = ["1000268201_693b08cb0e.jpg", "17273391_55cfc7d3d4.jpg", "1.jpg", "party/cake.jpg"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("1000268201_693b08cb0e.jpg", "flickr:1000268201"),
        ("1000268201.jpg", "flickr:1000268201"),
        ("images/1000268201.jpg", "flickr:1000268201"),
        ("COCO_val2014_000000391895.jpg", "coco:391895"),
        ("000000391895.jpg", "coco:391895"),
        ("36979.jpg", None),
        ("391895", None),
        ("beach_2021.jpg", None),
    ],
)
def test_a_photo_is_known_by_its_number(name, key):
    assert photo_key(name) == key


def test_photos_that_two_datasets_share_are_found_by_their_number():
    trained = TrainingImages.of(TRAINED, dataset="flickr8k", fingerprint="8k")
    names = ["1000268201.jpg", "1.jpg", "1000268202.jpg", "17273391.jpg"]
    assert trained.shared(names, dataset="flickr30k", fingerprint="30k") == ["1000268201.jpg", "17273391.jpg"]


@pytest.mark.parametrize(("dataset", "fingerprint"), [("flickr8k", "newer"), ("copy", "8k")])
def test_other_names_count_within_the_dataset(dataset, fingerprint):
    trained = TrainingImages.of(TRAINED, dataset="flickr8k", fingerprint="8k")
    assert trained.shared(["1.jpg", "2.jpg", "party/cake.jpg"], dataset=dataset, fingerprint=fingerprint) == [
        "1.jpg",
        "party/cake.jpg",
    ]


def test_the_list_survives_json():
    trained = TrainingImages.of([f"{number}.jpg" for number in range(29_000)], dataset="flickr30k", fingerprint="x")
    text = json.dumps(trained.to_dict())
    assert len(text) < 11 * 29_000
    assert TrainingImages.from_dict(json.loads(text)) == trained


@pytest.mark.parametrize("change", [{"digests": "####"}, {"digests": "AAAA"}, {"images": 5}, {"format": 2}])
def test_a_damaged_list_is_refused(change):
    content = TrainingImages.of(TRAINED, dataset="photos", fingerprint="x").to_dict()
    with pytest.raises(DataError, match=r"^the list of training images is damaged or of another version \("):
        TrainingImages.from_dict({**content, **change})


def test_an_overlap_is_refused_with_count_and_name():
    trained = TrainingImages.of(TRAINED, dataset="flickr8k", fingerprint="8k")
    refuse_overlap(trained, ["3.jpg"], split="test", dataset="flickr8k", fingerprint="8k")
    message = (
        r"^1 of the 2 images of split test were in the captioner's training \(first: 1000268201.jpg\); "
        r"choose another split, or give --allow-overlap$"
    )
    with pytest.raises(DataError, match=message):
        refuse_overlap(trained, ["3.jpg", "1000268201.jpg"], split="test", dataset="flickr30k", fingerprint="30k")
