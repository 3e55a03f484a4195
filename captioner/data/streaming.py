"""Training batches out of shards that are never on the disk as a whole dataset, nor in memory.

A process reads its share of the stream in windows of ``shuffle_buffer`` samples. A window is shuffled and cut into
batches of like length, as a prepared dataset's epoch is. So the order is random as far as the window reaches, and a run
goes on exactly where it stood: at the window's beginning, which `datasets` finds by its ``state_dict``, and from there
past the batches of the window that were used.
"""

import contextlib
import logging
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from captioner.data.batches import CaptionBatch, pack_captions, plan_batches
from captioner.data.image_views import make_view
from captioner.data.images import open_image
from captioner.data.shards import Sample, Shards, read_sample
from captioner.data.tokenizer import CaptionTokenizer
from captioner.errors import DataError, ImageError

logger = logging.getLogger(__name__)

READERS = 4  # threads of a process that open images and make pixels of them
WAITING = 3  # of the batches that were given out, so many may not be used yet: the next one is brought to the GPU early
Item = TypeVar("Item")


@dataclass(frozen=True)
class _Row:
    """An image and the captions of it that one row of a batch holds."""

    sample: Sample
    tokens: list[list[int]]
    length: int


@dataclass(frozen=True)
class _Window:
    """Samples that were read together."""

    number: int
    samples: list[Sample]
    state: dict[str, Any]
    """Where `datasets` stood before it."""


class StreamBatches:
    """A process's batches of shards, the same ones whenever asked for the same epoch; see ``CaptionBatches``."""

    split_by_process = True

    def __init__(
        self,
        shards: Shards,
        tokenizer: CaptionTokenizer,
        process: Callable[[list[Image.Image]], Tensor],
        *,
        encode: Callable[[Tensor], Tensor] | None = None,
        max_length: int,
        batch_images: int,
        captions_per_row: int = 0,
        length_buckets: bool = True,
        shuffle_buffer: int = 8192,
        views: int = 1,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """Batches of ``batch_images`` images over all processes.

        Args:
            shards: the files.
            tokenizer: for the captions.
            process: RGB images -> pixels [images, 3, height, width]; called in several threads.
            encode: pixels -> features [images, patches, width] of a frozen encoder; None: batches hold pixels.
            max_length: longest caption with its end token.
            batch_images: images of a batch, over all processes.
            captions_per_row: captions of an image that an epoch uses, drawn anew in each; 0: all of them.
            length_buckets: whether rows of like length share a batch.
            shuffle_buffer: samples of a window, of each process.
            views: views of an image to draw from.
            seed: seed of the order and of the views.
            rank: number of this process.
            processes: number of processes.

        Raises DataError if a process would have no images of a batch, or of the stream.
        """
        if min(batch_images, sum(shards.counts)) < processes:
            raise DataError(
                f"batches of {batch_images} out of {sum(shards.counts)} images leave some of {processes} processes "
                "without any; raise --trainer.batch-images or start fewer processes"
            )
        self.shards, self.tokenizer, self.process, self.encode = shards, tokenizer, process, encode
        self.max_length, self.captions_per_row = max_length, captions_per_row
        self.length_buckets, self.views, self.seed = length_buckets, views, seed
        self.rank, self.processes = rank, processes
        self._sizes = [len(range(number, batch_images, processes)) for number in range(processes)]
        self._size = self._sizes[rank]
        self._window = max(1, shuffle_buffer // self._size)  # in batches
        self._places: deque[dict[str, Any]] = deque([{"shards": shards.fingerprint}], maxlen=WAITING)

    def __len__(self) -> int:
        shares = [self.shards.share(number, self.processes) for number in range(self.processes)]
        return max(-(-share // size) for share, size in zip(shares, self._sizes, strict=True))

    def describe(self) -> str:
        """How much there is, in words."""
        return f"{sum(self.shards.counts):,} images in {len(self.shards.paths)} {self.shards.kind} shards"

    def place(self) -> dict[str, Any]:
        """Where the window begins that the newest of the used batches is in, or the one before it."""
        return self._places[0]

    def go_to(self, place: Mapping[str, Any]) -> None:
        """Begin the next epoch at a place; the batches before it are not read again.

        Raises DataError if it is a place in other shards.
        """
        if place and place["shards"] != self.shards.fingerprint:
            raise DataError(
                "the shards are not those that the run was stopped in; bring them back, "
                "or resume from a step at the end of an epoch"
            )
        self._places = deque([dict(place)], maxlen=WAITING)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[CaptionBatch]:
        """This process's batches of an epoch from number ``start`` on; windows and batches are read ahead."""
        # Never more than the other processes expect, whatever the files hold.
        for batch, place in islice(_ahead(self._load_batches(epoch, start), 2), max(0, len(self) - start)):
            self._places.append(place)
            yield batch

    def padding_share(self, epoch: int) -> float:
        """Share of the token places of an epoch's first window that hold padding."""
        planned = self._plan(next(self._windows(epoch, 0)), epoch)
        lengths = [[row.length for row in batch] for batch in planned if batch]
        return 1 - sum(map(sum, lengths)) / max(1, sum(len(batch) * max(batch) for batch in lengths))

    def _load_batches(self, epoch: int, start: int) -> Generator[tuple[CaptionBatch, dict[str, Any]]]:
        """Batches, each with the place that leads to the one after it."""
        number, place = start, self._places[-1]
        with ThreadPoolExecutor(READERS, thread_name_prefix="images") as pool:
            for window in _ahead(self._windows(epoch, start // self._window), 1):
                place = {
                    "epoch": epoch,
                    "window": window.number,
                    "stream": window.state,
                    "shards": self.shards.fingerprint,
                }
                for rows in self._plan(window, epoch)[number - window.number * self._window :]:
                    yield self._load(rows, epoch, pool), place
                    number += 1
            while number < len(self):  # other processes have more
                yield self._load([], epoch, pool), place
                number += 1

    def _windows(self, epoch: int, first: int) -> Generator[_Window]:
        """The windows of an epoch from number ``first`` on."""
        order = random.Random(f"shards {self.seed} {epoch}")
        stream = self.shards.stream(order=order, rank=self.rank, processes=self.processes)
        number, place = 0, self._places[0]
        if place.get("epoch") == epoch and place["window"] <= first:
            stream.load_state_dict(place["stream"])
            number = place["window"]
        state, samples = stream.state_dict(), iter(stream)
        size = self._window * self._size
        while columns := list(islice(samples, size)):
            if number >= first:
                read = [read_sample(sample, number * size + place) for place, sample in enumerate(columns)]
                yield _Window(number, read, state)
            number, state = number + 1, stream.state_dict()

    def _plan(self, window: _Window, epoch: int) -> list[list[_Row]]:
        """The rows of every batch of a window; as many batches as its samples fill, whether or not all can be used."""
        chance = random.Random(f"window {self.seed} {epoch} {self.rank} {window.number}")
        rows = [row for sample in window.samples if (row := self._row(sample, chance))]
        length = (lambda row: row.length) if self.length_buckets else None
        planned = plan_batches(rows, size=self._size, order=chance, length=length)
        return planned + [[]] * (-(-len(window.samples) // self._size) - len(planned))

    def _row(self, sample: Sample, chance: random.Random) -> _Row | None:
        captions = list(sample.captions)
        if self.captions_per_row and len(captions) > self.captions_per_row:
            captions = chance.sample(captions, self.captions_per_row)
        if not captions or not sample.image:
            logger.warning("%s: left out, it has no %s", sample.name, "image" if captions else "caption")
            return None
        tokens = self.tokenizer.encode_batch(captions)
        return _Row(sample, tokens, sum(min(len(caption) + 1, self.max_length) for caption in tokens))

    def _load(self, rows: Sequence[_Row], epoch: int, pool: ThreadPoolExecutor) -> CaptionBatch:
        """A batch of the rows whose images can be read; one of nothing to predict where there are none."""
        opened = zip(rows, pool.map(lambda row: self._open(row.sample, epoch), rows), strict=True)
        read = [(row, pixels) for row, pixels in opened if pixels is not None]
        pixels = torch.cat([pixels for _, pixels in read] or [self.process([Image.new("RGB", (64, 64))])])
        packed = pack_captions(
            [row.tokens for row, _ in read] or [[[]]],
            start=self.tokenizer.start_id,
            end=self.tokenizer.end_id,
            max_length=self.max_length,
        )
        names = tuple(row.sample.name for row, _ in read)
        batch = CaptionBatch(self.encode(pixels) if self.encode else pixels, *packed, rows=names)
        return batch if read else batch.emptied()

    def _open(self, sample: Sample, epoch: int) -> Tensor | None:
        """Pixels [1, 3, height, width] of a view of the image.

        None, with a warning, where it cannot be read: among millions of images some always are broken.
        """
        view = random.Random(f"view {self.seed} {epoch} {sample.name}").randrange(self.views)
        try:
            image = open_image(sample.image, name=sample.name)
        except ImageError as error:
            logger.warning("left out: %s", error)
            return None
        return self.process([make_view(image, image_id=sample.name, view=view)])


def _ahead(items: Generator[Item], depth: int) -> Iterator[Item]:
    """The items, made in a thread of their own, so many of them before they are asked for."""
    with contextlib.closing(items), ThreadPoolExecutor(max_workers=1) as pool:
        pending = deque(pool.submit(next, items, None) for _ in range(depth))
        while (item := pending.popleft().result()) is not None:
            pending.append(pool.submit(next, items, None))
            yield item
