import io
import multiprocessing
import os
import signal

import pytest
import torch
from PIL import Image
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from captioner.build import ENCODED_IMAGES, loading_options
from captioner.data import view_loading
from captioner.data.image_views import make_view
from captioner.data.images import open_image
from captioner.data.view_loading import ViewLoader, count_workers
from captioner.errors import DataError, ImageError
from captioner.models.image_processors import ImageProcessor
from captioner.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # on a single core
BATCHES = [range(0, 3), range(3, 6), range(6, 9), range(9, 10)]


def encoded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def photos():
    noise = torch.randint(0, 256, (10, 24, 30, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return [encoded(Image.fromarray(photo.numpy())) for photo in noise]


@pytest.fixture(scope="module")
def names():
    return [f"{number}.png" for number in range(10)]


@pytest.fixture(scope="module")
def processor():
    return ImageProcessor.plain(16)


@pytest.mark.parametrize("views", [1, 3])
def test_processes_give_the_pixels_of_threads(names, photos, processor, views):
    naive = []
    for rows in BATCHES:
        images = [(names[row], open_image(photos[row])) for row in rows]
        opened = [make_view(image, image_id=name, view=view) for name, image in images for view in range(views)]
        naive.append(processor(opened))
    before = torch.random.get_rng_state()
    in_processes = list(ViewLoader(processor, workers=2).load(names, photos, BATCHES, views=views))
    assert torch.equal(torch.random.get_rng_state(), before)
    in_threads = list(ViewLoader(processor, ahead=2).load(names, photos, BATCHES, views=views))
    for loaded in (in_processes, in_threads):
        assert [batch.shape[0] for batch in loaded] == [3 * views, 3 * views, 3 * views, views]
        assert all(map(torch.equal, loaded, naive))
    assert all(batch.is_shared() or batch.is_pinned() for batch in in_processes)
    assert not any(batch.is_shared() for batch in in_threads)
    assert not multiprocessing.active_children()


def test_no_process_is_started_for_no_images(names, photos, processor, monkeypatch):
    monkeypatch.setattr(view_loading, "_load_in_processes", lambda *_, **__: pytest.fail("started"))
    assert list(ViewLoader(processor, workers=2).load(names, photos, [], views=1)) == []


def test_unreadable_image_is_named_as_by_threads(names, photos, processor):
    photos = [*photos[:5], photos[5][:-30], *photos[6:]]
    messages = []
    for workers in (0, 2):
        with pytest.raises(ImageError, match=r"^5\.png: cannot be decoded") as caught:
            list(ViewLoader(processor, workers=workers).load(names, photos, BATCHES, views=1))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert not multiprocessing.active_children()  # though the traceback is still there


def test_killed_process_is_told_in_one_line(names, photos, processor, monkeypatch):
    # How long torch waits for a batch before it looks whether all processes are there.
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    loaded = ViewLoader(processor, workers=2).load(names, photos, [range(10)] * 40, views=1)
    next(loaded)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(DataError, match=r"^a process that decodes images was killed, .* run again[^\n]*$"):
        list(loaded)
    assert not multiprocessing.active_children()


def test_full_shared_memory_is_told_in_one_line(names, photos, processor, monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    error = view_loading._Views(names, photos, processor, 1)[range(2)]
    assert isinstance(error, DataError)
    assert str(error).startswith("no room for 6,144 bytes of pixels in shared memory (unable to allocate")


def test_interrupt_is_left_to_the_main_process_which_ends_the_others(names, photos, processor):
    batches = [range(10)] * 40
    loaded = ViewLoader(processor, workers=2).load(names, photos, batches, views=1)
    first, second = next(loaded), next(loaded)  # one of each process
    assert torch.equal(first, second)
    workers = multiprocessing.active_children()
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    assert all(torch.equal(next(loaded), first) for _ in range(10))
    assert [worker.is_alive() for worker in workers] == [True, True]
    loaded.close()
    assert [worker.exitcode for worker in workers] == [0, 0]


@pytest.mark.parametrize(
    ("cores", "free", "expected"), [(4, 10**9, 4), (1, 10**9, 0), (4, 9_000, 3), (4, 3_000, 0), (100, 10**9, 32)]
)
def test_workers_are_as_many_as_cores_and_shared_memory_allow(cores, free, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(view_loading, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(view_loading.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": free}))
    assert count_workers(1_000) == expected


def test_a_gpu_is_loaded_for_by_processes(processor, monkeypatch):
    sizes = []
    monkeypatch.setattr("captioner.build.count_workers", lambda size: sizes.append(size) or 7)
    assert loading_options(Settings(), processor) == {"batch_size": ENCODED_IMAGES, "ahead": 0, "workers": 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loading_options(Settings(), processor) == {"batch_size": ENCODED_IMAGES, "ahead": 2, "workers": 7}
    assert sizes == [ENCODED_IMAGES * 3 * 16 * 16 * 4]
