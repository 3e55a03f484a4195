"""How well captions of the ``scenes`` set name the objects, whose kinds and colours are exactly known."""

from collections import Counter
from collections.abc import Sequence

from captioner.data.scene_captions import parse_objects
from captioner.errors import DataError


def scene_matches(captions: Sequence[str], objects: Sequence[Sequence[str]]) -> list[bool]:
    """Tell for each caption whether it names exactly the objects of its picture, each as often as it occurs.

    Args:
        captions: one caption a picture.
        objects: colour and kind of every object in each picture, such as ["red house", "blue car"].

    Raises:
        DataError: there is not one caption a picture.
    """
    _check_lengths(captions, objects)
    return [_named(caption) == Counter(truth) for caption, truth in zip(captions, objects, strict=True)]


def scene_accuracy(captions: Sequence[str], objects: Sequence[Sequence[str]]) -> dict[str, float]:
    """Measure how exactly captions name the objects of scenes; order, sizes and places do not count.

    Args:
        captions: one caption a picture.
        objects: colour and kind of every object in each picture, such as ["red house", "blue car"].

    Returns:
        ``scene_accuracy``: share of captions that name exactly the objects of their picture;
        ``object_recall``: share of all objects named with their colour;
        ``object_precision``: share of all named objects that are there in that colour;
        ``kind_recall``: share of all objects named in whatever colour, which tells wrong colours from missed objects.

    Raises:
        DataError: there is not one caption a picture, or there are no pictures.
    """
    matches = scene_matches(captions, objects)
    if not matches:
        raise DataError("no captions to score: scene accuracy needs at least one picture")
    named = [_named(caption) for caption in captions]
    truths = [Counter(truth) for truth in objects]
    total = sum(truth.total() for truth in truths)
    found = sum((name & truth).total() for name, truth in zip(named, truths, strict=True))
    kinds = sum((_kinds(name) & _kinds(truth)).total() for name, truth in zip(named, truths, strict=True))
    return {
        "scene_accuracy": sum(matches) / len(matches),
        "object_recall": found / max(total, 1),
        "object_precision": found / max(sum(name.total() for name in named), 1),
        "kind_recall": kinds / max(total, 1),
    }


def _named(caption: str) -> Counter[str]:
    return Counter(f"{colour} {kind}".strip() for colour, kind in parse_objects(caption))


def _kinds(names: Counter[str]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for name, count in names.items():
        kinds[name.rpartition(" ")[2]] += count
    return kinds


def _check_lengths(captions: Sequence[str], objects: Sequence[Sequence[str]]) -> None:
    if len(captions) != len(objects):
        raise DataError(f"{len(captions)} captions for {len(objects)} pictures: give one caption a picture")
