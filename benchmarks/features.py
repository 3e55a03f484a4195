"""The feature cache, how fast it is built and how little memory it takes: ``python -m benchmarks.features``.

Building (read, decode, encode, check, write) and the encoder alone on pixels that are there already take turns, on the
same number of images, with the same batch and threads. Images are decoded in threads, and in so many worker processes;
their start counts, so a GPU needs some thousands of images. Beside them the loader of images alone, with one thread and
with more. Then an epoch over the cache of 30,000 images is read, and some of its batches are trained on, in a process
of its own whose peak of resident memory is told.
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict

from benchmarks.figures import add_output, add_threads, use_threads, write_figures
from benchmarks.large_cache import train_on_many
from benchmarks.roofline import describe_machine, measure_ceilings
from benchmarks.training_work import Work, describe_encoder, open_work, prepare_asked
from benchmarks.turns import Contestant
from captioner.build import ENCODED_IMAGES, feature_recipe, frozen_encode, loading_options
from captioner.data.encoded_images import EncodedImages
from captioner.data.features import build_features
from captioner.data.images import open_image
from captioner.data.view_loading import ViewLoader
from captioner.models.encoders import load_encoder
from captioner.models.image_processors import load_processor
from captioner.resources import TRAIN, Resources
from captioner.settings import Settings


@dataclass
class Speed:
    """Images and seconds of one way."""

    images: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    def add(self, images: int, work: Callable[[], object]) -> None:
        """Do it and count it."""
        start = time.perf_counter()
        work()
        self.seconds += time.perf_counter() - start
        self.images += images


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.features", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="a prepared dataset (default: the embedded scenes)")
    add("--encoder", metavar="FOLDER", help="a vision model (default: random weights in the shape of ViT-B/32)")
    add("--images", type=int, default=256, help="images of a turn")
    add("--rounds", type=int, default=3)
    add(
        "--workers",
        type=int,
        nargs="+",
        metavar="N",
        help="processes that decode, 0: threads (default: 0 and what is used)",
    )
    add("--open-threads", type=int, nargs="+", metavar="N", help="threads of the loader alone (default: 1 and all)")
    add("--memory-images", type=int, default=30_000, help="images of the large cache; 0: leave it out")
    add("--batch-images", type=int, default=32, help="images of a training batch on the large cache")
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add_threads(parser)
    add("--tiny", action="store_true", help="shapes of no meaning, for trying it out")
    add_output(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write it as JSON."""
    options = _parser().parse_args(argv)
    use_threads(options)
    device = torch.device(options.device)
    content = describe_machine(measure_ceilings(device, time.perf_counter), device)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare_asked(options, folder)
        resources, settings = open_work(work), work.settings
        if options.encoder:
            encoder = replace(settings.encoder, config="", name=options.encoder, image_size=0)
            settings = replace(settings, encoder=encoder)
            resources = replace(resources, encoder=load_encoder(encoder), processor=load_processor(encoder))
        content["encoder"] = options.encoder or describe_encoder(work)
        print("\n".join(f"{name}: {value}" for name, value in content.items()))
        threads = options.open_threads or sorted({1, torch.get_num_threads()})
        workers = options.workers or sorted({0, loading_options(settings, resources.processor)["workers"]})
        builds, forward = measure(settings, resources, workers, folder=Path(folder), rounds=options.rounds)
        opened = measure_opening(resources, threads, rounds=options.rounds)
        content["speed"] = report_speed(builds, forward) | {"opening": report_opening(opened)}
        if options.memory_images:
            content["memory"] = measure_memory(work, options.memory_images)
    write_figures(options, content)
    return 0


def measure(
    settings: Settings, resources: Resources, workers: Sequence[int], *, folder: Path, rounds: int
) -> tuple[dict[int, Speed], Speed]:
    """Building with so many worker processes each, and the encoder alone; each build makes another cache."""
    dataset = DatasetDict({TRAIN: resources.dataset[TRAIN]})
    images, count = EncodedImages(dataset[TRAIN]), len(dataset[TRAIN])
    encode, recipe = frozen_encode(settings, resources.encoder), feature_recipe(settings, resources)
    loading = loading_options(settings, resources.processor)

    def build_all(number: int, name: object, split: DatasetDict = dataset) -> None:
        anew, options = replace(recipe, dataset=f"{number} workers, {name}"), {**loading, "workers": number}
        build_features(split, folder, anew, encode=encode, process=resources.processor, splits=(TRAIN,), **options)

    def encode_all() -> None:
        for first in range(0, count, ENCODED_IMAGES):
            encode(pixels[: min(ENCODED_IMAGES, count - first)])

    pixels = resources.processor([open_image(images[row]) for row in range(min(ENCODED_IMAGES, count))])
    encode(pixels)
    few = DatasetDict({TRAIN: dataset[TRAIN].select(range(1))})
    for number in workers:
        build_all(number, "to begin with", few)  # the first processes of all import what they need
    builds, forward = {number: Speed() for number in workers}, Speed()
    for turn in range(rounds):
        turns = [(speed, functools.partial(build_all, number, turn)) for number, speed in builds.items()]
        turns.append((forward, encode_all))
        for speed, work in turns if turn % 2 else turns[::-1]:
            speed.add(count, work)
    return builds, forward


def measure_opening(resources: Resources, threads: Sequence[int], *, rounds: int) -> dict[int, Speed]:
    """The cache's loader without an encoder: opening images and making pixels of them, with so many threads in turn."""
    rows = resources.dataset[TRAIN]
    images, names = EncodedImages(rows), list(rows["image_id"])
    starts = range(0, len(names), ENCODED_IMAGES)
    batches = [range(first, min(first + ENCODED_IMAGES, len(names))) for first in starts]
    speeds, before = {number: Speed() for number in threads}, torch.get_num_threads()

    def open_all(loader: ViewLoader) -> None:
        for _ in loader.load(names, images, batches, views=1):
            pass

    try:
        for turn in range(rounds):
            for number in threads if turn % 2 else threads[::-1]:
                torch.set_num_threads(number)
                speeds[number].add(len(names), functools.partial(open_all, ViewLoader(resources.processor, ahead=1)))
    finally:
        torch.set_num_threads(before)
    return speeds


def report_speed(builds: dict[int, Speed], forward: Speed) -> dict[str, Any]:
    """Print the rates and return them."""
    print(f"\n{'encoder alone':<40} {forward.rate:8.1f} images/s")
    found = []
    for workers, build in builds.items():
        title = f"building the cache, {f'{workers} worker process' + 'es' * (workers > 1) if workers else 'threads'}"
        share = build.rate / forward.rate
        print(f"{title:<40} {build.rate:8.1f} images/s, {share:.1%} of the encoder alone", flush=True)
        found.append({"workers": workers, "images_per_second": build.rate, "share_of_forward": share})
    return {"forward_images_per_second": forward.rate, "builds": found}


def report_opening(speeds: dict[int, Speed]) -> list[dict[str, float]]:
    """Print what each number of threads opens, and return it."""
    one, found = next(iter(speeds.values())).rate, []
    for threads, speed in speeds.items():
        title = f"opening and processing, {threads} thread{'s' * (threads > 1)}"
        print(f"{title:<40} {speed.rate:8.1f} images/s, {speed.rate / one:.2f} times the first", flush=True)
        found.append({"threads": threads, "images_per_second": speed.rate, "times_first": speed.rate / one})
    return found


def measure_memory(work: Work, images: int) -> dict[str, float]:
    """Print the peak memory of training on a large cache and return it."""
    contestant = Contestant("large cache", train_on_many, (work, images))
    turn = contestant.start(threads=torch.get_num_threads())
    contestant.stop()
    encoder = open_work(work).encoder
    size = 2 * images * encoder.patches * encoder.width
    print(
        f"\nan epoch over {images:,} images ({size / 2**20:,.0f} MiB of features, {turn.pairs:,} pairs) with training"
        f" batches of {work.settings.trainer.batch_images} images: {turn.memory / 2**20:,.0f} MiB resident at its peak"
    )
    return {"images": images, "feature_bytes": size, "peak_resident_bytes": turn.memory}


if __name__ == "__main__":
    sys.exit(main())
