"""The memory part of ``benchmarks.features``: training on the cached features of many images."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import datasets

from benchmarks.training_systems import run_fit
from benchmarks.training_work import Work, open_work
from benchmarks.turns import Pacer
from captioner.build import build_task, feature_recipe
from captioner.data.batches import CaptionBatch
from captioner.data.feature_shards import LENGTH_BYTES, shard_path
from captioner.data.features import SHARD_ROWS
from captioner.resources import TRAIN, VALIDATION, Resources, dataset_folder
from captioner.settings import Settings

TRAINED_STEPS = 8
"""Of an epoch; the batches between them are only read."""


def train_on_many(work: Work, images: int, pacer: Pacer) -> None:
    """Read every batch of an epoch over a cache of so many images, train on some of them, and call that a step."""
    settings = replace(work.settings, data=replace(work.settings.data, name="many"))
    resources = repeat_images(open_work(work), images)
    write_empty_cache(settings, resources)
    task = build_task(settings, resources)
    del resources  # as a run lets go of its frozen encoder
    batches, every = task.batches, max(1, task.batches_per_epoch() // TRAINED_STEPS)

    def read_all(epoch: int, *, start: int = 0) -> Iterator[CaptionBatch]:
        pairs = 0
        for number, batch in enumerate(batches(epoch)):
            pairs += batch.pairs
            if number % every == 0:
                yield batch
        pacer.step_done(pairs=pairs, tokens=0)

    task.batches = read_all
    run_fit(task, settings, pacer)


def repeat_images(resources: Resources, images: int) -> Resources:
    """The same with so many training images, without pixels, which share the captions of those that are there."""
    few = list(resources.dataset[TRAIN]["captions"])
    rows = {
        "image_id": [f"{row}.jpg" for row in range(images)],
        "image": [None] * images,
        "captions": [few[row % len(few)] for row in range(images)],
    }
    many = datasets.DatasetDict({**resources.dataset, TRAIN: datasets.Dataset.from_dict(rows)})
    return replace(resources, dataset=many)


def write_empty_cache(settings: Settings, resources: Resources) -> None:
    """Feature shards of the right sizes that hold nothing but zeros, and take no room on most disks."""
    recipe, encoder = feature_recipe(settings, resources), resources.encoder
    home = Path(dataset_folder(settings), "features", recipe.fingerprint)
    home.mkdir(parents=True)
    splits = {}
    for split in (TRAIN, VALIDATION):
        rows = len(resources.dataset[split])
        for number, first in enumerate(range(0, rows, SHARD_ROWS)):
            shape = [recipe.views_of(split), min(SHARD_ROWS, rows - first), encoder.patches, encoder.width]
            _write_empty_shard(shard_path(home, split, number), shape)
        splits[split] = {"rows": rows, "views": recipe.views_of(split), "shard_rows": SHARD_ROWS}
    index = {"recipe": asdict(recipe), "splits": splits, "patches": encoder.patches, "width": encoder.width}
    (home / "index.json").write_text(json.dumps(index))


def _write_empty_shard(path: Path, shape: list[int]) -> None:
    size = 2 * math.prod(shape)
    header = json.dumps({"features": {"dtype": "F16", "shape": shape, "data_offsets": [0, size]}}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
        file.truncate(LENGTH_BYTES + len(header) + size)
