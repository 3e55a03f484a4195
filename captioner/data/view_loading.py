"""Views of images as pixels, made ahead of their use: in threads, or in processes where a GPU waits for them."""

import itertools
import multiprocessing
import os
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captioner.data.image_views import make_view
from captioner.data.images import open_image
from captioner.errors import DataError

SHARED_MEMORY = Path("/dev/shm")
BATCHES_OF_A_WORKER = 2
"""Batches that a worker process makes or has made while others are used."""
MOST_WORKERS = 32
"""More would open over ten thousand images a second, and take memory."""


@dataclass(frozen=True)
class _Views(Dataset[Tensor | Exception]):
    """Opens images, turns them into views and processes them; what worker processes are sent."""

    names: Sequence[str]
    images: Sequence[bytes]
    process: Callable[[list[Image.Image]], Tensor]
    views: int

    def load(self, rows: Sequence[int]) -> Tensor:
        """Pixels [rows * views, 3, height, width]."""
        return self.open([(self.names[row], self.images[row]) for row in rows])

    def open(self, sources: Sequence[tuple[str, bytes]]) -> Tensor:
        """The same of names and encoded bytes."""
        images = []
        for image_id, data in sources:
            image = open_image(data, name=image_id)
            images += [make_view(image, image_id=image_id, view=view) for view in range(self.views)]
        return self.process(images)

    def __getitem__(self, rows: range) -> Tensor | Exception:
        """In a worker: the pixels in shared memory, or the error, which torch would raise with a traceback in it."""
        try:
            pixels = self.load(rows)
        except (DataError, OSError) as error:
            return error
        try:
            return pixels.share_memory_()  # in the queue's own thread a failure would never be heard of
        except RuntimeError as error:
            return DataError(
                f"no room for {pixels.nbytes:,} bytes of pixels in shared memory ({error}); "
                f"enlarge {SHARED_MEMORY} (docker run --shm-size=8g)"
            )


class ViewLoader:
    """Opens images, turns them into views and processes them, in as many threads as torch has or in processes.

    Pillow and NumPy release the interpreter's lock for 65 to 75 % of the work, so threads do up to three times what one
    does. Beside an encoder on the CPU that is enough: it takes the cores itself, and processes would only share them
    with it, and copy the pixels once more (a cache by MobileNetV2 on one core was built at 92 % of the encoder's own
    speed by a thread, at 75 % by a process). A large GPU waits for more than that; there each core has a process.
    ``benchmarks.features`` measures both.
    """

    def __init__(self, process: Callable[[list[Image.Image]], Tensor], *, ahead: int = 0, workers: int = 0) -> None:
        """Load batches.

        Args:
            process: RGB images -> pixels [images, 3, height, width]; worker processes need one that can be pickled.
            ahead: batches that threads load while another one is used; processes are always ahead.
            workers: processes; 0: threads.
        """
        self._process, self._ahead, self._workers = process, ahead, workers
        self._threads = torch.get_num_threads()

    def load(
        self, names: Sequence[str], images: Sequence[bytes], batches: Sequence[range], *, views: int
    ) -> Iterator[Tensor]:
        """Yield for every batch of rows its pixels [images * views, 3, height, width], the views of an image together.

        Close the iterator where it is not used up: its processes end with it.

        Args:
            names: image_id by row.
            images: encoded bytes by row; worker processes are sent what it is, not what it holds.
            batches: rows of each batch.
            views: number of views of each image.

        Raises ImageError with the image_id of an image that cannot be read; DataError where a worker process ended.
        """
        source = _Views(names, images, self._process, views)
        if self._workers and batches:
            return _load_in_processes(source, batches, workers=min(self._workers, len(batches)))
        return self._load_in_threads(source, batches)

    def _load_in_threads(self, source: _Views, batches: Sequence[range]) -> Iterator[Tensor]:
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[list[Future[Tensor]]] = deque()
            coming = iter(batches)
            try:
                for _ in batches:
                    for rows in itertools.islice(coming, 1 + self._ahead - len(waiting)):
                        # Every thread takes a part of the batch, so that the first one is soon there.
                        read = [(source.names[row], source.images[row]) for row in rows]
                        share = -(-len(read) // self._threads)
                        parts = [read[place : place + share] for place in range(0, len(read), share)]
                        waiting.append([pool.submit(source.open, part) for part in parts])
                    loaded = [part.result() for part in waiting.popleft()]
                    yield torch.cat(loaded) if len(loaded) > 1 else loaded[0]
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def count_workers(batch_bytes: int) -> int:
    """Worker processes to load with: one for each core that this process may use; 0 where threads do as well.

    Args:
        batch_bytes: size of a batch's pixels; as many processes as shared memory has room for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, MOST_WORKERS)
    if SHARED_MEMORY.exists():
        workers = min(workers, shutil.disk_usage(SHARED_MEMORY).free // ((BATCHES_OF_A_WORKER + 1) * batch_bytes))
    return workers if workers > 1 else 0


def _load_in_processes(source: _Views, batches: Sequence[range], *, workers: int) -> Iterator[Tensor]:
    loader = DataLoader(
        source,
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        prefetch_factor=BATCHES_OF_A_WORKER,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_depend_on_parent,
        multiprocessing_context=_start_method(source),
        generator=torch.Generator(),  # torch's own would draw from the numbers that training draws from
    )
    coming = iter(loader)
    try:
        for _ in batches:
            loaded = _next(coming)
            if isinstance(loaded, Exception):
                raise loaded
            yield loaded
    finally:
        del coming  # ends the processes


def _next(coming: Iterator[Tensor | Exception]) -> Tensor | Exception:
    """The next batch, or why there is none; an error that is raised would keep the processes with its traceback."""
    try:
        return next(coming)
    except (RuntimeError, OSError, EOFError) as error:
        # Whatever is read from a process that ends fails in its own way.
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker (pid"):
            raise
        return DataError(
            "a process that decodes images was killed, most likely for want of memory or shared memory; "
            f"free some, enlarge {SHARED_MEMORY} (docker run --shm-size=8g), and run again: finished shards stay"
        )


def _depend_on_parent(worker: int) -> None:
    """Leave Ctrl-C to the process that started this one, and end with it, also where it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()


def _follow(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _start_method(source: _Views) -> multiprocessing.context.BaseContext:
    """Processes that inherit nothing of this one, whose threads and GPU a plain fork would leave broken in them.

    A server without either imports once what they need, and forks them.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["__main__", __name__, type(source.images).__module__, type(source.process).__module__]
    )
    return context
