"""The embedded ``scenes`` set: drawn pictures with five captions each and exactly known objects.

Each picture depends only on the seed, the split and its index, so the set can be generated in any order and in parts.
Captions and objects are the same everywhere; the bytes of a picture are as far as Pillow's JPEG encoder is the same.
"""

import io
import random
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from captioner.data.scene_captions import describe_scene, parse_objects
from captioner.data.scene_drawing import draw_scene
from captioner.data.scene_model import HELD_OUT_PAIRS, Scene, SceneObject, sample_scene
from captioner.errors import ConfigError

__all__ = [
    "HELD_OUT_PAIRS",
    "SPLIT_SIZES",
    "Scene",
    "SceneObject",
    "ScenePicture",
    "describe_scene",
    "draw_scene",
    "generate_scenes",
    "parse_objects",
    "sample_scene",
]

SPLIT_SIZES = {"train": 4000, "validation": 200, "test": 500, "test_unseen": 200}
"""Pictures in each split; ``test_unseen`` shows pairs of colour and kind that the others never show."""

_JPEG_QUALITY = 92


@dataclass(frozen=True)
class ScenePicture:
    """One picture of the set."""

    image_id: str
    """File name, such as "train-00001.jpg"."""
    split: str
    """One of SPLIT_SIZES."""
    captions: tuple[str, ...]
    """Five different captions."""
    image: bytes
    """The picture as JPEG."""
    objects: tuple[str, ...]
    """Colour and kind of every object, such as "red house", in the captions' order."""


def generate_scenes(seed: int = 0, split_sizes: Mapping[str, int] = SPLIT_SIZES) -> Iterator[ScenePicture]:
    """Generate the set, split by split.

    Args:
        seed: another seed gives another set.
        split_sizes: pictures a split; the names are those of SPLIT_SIZES.

    Raises:
        ConfigError: a split's name is unknown or its size negative.
    """
    problems = [
        f"there is no split {name!r}; use {', '.join(SPLIT_SIZES)}" for name in split_sizes if name not in SPLIT_SIZES
    ]
    problems += [f"split {name!r} has size {size}; use 0 or more" for name, size in split_sizes.items() if size < 0]
    if problems:
        raise ConfigError(*problems)
    return (
        _make_picture(seed, split, index=index) for split, size in split_sizes.items() for index in range(1, size + 1)
    )


def _make_picture(seed: int, split: str, *, index: int) -> ScenePicture:
    rng = random.Random(f"{seed}/{split}/{index}")
    scene = _sample_for_split(rng, split)
    buffer = io.BytesIO()
    draw_scene(scene).save(buffer, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return ScenePicture(
        image_id=f"{split}-{index:05d}.jpg",
        split=split,
        captions=tuple(describe_scene(scene, rng)),
        image=buffer.getvalue(),
        objects=tuple(item.name for item in scene.objects),
    )


def _sample_for_split(rng: random.Random, split: str) -> Scene:
    """Sample until a scene belongs to the split, which what it shows decides, so that splits share no scene."""
    while True:
        scene = sample_scene(rng, unseen=split == "test_unseen")
        if split == "test_unseen" or _split_of(scene) == split:
            return scene


def _split_of(scene: Scene) -> str:
    return {0: "validation", 1: "test"}.get(zlib.crc32(scene.key.encode()) % 8, "train")
