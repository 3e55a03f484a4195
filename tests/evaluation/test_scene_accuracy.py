"""Scene accuracy on cases worked out by hand."""

import pytest

from captioner.errors import DataError
from captioner.evaluation.scene_accuracy import scene_accuracy, scene_matches

CASES = [
    ("A red house stands beside a blue cat at dawn.", ["blue cat", "red house"], True),
    ("a big red house and a red house", ["red house", "red house"], True),
    ("A red house and a red house.", ["red house"], False),
    ("A red house.", ["red house", "red house"], False),
    ("A blue house and a red cat.", ["blue cat", "red house"], False),
    ("A red house and a tree.", ["red house"], False),
    ("A red house.", ["red house", "blue cat"], False),
]


@pytest.mark.parametrize(("caption", "objects", "expected"), CASES)
def test_a_match_names_exactly_the_objects_in_any_order(caption, objects, expected):
    assert scene_matches([caption], [objects]) == [expected]


def test_shares_over_several_pictures():
    captions = ["A red house and a blue cat.", "A green cat and a kite.", "We see nothing."]
    objects = [["red house", "blue cat"], ["green cat", "white kite", "red ball"], ["black car"]]
    assert scene_accuracy(captions, objects) == pytest.approx(
        {"scene_accuracy": 1 / 3, "object_recall": 3 / 6, "object_precision": 3 / 4, "kind_recall": 4 / 6}
    )


def test_one_caption_a_picture_is_needed():
    with pytest.raises(DataError, match="2 captions for 1 pictures: give one caption a picture"):
        scene_accuracy(["A red house.", "A red house."], [["red house"]])


def test_no_pictures_cannot_be_scored():
    with pytest.raises(DataError, match="no captions to score: scene accuracy needs at least one picture"):
        scene_accuracy([], [])
