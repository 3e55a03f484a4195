"""Batches of images with all their captions, packed: deterministic for a seed, resumable, bucketed by length.

A row of a batch is one image and all its captions, one behind the other, so that nothing is computed twice for an image
and no padding stands between captions. Images with about the same number of caption tokens share a batch.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

IGNORED = -100
PADDING_SEGMENT = -1
BUCKET_BATCHES = 50  # so many batches are sorted by length together: enough to fit, few enough to stay random

Item = TypeVar("Item")
Row = tuple[int, tuple[int, ...]]
"""One row of a batch: an image's row in the dataset and the numbers of its captions."""

ImageLoader = Callable[[Sequence[int], Sequence[int]], Tensor]
"""Rows of the dataset and their views -> pixels or features of these images [images, ...]."""


@dataclass(frozen=True)
class CaptionBatch:
    """Images and their packed captions."""

    images: Tensor
    """Pixels [images, 3, height, width] or features [images, patches, width]."""
    tokens: Tensor
    """Input tokens [images, length]: for each caption the start token and its tokens."""
    positions: Tensor
    """A token's place in its caption [images, length]."""
    segments: Tensor
    """The number of the token's caption in its row [images, length], PADDING_SEGMENT for padding."""
    targets: Tensor
    """The token that follows [images, length], IGNORED for padding."""
    rows: tuple[int | str, ...]
    """Rows of the dataset, or in a stream the images' names, for naming a batch's images."""

    @property
    def pairs(self) -> int:
        """Number of image-caption pairs."""
        return int((self.positions == 0).logical_and(self.segments != PADDING_SEGMENT).sum())

    def emptied(self) -> "CaptionBatch":
        """The same tensors with nothing to predict and no images to name: they weigh nothing."""
        segments, targets = torch.full_like(self.segments, PADDING_SEGMENT), torch.full_like(self.targets, IGNORED)
        return replace(self, segments=segments, targets=targets, rows=())

    def alone(self, place: int) -> "CaptionBatch":
        """A batch of one of its images."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        one = {name: tensor[place : place + 1] for name, tensor in tensors.items()}
        return replace(self, **one, rows=self.rows[place : place + 1])

    def to(self, device: torch.device) -> "CaptionBatch":
        """The same batch on another device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: tensor.to(device) for name, tensor in tensors.items()})


def pack_captions(
    captions: Sequence[Sequence[Sequence[int]]], *, start: int, end: int, max_length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, positions, segments and targets [images, length] of every image's captions.

    Args:
        captions: for each image its captions as token ids without special tokens.
        start: id of the start token.
        end: id of the end token.
        max_length: longest caption with its end token; longer ones are cut and keep no end token.
    """
    rows = [_pack_image(image, start, end, max_length) for image in captions]
    length = max(len(tokens) for tokens, *_ in rows)
    fillers = (end, 0, PADDING_SEGMENT, IGNORED)
    tokens, positions, segments, targets = (
        torch.tensor([values + [filler] * (length - len(values)) for values in column])
        for column, filler in zip(zip(*rows, strict=True), fillers, strict=True)
    )
    return tokens, positions, segments, targets


def _pack_image(
    captions: Sequence[Sequence[int]], start: int, end: int, max_length: int
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Tokens, positions, segments and targets of one image's captions."""
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[int] = []
    targets: list[int] = []
    for segment, caption in enumerate(captions):
        inputs = [start, *caption][:max_length]
        tokens += inputs
        positions += range(len(inputs))
        segments += [segment] * len(inputs)
        targets += [*caption, end][:max_length]
    return tokens, positions, segments, targets


def plan_batches(
    rows: list[Item], *, size: int, order: random.Random, length: Callable[[Item], int] | None
) -> list[list[Item]]:
    """Shuffle rows in place and cut them into batches.

    Args:
        rows: what to share out.
        size: rows of a batch.
        order: decides the order of rows and batches.
        length: where given, rows of like length share a batch.
    """
    order.shuffle(rows)
    if length is None:
        return [rows[place : place + size] for place in range(0, len(rows), size)]
    batches: list[list[Item]] = []
    for place in range(0, len(rows), BUCKET_BATCHES * size):
        bucket = sorted(rows[place : place + BUCKET_BATCHES * size], key=length)
        batches += [bucket[first : first + size] for first in range(0, len(bucket), size)]
    order.shuffle(batches)
    return batches


class CaptionBatches:
    """The batches of a split, in the same order whenever asked for the same epoch."""

    split_by_process = False  # the batches are the same for any number of processes, each takes its part of them

    def __init__(
        self,
        captions: Sequence[Sequence[Sequence[int]]],
        load_images: ImageLoader,
        *,
        start: int,
        end: int,
        max_length: int,
        batch_images: int,
        captions_per_row: int = 0,
        length_buckets: bool = True,
        views: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """Batches of ``batch_images`` images over all processes; this one's share is every ``processes``-th image.

        Args:
            captions: for each row of the dataset its captions as token ids.
            load_images: reads images by row and view.
            start: id of the start token.
            end: id of the end token.
            max_length: longest caption with its end token.
            batch_images: images of a batch.
            captions_per_row: captions of an image in one row of a batch; an image with more comes again in the same
                epoch, with the others. 0: all of them.
            length_buckets: whether rows of like length share a batch, which saves padding.
            views: views of an image to draw from.
            seed: seed of the order and of the views.
            shuffle: whether to shuffle; otherwise the dataset's order is kept.
            rank: number of this process.
            processes: number of processes.
        """
        self.captions, self.load_images = captions, load_images
        self.start, self.end, self.max_length = start, end, max_length
        self.batch_images, self.views, self.seed, self.shuffle = batch_images, views, seed, shuffle
        self.rank, self.processes = rank, processes
        self.length_buckets = length_buckets
        self._group = captions_per_row or max(map(len, captions), default=1)

    def describe(self) -> str:
        """How much there is, in words."""
        return f"{len(self.captions):,} images with {sum(map(len, self.captions)):,} captions"

    def place(self) -> dict[str, Any]:
        """Nothing: any batch of a plan is found at once."""
        return {}

    def go_to(self, place: Mapping[str, Any]) -> None:
        """Nothing to remember."""

    def __len__(self) -> int:
        rows = sum(-(-len(image) // self._group) for image in self.captions)
        return -(-rows // self.batch_images)

    def plan(self, epoch: int) -> list[list[Row]]:
        """The rows of every batch of an epoch: all pairs, each once."""
        rows, size = self._rows(epoch), self.batch_images
        if not self.shuffle:
            return [rows[place : place + size] for place in range(0, len(rows), size)]
        order = random.Random(f"order {self.seed} {epoch}")
        return plan_batches(rows, size=size, order=order, length=self._length if self.length_buckets else None)

    def _rows(self, epoch: int) -> list[Row]:
        """Every image with its captions in groups, drawn anew each epoch where an image has several groups."""
        rows = []
        for image, captions in enumerate(self.captions):
            numbers = list(range(len(captions)))
            if self.shuffle and len(numbers) > self._group:
                random.Random(f"captions {self.seed} {epoch} {image}").shuffle(numbers)
            rows += [
                (image, tuple(numbers[place : place + self._group])) for place in range(0, len(numbers), self._group)
            ]
        return rows

    def _length(self, row: Row) -> int:
        """Tokens of a row."""
        image, numbers = row
        return sum(min(len(self.captions[image][number]) + 1, self.max_length) for number in numbers)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[CaptionBatch]:
        """This process's batches of an epoch from number ``start`` on; the next ones load while one is used."""
        plan = self.plan(epoch)[start:]
        ahead = 2
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches") as pool:
            pending = [pool.submit(self.collate, rows, epoch) for rows in plan[:ahead]]
            for number in range(len(plan)):
                batch = pending.pop(0).result()
                if number + ahead < len(plan):
                    pending.append(pool.submit(self.collate, plan[number + ahead], epoch))
                yield batch

    def collate(self, rows: Sequence[Row], epoch: int) -> CaptionBatch:
        """This process's share of one batch of the plan."""
        mine = list(rows[self.rank :: self.processes])
        if not mine:  # every process takes part in every step, also one that the last images do not reach
            return self._load(rows[:1], epoch).emptied()
        return self._load(mine, epoch)

    def _load(self, mine: Sequence[Row], epoch: int) -> CaptionBatch:
        """One batch of this process's rows."""
        images = [image for image, _ in mine]
        views = [random.Random(f"view {self.seed} {epoch} {row}").randrange(self.views) for row in mine]
        packed = pack_captions(
            [[self.captions[image][number] for number in numbers] for image, numbers in mine],
            start=self.start,
            end=self.end,
            max_length=self.max_length,
        )
        return CaptionBatch(self.load_images(images, views), *packed, rows=tuple(images))

    def padding_share(self, epoch: int) -> float:
        """Share of an epoch's token places that hold padding."""
        lengths = [[self._length(row) for row in batch] for batch in self.plan(epoch)]
        return 1 - sum(map(sum, lengths)) / sum(len(batch) * max(batch) for batch in lengths)
