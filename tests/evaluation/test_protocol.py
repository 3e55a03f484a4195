import pytest

from captioner.data.records import FLICKR30K_IMAGES
from captioner.errors import DataError
from captioner.evaluation import protocol
from captioner.evaluation.protocol import describe_set, fingerprint_ids, fingerprint_references, refuse_different_set
from captioner.evaluation.references import ReferenceSet


def make_references(count, *, dataset="photos", split="test", start=10**9, **details):
    names = [f"{start + number}.jpg" for number in range(count)]
    return ReferenceSet(dataset, split, names, [["a dog"]] * count, **details)


@pytest.mark.parametrize(
    ("references", "label"),
    [
        (make_references(1000, dataset="flickr30k"), "1,000 images, Karpathy test"),
        (make_references(1000, source="flickr30k-parquet"), "1,000 images, Karpathy test"),
        (make_references(1014, dataset="Flickr30k", split="validation"), "1,014 images, Karpathy validation"),
        (make_references(1000, source="karpathy", counts=FLICKR30K_IMAGES), "1,000 images, Karpathy test"),
        (make_references(5000, dataset="coco", source="karpathy"), "5,000 images, Karpathy test"),
        (make_references(1000, dataset="flickr8k", source="karpathy"), "1,000 images, published test"),
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
            "split test of flickr8k has 1,000 images as the published test has, but others",
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


def test_known_images_are_recognised_by_their_names(monkeypatch):
    references = make_references(1000, dataset="flickr8k", source="flickr8k")
    flickr8k, *others = protocol.PROTOCOLS
    known = {"test": fingerprint_ids(references.image_ids)}
    changed = protocol.Protocol(flickr8k.dataset, flickr8k.sources, flickr8k.images, flickr8k.author, known)
    monkeypatch.setattr(protocol, "PROTOCOLS", (changed, *others))
    assert describe_set(references).label == "1,000 images, published test"


def test_a_part_is_called_one():
    part = make_references(100, dataset="flickr30k")
    assert describe_set(part, of=1000).label == "100 of the 1,000 images, Karpathy test"


def test_images_have_one_fingerprint_in_any_order_and_under_either_name():
    names = ["1000268201_693b08cb0e.jpg", "17273391_55cfc7d3d4.jpg"]
    assert fingerprint_ids(names) == fingerprint_ids(["17273391.jpg", "1000268201.jpg"])
    assert fingerprint_ids(names) != fingerprint_ids(names[:1])
    assert fingerprint_ids(["a.jpg", "b.jpg"]) != fingerprint_ids(["a.jpg", "c.jpg"])


def test_references_have_one_fingerprint_in_any_order():
    first = ReferenceSet("x", "test", ["a", "b"], [["one dog", "a dog"], ["a cat"]])
    second = ReferenceSet("y", "", ["b", "a"], [["a  cat "], ["a dog", "one dog"]])
    other = ReferenceSet("x", "test", ["a", "b"], [["one dog"], ["a cat"]])
    assert fingerprint_references(first) == fingerprint_references(second) != fingerprint_references(other)
