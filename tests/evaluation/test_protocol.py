from dataclasses import replace

import pytest

from captioner.data.records import COCO_IMAGES, FLICKR30K_IMAGES
from captioner.errors import DataError
from captioner.evaluation import protocol
from captioner.evaluation.protocol import describe_set, fingerprint_ids, fingerprint_references, refuse_different_set
from captioner.evaluation.references import ReferenceSet


def make_references(count, *, dataset="photos", split="test", start=10**9, **details):
    names = [f"{start + number}.jpg" for number in range(count)]
    return ReferenceSet(dataset, split, names, [["a dog"]] * count, **details)


@pytest.fixture
def knowing(monkeypatch):
    """Take the images of these references for those of the published split."""

    def know(references):
        protocols = [
            replace(one, fingerprints={**one.fingerprints, references.split: fingerprint_ids(references.image_ids)})
            if one.dataset == "flickr30k"
            else one
            for one in protocol.PROTOCOLS
        ]
        monkeypatch.setattr(protocol, "PROTOCOLS", protocols)
        return references

    return know


@pytest.mark.parametrize(
    ("references", "label"),
    [
        (make_references(29000, dataset="flickr30k", split="train"), "29,000 images, Karpathy train"),
        (make_references(5000, dataset="coco", source="karpathy"), "5,000 images, Karpathy test"),
        (make_references(5000, source="karpathy", counts=COCO_IMAGES), "5,000 images, Karpathy test"),
        (make_references(1000), "1,000 images, photos test"),
        (make_references(1, split=""), "1 image, photos"),
        (make_references(7, dataset="flickr30k", split="test_unseen"), "7 images, flickr30k test_unseen"),
    ],
)
def test_a_split_is_named_and_counted(references, label):
    found = describe_set(references)
    assert (found.label, found.problem) == (label, "")
    refuse_different_set(found)


@pytest.mark.parametrize(
    ("references", "label", "problem"),
    [
        (
            make_references(999, dataset="flickr30k"),
            "999 images, flickr30k test, not the Karpathy split",
            "split test of flickr30k has 999 images, the Karpathy test of flickr30k has 1,000",
        ),
        (
            make_references(12, dataset="mine", source="flickr8k"),
            "12 images, mine test, not the published split",
            "split test of mine has 12 images, the published test of flickr8k has 1,000",
        ),
        (
            make_references(1000, dataset="flickr30k", split_rule="by hash of the name, seed 0; not Karpathy's"),
            "1,000 images, flickr30k test, not the Karpathy split",
            "split test of flickr30k was drawn by hash of the name, seed 0; not Karpathy's",
        ),
        (
            make_references(1000, dataset="flickr8k", source="flickr8k"),
            "1,000 images, flickr8k test, not the published split",
            "split test of flickr8k has 1,000 images as the published test of flickr8k has, but others",
        ),
        (
            make_references(1000, dataset="Flickr30k", source="karpathy"),
            "1,000 images, Flickr30k test, not the Karpathy split",
            "split test of Flickr30k has 1,000 images as the Karpathy test of flickr30k has, but others",
        ),
        (
            make_references(1014, source="flickr30k-parquet", split="validation"),
            "1,014 images, photos validation, not the Karpathy split",
            "split validation of photos has 1,014 images as the Karpathy validation of flickr30k has, but others",
        ),
    ],
)
def test_a_silently_different_set_is_refused(references, label, problem):
    found = describe_set(references)
    assert (found.label, found.problem) == (label, problem)
    with pytest.raises(DataError) as caught:
        refuse_different_set(found)
    assert str(caught.value).startswith(f"{problem}: figures would not compare with published ones; ")
    assert "--allow-different-set" in str(caught.value)


@pytest.mark.parametrize("details", [{"dataset": "flickr30k"}, {"source": "karpathy", "counts": FLICKR30K_IMAGES}])
def test_known_images_are_those_of_the_split_by_its_name(knowing, details):
    references = knowing(make_references(1000, **details))
    assert describe_set(references).label == "1,000 images, Karpathy test"
    one_other = replace(references, image_ids=[*references.image_ids[1:], "1234567890.jpg"])
    assert describe_set(one_other).problem.endswith("but others")


@pytest.mark.parametrize("name", ["{}.jpg", "images/{}.jpg", "{}_693b08cb0e.jpg", "{}"])
def test_known_images_are_recognised_in_a_file_of_any_name(knowing, name):
    references = knowing(make_references(1000, dataset="flickr30k"))
    numbers = [image.removesuffix(".jpg") for image in references.image_ids]
    others = ReferenceSet("captions", "", [name.format(number) for number in numbers], references.captions)
    assert describe_set(others).label == "1,000 images, Karpathy test"


def test_a_part_is_called_one(knowing):
    whole = knowing(make_references(1000, dataset="flickr30k"))
    part = whole.select(range(100))
    assert describe_set(part, of=whole).label == "100 of the 1,000 images, Karpathy test"
    other = make_references(1000, dataset="flickr30k", start=2 * 10**9)
    found = describe_set(other.select(range(100)), of=other)
    assert found.label == "100 of the 1,000 images, flickr30k test, not the Karpathy split"
    assert found.problem
    assert found.fingerprint != describe_set(part, of=whole).fingerprint


def test_images_have_one_fingerprint_in_any_order_and_under_either_name():
    names = ["1000268201_693b08cb0e.jpg", "17273391_55cfc7d3d4.jpg"]
    assert fingerprint_ids(names) == fingerprint_ids(["17273391.jpg", "1000268201.jpg"])
    assert fingerprint_ids(names) != fingerprint_ids(names[:1])
    assert fingerprint_ids(["667626_18933d713e.jpg"]) == fingerprint_ids(["667626.jpg"]) == fingerprint_ids(["667626"])
    assert fingerprint_ids(["a.jpg", "b.jpg"]) != fingerprint_ids(["a.jpg", "c.jpg"])


@pytest.mark.parametrize("times", [("123456", "235959"), ("1234567890", "1234567891")])
def test_photos_of_one_day_are_different_images(times):
    one, other = (f"20240101_{time}.jpg" for time in times)
    assert fingerprint_ids([one]) != fingerprint_ids([other])
    texts = [["a dog"]]
    assert fingerprint_references(ReferenceSet("x", "", [one], texts)) != fingerprint_references(
        ReferenceSet("x", "", [other], texts)
    )


def test_a_coco_photo_has_one_fingerprint_under_the_names_of_both_years():
    names = ["COCO_val2014_000000391895.jpg", "000000391895.jpg", "000000391895"]
    assert len({fingerprint_ids([name]) for name in names}) == 1


def test_references_of_photos_under_other_names_are_the_same():
    texts = [["a dog"]]
    names = ["1000268201_693b08cb0e.jpg", "1000268201.jpg", "1000268201"]
    assert len({fingerprint_references(ReferenceSet("x", "", [name], texts)) for name in names}) == 1


def test_references_have_one_fingerprint_in_any_order():
    first = ReferenceSet("x", "test", ["a", "b"], [["one dog", "a dog"], ["a cat"]])
    second = ReferenceSet("y", "", ["b", "a"], [["a  cat "], ["a dog", "one dog"]])
    other = ReferenceSet("x", "test", ["a", "b"], [["one dog"], ["a cat"]])
    assert fingerprint_references(first) == fingerprint_references(second) != fingerprint_references(other)
