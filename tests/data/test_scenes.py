"""The embedded set: the same everywhere, exactly captioned, and split so that some pairs are unseen."""

import hashlib
import io
import random
from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest
from PIL import Image

from captioner.data.scene_model import COLOURS, GROUNDS, KINDS, SIZES, TIMES_OF_DAY, SceneObject, relation
from captioner.data.scenes import (
    HELD_OUT_PAIRS,
    SPLIT_SIZES,
    Scene,
    describe_scene,
    draw_scene,
    generate_scenes,
    parse_objects,
    sample_scene,
)
from captioner.errors import ConfigError


def sample_scenes(count, *, unseen=False):
    return [sample_scene(random.Random(f"scene {index}"), unseen=unseen) for index in range(count)]


def count_differing_pixels(one, other):
    """Pixels whose colours clearly differ: by more than 60 summed over the three channels."""
    difference = np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int))  # [height, width, 3]
    return int((difference.sum(axis=2) > 60).sum())


def draw_alone(kind, colour, *, time_of_day="day", ground="grass"):
    item = SceneObject(kind, colour, "big", x=0.5, y=0.5, extent=0.36, mirrored=False)
    return draw_scene(Scene(time_of_day, ground, 0, (item,)), size=64)


def test_pictures_are_the_same_whatever_else_is_generated():
    few = {picture.image_id: picture for picture in generate_scenes(7, {"test": 4, "train": 6})}
    more = {picture.image_id: picture for picture in generate_scenes(7, {"train": 8, "test_unseen": 2, "test": 5})}
    assert len(few) == 10
    assert all(more[name] == picture for name, picture in few.items())


def test_another_seed_gives_other_pictures():
    first = [picture.captions for picture in generate_scenes(0, {"train": 5})]
    second = [picture.captions for picture in generate_scenes(1, {"train": 5})]
    assert first != second


def test_captions_of_the_default_seed_are_those_everyone_has():
    captions = "\n".join(caption for picture in generate_scenes(0, {"train": 20}) for caption in picture.captions)
    assert hashlib.sha256(captions.encode()).hexdigest()[:16] == "c86f74049d0923cf"


def test_pixels_do_not_depend_on_what_was_drawn_before():
    scenes = sample_scenes(12)
    forward = [draw_scene(scene).tobytes() for scene in scenes]
    backward = [draw_scene(scene).tobytes() for scene in reversed(scenes)]
    assert forward == backward[::-1]


def test_pictures_are_square_rgb_jpegs_with_five_captions_and_their_own_names():
    pictures = list(generate_scenes(0, dict.fromkeys(SPLIT_SIZES, 3)))
    assert [picture.image_id for picture in pictures[:3]] == ["train-00001.jpg", "train-00002.jpg", "train-00003.jpg"]
    assert len({picture.image_id for picture in pictures}) == 12
    for picture in pictures:
        image = Image.open(io.BytesIO(picture.image))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (160, 160))
        assert picture.image_id.startswith(f"{picture.split}-")
        assert len(picture.captions) == 5


def test_captions_name_exactly_the_objects_in_order():
    for index, scene in enumerate(sample_scenes(200) + sample_scenes(100, unseen=True)):
        truth = [(item.colour, item.kind) for item in scene.objects]
        for caption in describe_scene(scene, random.Random(index)):
            assert parse_objects(caption) == truth, caption


def test_captions_are_five_different_short_sentences_of_a_small_vocabulary():
    vocabulary = set()
    for index, scene in enumerate(sample_scenes(300)):
        captions = describe_scene(scene, random.Random(index))
        assert len(set(captions)) == 5
        for caption in captions:
            words = caption.removesuffix(".").split()
            assert 8 <= len(words) <= 20, caption
            assert caption[0].isupper()
            assert caption.endswith(".")
            vocabulary.update(word.strip(",").lower() for word in words)
    assert len(vocabulary) < 150
    assert vocabulary >= {*KINDS, *COLOURS, *SIZES, "dawn", "dusk", "night", "left", "above", "front", "beside"}


def test_articles_fit_the_word_after_them():
    for index, scene in enumerate(sample_scenes(200)):
        for caption in describe_scene(scene, random.Random(index)):
            words = caption.lower().replace(",", "").split()
            for article, word in pairwise(words):
                if article in ("a", "an"):
                    assert article == ("an" if word[0] in "aeiou" else "a"), caption


def test_objects_are_mentioned_from_left_to_right_and_above_or_in_front_first():
    seen = Counter()
    for scene in sample_scenes(800):
        for first, second in pairwise(scene.objects):
            name = relation(first, second)
            seen[name] += 1
            if name == "left of":
                assert first.x < second.x
            elif name == "above":
                assert first.flies
                assert first.y + first.extent / 2 < second.y
            else:
                assert first.y > second.y
                assert first.size == "small"
    assert min(seen[name] for name in ("left of", "above", "in front of")) > 20


def test_objects_hide_no_more_than_a_part_of_each_other():
    def box(item):
        top = item.y - item.extent / 2 if item.flies else item.y - item.extent
        return item.x - item.extent / 2, top, item.x + item.extent / 2, top + item.extent

    for scene in sample_scenes(400):
        boxes = [box(item) for item in scene.objects]
        for left, top, right, bottom in boxes:
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
        for index, first in enumerate(boxes):
            for second in boxes[index + 1 :]:
                width = min(first[2], second[2]) - max(first[0], second[0])
                height = min(first[3], second[3]) - max(first[1], second[1])
                smaller = min((item[2] - item[0]) ** 2 for item in (first, second))
                assert max(width, 0) * max(height, 0) < 0.35 * smaller


def test_everything_occurs_in_training():
    assert len(KINDS) >= 10
    assert len(COLOURS) >= 8
    scenes = sample_scenes(600)
    objects = [item for scene in scenes for item in scene.objects]
    kinds = Counter(item.kind for item in objects)
    colours = Counter(item.colour for item in objects)
    assert min(kinds[kind] for kind in KINDS) > len(objects) / 24
    assert min(colours[colour] for colour in COLOURS) > len(objects) / 16
    assert {scene.time_of_day for scene in scenes} == set(TIMES_OF_DAY)
    assert {scene.ground for scene in scenes} == set(GROUNDS)
    assert {len(scene.objects) for scene in scenes} == {1, 2, 3}


def test_held_out_pairs_are_only_in_test_unseen():
    held_out = {f"{colour} {kind}" for colour, kind in HELD_OUT_PAIRS}
    pictures = list(generate_scenes(0, {"train": 150, "validation": 50, "test": 50, "test_unseen": 50}))
    for picture in pictures:
        assert bool(held_out & set(picture.objects)) == (picture.split == "test_unseen")


def test_held_out_pairs_take_each_colour_once_and_no_kind_twice():
    assert sorted(colour for colour, _ in HELD_OUT_PAIRS) == sorted(COLOURS)
    assert len({kind for _, kind in HELD_OUT_PAIRS}) == len(HELD_OUT_PAIRS)


def test_no_scene_is_in_two_splits(monkeypatch):
    keys = {split: set() for split in SPLIT_SIZES}

    def record(scene, rng):
        keys[current].add(scene.key)
        return describe_scene(scene, rng)

    monkeypatch.setattr("captioner.data.scenes.describe_scene", record)
    monkeypatch.setattr("captioner.data.scenes.draw_scene", lambda scene: Image.new("RGB", (8, 8)))
    for current in SPLIT_SIZES:  # record() reads it
        assert len(list(generate_scenes(0, {current: 500}))) == 500
    assert all(len(found) > 200 for found in keys.values())
    assert sum(len(found) for found in keys.values()) == len(set.union(*keys.values()))


@pytest.mark.parametrize("time_of_day", TIMES_OF_DAY)
def test_every_colour_shows_on_every_ground_and_differs_from_every_other(time_of_day):
    for ground in GROUNDS:
        pictures = {colour: draw_alone("ball", colour, time_of_day=time_of_day, ground=ground) for colour in COLOURS}
        empty = draw_scene(Scene(time_of_day, ground, 0, ()), size=64)
        for one, other in combinations(pictures.values(), 2):
            assert count_differing_pixels(one, other) > 200
        for picture in pictures.values():
            assert count_differing_pixels(picture, empty) > 200


def test_every_kind_has_its_own_silhouette():
    empty = draw_scene(Scene("day", "grass", 0, ()), size=64).tobytes()
    silhouettes = {
        kind: [a != b for a, b in zip(draw_alone(kind, "red").tobytes(), empty, strict=True)] for kind in KINDS
    }
    for kind, shape in silhouettes.items():
        for other, other_shape in silhouettes.items():
            if kind < other:
                union = sum(a or b for a, b in zip(shape, other_shape, strict=True))
                differing = sum(a != b for a, b in zip(shape, other_shape, strict=True))
                assert differing / union > 0.08, (kind, other)


def test_pictures_can_be_drawn_larger():
    assert draw_scene(sample_scenes(1)[0], size=320).size == (320, 320)


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("A big RED house, and an orange car!", [("red", "house"), ("orange", "car")]),
        ("Two houses: a red one.", []),
        ("A house stands beside a blue tree", [("", "house"), ("blue", "tree")]),
        ("red red ball ball", [("red", "ball"), ("", "ball")]),
        ("", []),
    ],
)
def test_parsing_any_sentence(caption, objects):
    assert parse_objects(caption) == objects


def test_wrong_splits_are_all_named():
    with pytest.raises(
        ConfigError, match="there is no split 'dev'; use train, validation, test, test_unseen"
    ) as caught:
        generate_scenes(0, {"dev": 3, "train": -1})
    assert caught.value.problems[1] == "split 'train' has size -1; use 0 or more"
