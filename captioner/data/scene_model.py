"""What a scene is, and how one is sampled: times of day, grounds, kinds, colours, sizes and places.

A scene has one to three objects. Their order in ``Scene.objects`` is the order in which captions mention them: from
left to right, and within a column the object that is above or in front first.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

TIMES_OF_DAY = ("dawn", "day", "dusk", "night")
GROUNDS = ("grass", "sand", "snow", "water")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
LAND_KINDS = ("house", "tree", "car", "cat", "umbrella", "ball")
WATER_KINDS = ("boat", "fish")
FLYING_KINDS = ("kite", "balloon")
KINDS = LAND_KINDS + WATER_KINDS + FLYING_KINDS
SIZES = ("small", "big")
POSITIONS = ("left", "middle", "right")
LANDSCAPES = 4
"""Number of different hill lines, cloud fields and sun or moon places a background can have."""

HELD_OUT_PAIRS = frozenset(
    {
        ("red", "boat"),
        ("orange", "car"),
        ("yellow", "house"),
        ("green", "cat"),
        ("blue", "umbrella"),
        ("purple", "kite"),
        ("black", "balloon"),
        ("white", "ball"),
    }
)
"""Pairs of colour and kind that only the ``test_unseen`` split shows."""

_COLUMN_X = (0.18, 0.50, 0.82)
_SAME_COLUMN = 0.12
_EXTENTS = {"small": (0.31, 0.32, 0.33), "big": (0.385, 0.39, 0.395)}
# Two kinds live on water and six on land; these shares make all ten kinds about equally frequent.
_WATER_SHARE = 0.25
_FLYING_SHARE = 0.18
_STACKED_SHARE = 0.3

Item = TypeVar("Item")


@dataclass(frozen=True)
class SceneObject:
    """One object: all lengths are shares of the picture's side."""

    kind: str
    colour: str
    size: str
    x: float
    """Centre, from the left edge."""
    y: float
    """Base of a standing object, centre of a flying one, from the top edge."""
    extent: float
    """Side of the square that the object fills."""
    mirrored: bool

    @property
    def name(self) -> str:
        """Colour and kind, such as "red house"."""
        return f"{self.colour} {self.kind}"

    @property
    def flies(self) -> bool:
        """Whether the object is in the sky."""
        return self.kind in FLYING_KINDS

    @property
    def position(self) -> str:
        """left, middle or right."""
        return POSITIONS[min(int(self.x * 3), 2)]


@dataclass(frozen=True)
class Scene:
    """A background and the objects before it, in the order in which captions mention them."""

    time_of_day: str
    ground: str
    landscape: int
    objects: tuple[SceneObject, ...]

    @property
    def key(self) -> str:
        """What the scene shows, without its coordinates and landscape."""
        objects = (f"{item.size} {item.colour} {item.kind}" for item in self.objects)
        return f"{self.time_of_day}/{self.ground}/{', '.join(objects)}"


def relation(first: SceneObject, second: SceneObject) -> str:
    """How an object lies to the one mentioned after it: ``above``, ``in front of`` or ``left of``."""
    if abs(first.x - second.x) > _SAME_COLUMN:
        return "left of"
    return "above" if first.flies else "in front of"


def sample_scene(rng: random.Random, *, unseen: bool) -> Scene:
    """Sample a scene with one to three objects.

    Args:
        rng: source of randomness; only its ``random()`` is used, whose sequence Python guarantees across versions.
        unseen: whether the scene must show a held-out pair of colour and kind; otherwise it shows none.
    """
    while True:
        scene = _sample_any_scene(rng)
        if len({item.name for item in scene.objects}) < len(scene.objects):
            continue  # "a red car and a red car" reads badly
        if unseen == any((item.colour, item.kind) in HELD_OUT_PAIRS for item in scene.objects):
            return scene


def _sample_any_scene(rng: random.Random) -> Scene:
    ground = "water" if rng.random() < _WATER_SHARE else _pick(rng, GROUNDS[:-1])
    count = _pick(rng, (1, 1, 1, 2, 2, 3))
    stacked = count > 1 and rng.random() < _STACKED_SHARE
    columns = _sample_columns(rng, count - stacked)
    stacked_column = _pick(rng, range(len(columns))) if stacked else -1
    objects: list[SceneObject] = []
    sizes = SIZES if len(columns) < 3 else SIZES[:1]  # three big objects side by side would hide each other
    for index, x in enumerate(columns):
        place = _sample_stack if index == stacked_column else _sample_single
        objects.extend(place(rng, ground, size=_pick(rng, sizes), x=x))
    return Scene(_pick(rng, TIMES_OF_DAY), ground, _pick(rng, range(LANDSCAPES)), tuple(objects))


def _sample_columns(rng: random.Random, count: int) -> list[float]:
    """Centres of ``count`` columns from left to right, wide enough apart for the largest objects."""
    skipped = _pick(rng, range(3))
    chosen = {1: (_COLUMN_X[skipped],), 2: tuple(x for x in _COLUMN_X if x != _COLUMN_X[skipped]), 3: _COLUMN_X}[count]
    return [_between(rng, x - 0.01, x + 0.01) for x in chosen]


def _sample_single(rng: random.Random, ground: str, *, size: str, x: float) -> list[SceneObject]:
    if rng.random() < _FLYING_SHARE:
        return [_sample_object(rng, _pick(rng, FLYING_KINDS), size=size, x=x, y=_between(rng, 0.21, 0.32))]
    return [_sample_object(rng, _pick(rng, _standing_kinds(ground)), size=size, x=x, y=_between(rng, 0.74, 0.90))]


def _sample_stack(rng: random.Random, ground: str, *, size: str, x: float) -> list[SceneObject]:
    """Two objects in one column: one flying above the other, or a small one standing before the other."""
    lower = _sample_object(rng, _pick(rng, _standing_kinds(ground)), size=size, x=x, y=_between(rng, 0.735, 0.745))
    shifted = x + _between(rng, -0.015, 0.015)
    if rng.random() < 0.5:
        kind = _pick(rng, FLYING_KINDS)
        return [_sample_object(rng, kind, size=_pick(rng, SIZES), x=shifted, y=_between(rng, 0.2, 0.21)), lower]
    kind = _pick(rng, _standing_kinds(ground))
    return [_sample_object(rng, kind, size="small", x=shifted, y=_between(rng, 0.98, 0.985)), lower]


def _sample_object(rng: random.Random, kind: str, *, size: str, x: float, y: float) -> SceneObject:
    extent = _pick(rng, _EXTENTS[size])
    edge = extent / 2 + 0.02  # keeps the object and its outline inside the picture
    inside = round(min(max(x, edge), 1 - edge), 3)
    return SceneObject(kind, _pick(rng, COLOURS), size, inside, round(y, 3), extent, rng.random() < 0.5)


def _standing_kinds(ground: str) -> tuple[str, ...]:
    return WATER_KINDS if ground == "water" else LAND_KINDS


def _pick(rng: random.Random, items: Sequence[Item]) -> Item:
    # Not rng.choice: Python guarantees only random() to stay the same from version to version.
    return items[int(rng.random() * len(items))]


def _between(rng: random.Random, low: float, high: float) -> float:
    return low + (high - low) * rng.random()
