"""Sentences about scenes from a grammar with paraphrases, and the objects that such a sentence names.

Every sentence names each object once as "<colour> <kind>", in the order of ``Scene.objects``; the time of day, the
ground, positions, relations and sizes come up in some.
"""

import random
import re
from collections.abc import Callable, Sequence

from captioner.data.scene_model import COLOURS, KINDS, Scene, SceneObject, relation

CAPTIONS_PER_PICTURE = 5

_TIMES = {
    "dawn": ("at dawn", "at sunrise", "early in the morning"),
    "day": ("during the day", "on a sunny day", "in the daytime"),
    "dusk": ("at dusk", "at sunset", "in the evening"),
    "night": ("at night", "under the stars", "on a starry night"),
}
_AROUND = {
    "grass": ("in a meadow", "in the field"),
    "sand": ("at the beach", "on the beach"),
    "snow": ("in the snow", "in a snowy field"),
    "water": ("at the lake", "on the lake"),
}
_POSITIONS = {"left": "on the left", "middle": "in the middle", "right": "on the right"}
_RELATIONS = {
    "above": ("above", "high above"),
    "in front of": ("in front of", "right in front of"),
    "left of": ("to the left of", "next to", "beside"),
}
_VERBS = {
    "house": ("stands",),
    "tree": ("stands", "grows"),
    "car": ("stands", "is parked"),
    "cat": ("sits",),
    "umbrella": ("stands",),
    "ball": ("lies", "rests"),
    "boat": ("floats", "sails"),
    "fish": ("jumps",),
    "kite": ("flies",),
    "balloon": ("flies", "floats"),
}
_OPENINGS = ("there is", "you can see", "we see")
_PICTURES = ("the picture shows", "the image shows", "here we see")


def describe_scene(scene: Scene, rng: random.Random) -> list[str]:
    """Write five different captions of a scene, each with another sentence plan.

    Args:
        scene: what to describe.
        rng: source of randomness; only its ``random()`` is used.
    """
    plans = list(_PLANS[len(scene.objects)])
    captions = []
    for _ in range(CAPTIONS_PER_PICTURE):
        plan = plans.pop(int(rng.random() * len(plans)))
        sentence = plan(_Words(scene, rng))
        captions.append(f"{sentence[0].upper()}{sentence[1:]}.")
    assert len(set(captions)) == CAPTIONS_PER_PICTURE, captions
    return captions


def parse_objects(caption: str) -> list[tuple[str, str]]:
    """Find every object that a caption names, as (colour, kind) in order; the colour of a bare kind is "".

    Args:
        caption: any sentence; case and punctuation do not matter.
    """
    words = re.findall(r"[a-z]+", caption.lower())
    return [
        (before if before in COLOURS else "", word)
        for before, word in zip(["", *words], words, strict=False)
        if word in KINDS
    ]


class _Words:
    """The phrases about one scene, for one sentence."""

    def __init__(self, scene: Scene, rng: random.Random) -> None:
        self._scene, self._rng = scene, rng
        self.objects = scene.objects
        # Half of the sentences tell the size of one object; more would make the longest sentences too long.
        sized = int(rng.random() * 2 * len(self.objects))
        self.names = [_name(item, with_size=index == sized) for index, item in enumerate(self.objects)]

    def pick(self, phrases: Sequence[str]) -> str:
        return phrases[int(self._rng.random() * len(phrases))]

    def time(self) -> str:
        return self.pick(_TIMES[self._scene.time_of_day])

    def around(self) -> str:
        return self.pick(_AROUND[self._scene.ground])

    def place(self, index: int) -> str:
        item, ground = self.objects[index], self._scene.ground
        if item.kind == "fish":
            return f"out of the {ground}"
        return f"over the {ground}" if item.flies else f"on the {ground}"

    def position(self, index: int) -> str:
        return _POSITIONS[self.objects[index].position]

    def place_both(self) -> str:
        """Two objects and where they are in the picture."""
        if self.position(0) == self.position(1):
            return f"{self.list_names()} {self.position(0)}"
        return f"{self.names[0]} {self.position(0)} and {self.names[1]} {self.position(1)}"

    def verb(self, index: int) -> str:
        return self.pick(_VERBS[self.objects[index].kind])

    def relation(self, index: int) -> str:
        """How the object lies to the one after it."""
        return self.pick(_RELATIONS[relation(self.objects[index], self.objects[index + 1])])

    def list_names(self) -> str:
        *others, last = self.names
        return f"{', '.join(others)} and {last}"


def _name(item: SceneObject, *, with_size: bool) -> str:
    words = f"{item.size} {item.name}" if with_size else item.name
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


Plan = Callable[[_Words], str]

_PLANS_FOR_ONE: tuple[Plan, ...] = (
    lambda w: f"{w.names[0]} {w.verb(0)} {w.place(0)} {w.time()}",
    lambda w: f"{w.time()}, {w.names[0]} {w.verb(0)} {w.place(0)}",
    lambda w: f"{w.pick(_OPENINGS)} {w.names[0]} {w.position(0)} {w.time()}",
    lambda w: f"{w.pick(_PICTURES)} {w.names[0]} {w.around()} {w.time()}",
    lambda w: f"{w.around()}, {w.names[0]} {w.verb(0)} {w.position(0)}",
    lambda w: f"{w.names[0]} {w.verb(0)} {w.position(0)} of the picture {w.time()}",
)
_PLANS_FOR_TWO: tuple[Plan, ...] = (
    lambda w: f"{w.names[0]} {w.verb(0)} {w.relation(0)} {w.names[1]} {w.time()}",
    lambda w: f"{w.time()}, {w.names[0]} {w.verb(0)} {w.relation(0)} {w.names[1]}",
    lambda w: f"{w.pick(_OPENINGS)} {w.list_names()} {w.around()} {w.time()}",
    lambda w: f"{w.pick(_PICTURES)} {w.names[0]} {w.relation(0)} {w.names[1]} {w.around()}",
    lambda w: f"{w.names[0]} {w.verb(0)} and {w.names[1]} {w.verb(1)} {w.around()}",
    lambda w: f"{w.list_names()} can be seen {w.around()} {w.time()}",
    lambda w: f"{w.pick(_OPENINGS)} {w.place_both()}",
)
_PLANS_FOR_THREE: tuple[Plan, ...] = (
    lambda w: f"{w.list_names()} can be seen {w.time()}",
    lambda w: f"{w.time()}, {w.pick(_OPENINGS)} {w.list_names()}",
    lambda w: f"{w.pick(_OPENINGS)} {w.list_names()} {w.around()}",
    lambda w: f"{w.pick(_PICTURES)} {w.list_names()} {w.time()}",
    lambda w: f"{w.names[0]} {w.verb(0)} {w.relation(0)} {w.names[1]}, with {w.names[2]} {w.position(2)}",
    lambda w: f"{w.names[0]} {w.verb(0)}, {w.names[1]} {w.verb(1)} and {w.names[2]} {w.verb(2)} {w.place(2)}",
    lambda w: f"{w.pick(_PICTURES)} {w.names[0]} and {w.names[1]} {w.relation(1)} {w.names[2]}",
)
_PLANS: dict[int, tuple[Plan, ...]] = {1: _PLANS_FOR_ONE, 2: _PLANS_FOR_TWO, 3: _PLANS_FOR_THREE}
