"""Views of an image: itself, its mirror image, random crops; the same ones at every call and on every machine."""

import hashlib
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from PIL import Image, ImageOps
from torch import Tensor

from captioner.data.images import open_image

CROP_SCALE = (0.6, 1.0)
"""Smallest and largest share of the image's area that a crop keeps."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Narrowest and widest change of a crop's width to height against the image's."""


def make_view(image: Image.Image, *, image_id: str, view: int) -> Image.Image:
    """View 0 is the image, 1 its mirror image, from 2 on a crop that only image_id and view decide, mirrored or not.

    The crop is Inception's (Szegedy et al. 2015, section 6) with a larger least area, so that captions stay true.
    """
    if view == 0:
        return image
    if view == 1:
        return ImageOps.mirror(image)
    chance = random.Random(hashlib.sha256(f"{image_id}\n{view}".encode()).digest())
    area = chance.uniform(*CROP_SCALE)
    ratio = math.exp(chance.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
    width = max(1, round(image.width * min(1.0, math.sqrt(area * ratio))))
    height = max(1, round(image.height * min(1.0, math.sqrt(area / ratio))))
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    crop = image.crop((left, top, left + width, top + height))
    return ImageOps.mirror(crop) if chance.random() < 0.5 else crop


class ViewLoader:
    """Opens images, turns them into views and processes them, in as many threads as torch has.

    Pillow and NumPy release the interpreter's lock for about two thirds of the work, so threads do up to three times
    what one does: enough for an encoder on a CPU, and what a stream or a cache for a large GPU waits for.
    ``benchmarks.features`` measures it.
    """

    def __init__(self, process: Callable[[list[Image.Image]], Tensor], *, ahead: int) -> None:
        """Load batches.

        Args:
            process: RGB images -> pixels [images, 3, height, width].
            ahead: batches that are loaded while another one is used.
        """
        self._process, self._ahead = process, ahead
        self._threads = torch.get_num_threads()

    def load(
        self, read: Callable[[int], tuple[str, bytes]], batches: Sequence[range], *, views: int
    ) -> Iterator[Tensor]:
        """Yield for every batch of rows its pixels [images * views, 3, height, width], the views of an image together.

        Args:
            read: row -> image_id and encoded bytes.
            batches: rows of each batch.
            views: number of views of each image.

        Raises ImageError with the image_id of an image that cannot be read.
        """
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[list[Future[Tensor]]] = deque()
            coming = iter(batches)
            try:
                for _ in batches:
                    for rows in itertools.islice(coming, 1 + self._ahead - len(waiting)):
                        # Every thread takes a part of the batch, so that the first one is soon there.
                        sources = [read(row) for row in rows]
                        share = -(-len(sources) // self._threads)
                        parts = [sources[place : place + share] for place in range(0, len(sources), share)]
                        waiting.append([pool.submit(self._load_part, part, views) for part in parts])
                    loaded = [part.result() for part in waiting.popleft()]
                    yield torch.cat(loaded) if len(loaded) > 1 else loaded[0]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _load_part(self, sources: list[tuple[str, bytes]], views: int) -> Tensor:
        images = []
        for image_id, data in sources:
            image = open_image(data, name=image_id)
            images += [make_view(image, image_id=image_id, view=view) for view in range(views)]
        return self._process(images)
