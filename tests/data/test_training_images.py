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
        ("667626_18933d713e.jpg", "flickr:667626"),
        ("10002456.jpg", "flickr:10002456"),
        ("391895", None),
        ("beach_2021.jpg", None),
    ],
)
def test_a_photo_is_known_by_its_number(name, key):
    assert photo_key(name) == key


@pytest.mark.parametrize(
    "name",
    [
        "IMG_20240101_123456.jpg",
        "20240101_123456.jpg",
        "20240101_235959.jpg",
        "20240101_1234567.jpg",
        "20240101_1234567890.jpg",
        "000000000001.jpg",
        "PXL_20240101_123456789.jpg",
        "DSC_0001.jpg",
        "20240101.jpg",
        "20240101123456.jpg",
        "202401011234.jpg",
        "100001.jpg",
        "36979.jpg",
    ],
)
def test_names_that_cameras_and_counting_give_tell_of_no_photo(name):
    assert photo_key(name) is None


def test_a_number_alone_is_a_photos_in_a_dataset_of_flickr():
    assert photo_key("667626.jpg", flickr=True) == "flickr:667626"
    assert photo_key("20240101_123456.jpg", flickr=True) is None
    trained = TrainingImages.of(["667626_18933d713e.jpg"], dataset="flickr8k", fingerprint="8k")
    assert trained.shared(["667626.jpg"], dataset="Flickr30k", fingerprint="30k") == ["667626.jpg"]
    assert trained.shared(["667626.jpg"], dataset="mine", fingerprint="m") == []


def test_twelve_digits_are_a_photos_in_a_dataset_of_coco():
    assert photo_key("000000391895.jpg", coco=True) == "coco:391895"
    trained = TrainingImages.of(["COCO_val2014_000000391895.jpg"], dataset="mine", fingerprint="m")
    assert trained.shared(["000000391895.jpg"], dataset="coco2017", fingerprint="c") == ["000000391895.jpg"]
    assert trained.shared(["000000391895.jpg"], dataset="frames", fingerprint="f") == []


@pytest.mark.parametrize(
    "names",
    [
        ("20240101_123456.jpg", "20240101_235959.jpg"),
        ("20240101_1234567890.jpg", "20240101_1234567891.jpg"),
        ("000000000001.jpg", "000000000001.jpg"),
        ("100001.jpg", "100001.jpg"),
    ],
)
def test_own_photos_are_not_those_of_another_training(names):
    trained = TrainingImages.of(names[:1], dataset="holiday", fingerprint="h")
    assert trained.shared(names[1:], dataset="party", fingerprint="p") == []


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


class TestGenerations:
    """A captioner trained on `photos`, then on `flickr8k`, then on `cakes`."""

    @pytest.fixture
    def trained(self):
        first = TrainingImages.of(["1.jpg", "2.jpg"], dataset="photos", fingerprint="p")
        second = TrainingImages.of(["1000268201_693b08cb0e.jpg", "3.jpg"], dataset="flickr8k", fingerprint="8k")
        third = TrainingImages.of(["4.jpg"], dataset="cakes", fingerprint="c")
        return third.after(second.after(first))

    @pytest.mark.parametrize(
        ("dataset", "names", "shared"),
        [
            ("photos", ["1.jpg", "3.jpg", "2.jpg", "4.jpg"], ["1.jpg", "2.jpg"]),
            ("flickr8k", ["1.jpg", "3.jpg"], ["3.jpg"]),
            ("flickr30k", ["1.jpg", "1000268201.jpg"], ["1000268201.jpg"]),
            ("cakes", ["1.jpg", "4.jpg"], ["4.jpg"]),
        ],
    )
    def test_the_images_of_all_trainings_are_known(self, trained, dataset, names, shared):
        again = TrainingImages.from_dict(json.loads(json.dumps(trained.to_dict())))
        assert again == trained
        assert again.shared(names, dataset=dataset, fingerprint="another") == shared

    def test_what_was_seen_twice_is_listed_once(self, trained):
        again = TrainingImages.of(["1.jpg", "5.jpg"], dataset="photos", fingerprint="p").after(trained)
        assert [one.dataset for one in again.lists()] == ["photos", "cakes", "flickr8k"]
        assert again.shared(["1.jpg", "2.jpg", "5.jpg"], dataset="photos", fingerprint="p") == [
            *("1.jpg", "2.jpg", "5.jpg")
        ]
        assert again.after(trained) == again

    def test_a_damaged_earlier_list_is_refused(self, trained):
        content = trained.to_dict()
        content["earlier"][1]["images"] = 7
        with pytest.raises(DataError, match=r"^the list of training images is damaged"):
            TrainingImages.from_dict(content)


class TestStreams:
    """A captioner trained on `photos`, then on shards, whose images nobody listed."""

    @pytest.fixture
    def trained(self):
        return TrainingImages.unlisted("s").after(TrainingImages.of(["1.jpg"], dataset="photos", fingerprint="p"))

    def test_what_was_seen_before_is_known_and_that_the_rest_is_not(self, trained):
        again = TrainingImages.from_dict(json.loads(json.dumps(trained.to_dict())))
        assert again == trained
        assert again.shared(["1.jpg", "2.jpg"], dataset="photos", fingerprint="p") == ["1.jpg"]
        assert not again.complete

    def test_a_list_is_incomplete_for_ever_after(self, trained):
        later = TrainingImages.of(["3.jpg"], dataset="cakes", fingerprint="c")
        assert later.complete
        assert not TrainingImages.from_dict(later.after(trained).to_dict()).complete

    def test_digests_that_nobody_counted_are_refused(self, trained):
        content = trained.to_dict() | {"digests": trained.earlier[0].to_dict()["digests"]}
        with pytest.raises(DataError, match=r"^the list of training images is damaged"):
            TrainingImages.from_dict(content)
