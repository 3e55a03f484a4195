import json
import logging
import multiprocessing
import re
import time
from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image, ImageOps

from captioner import progress
from captioner.data import feature_shards, features
from captioner.data.features import FeatureCache, FeatureRecipe, build_features
from captioner.data.image_views import make_view
from captioner.errors import DISK_FULL, DataError, ImageError
from captioner.models.image_processors import ImageProcessor

RECIPE = FeatureRecipe(encoder="e" * 16, processor='{"size": 8}', dataset="d" * 16, views=3)
PATCHES, WIDTH = 4, 3


def encode(pixels):
    """The means over the four quarters of each image: [images, 4, 3]."""
    return torch.nn.functional.avg_pool2d(pixels, 4).flatten(2).transpose(1, 2)


def process(images):
    planes = [torch.frombuffer(bytearray(image.resize((8, 8)).tobytes()), dtype=torch.uint8) for image in images]
    return torch.stack(planes).view(-1, 8, 8, 3).permute(0, 3, 1, 2) / 255


def drawing(seed):
    noise = torch.randint(0, 256, (12, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(noise.numpy())


def make_split(seeds):
    rows = {"image_id": [f"{seed}.png" for seed in seeds], "image": [drawing(seed) for seed in seeds]}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


@pytest.fixture(scope="module")
def dataset():
    return datasets.DatasetDict(train=make_split(range(10)), validation=make_split(range(10, 13)))


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 4)


def build(dataset, folder, **changes):
    options = {"encode": encode, "process": process, "splits": ("train", "validation"), "batch_size": 6}
    return build_features(dataset, folder, **({"recipe": RECIPE} | options | changes))


def expected(dataset, split, row, view=0):
    image_id = dataset[split][row]["image_id"]
    image = make_view(dataset[split][row]["image"].convert("RGB"), image_id=image_id, view=view)
    return encode(process([image]))[0].half()


def shards(folder):
    return sorted((folder / RECIPE.fingerprint).glob("*.safetensors"))


def test_cache_equals_direct_encoding(dataset, tmp_path):
    cache = build(dataset, tmp_path)
    assert (cache.patches, cache.width, cache.views("train"), cache.views("validation")) == (PATCHES, WIDTH, 3, 1)
    for split in ("train", "validation"):
        rows = range(len(dataset[split]))
        for view in range(cache.views(split)):
            wanted = torch.stack([expected(dataset, split, row, view) for row in rows])
            assert torch.equal(cache.get(split, rows, [view] * len(rows)), wanted)


def test_rows_come_in_the_order_asked_for_with_their_views(dataset, tmp_path):
    cache = build(dataset, tmp_path)
    asked = [(9, 0), (0, 2), (5, 1), (5, 1), (3, 0)]
    wanted = torch.stack([expected(dataset, "train", row, view) for row, view in asked])
    got = cache.get("train", [row for row, _ in asked], [view for _, view in asked])
    assert got.dtype == torch.float16
    assert torch.equal(got, wanted)
    assert torch.equal(cache.get("train", [7]), expected(dataset, "train", 7)[None])


def test_reading_rows_leaves_the_cache_as_it_is(dataset, tmp_path):
    cache = build(dataset, tmp_path)
    before = cache.get("train", [2])
    cache.get("train", [2]).zero_()
    assert torch.equal(cache.get("train", [2]), before)


def resident_bytes(file):
    """Memory that a mapped file takes of this process."""
    mappings = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    mine = [mapping for mapping in mappings if mapping.partition("\n")[0].endswith(file.name)]
    assert mine
    return sum(1024 * int(re.search(r"Rss:\s+(\d+) kB", mapping)[1]) for mapping in mine)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux to ask")
def test_memory_of_what_was_read_is_given_back(dataset, tmp_path, monkeypatch):
    def wide(pixels):
        return encode(pixels).repeat(1, 64, 256)  # 768 places of 256 numbers: 393 kB an image

    cache = build(dataset, tmp_path, encode=wide, splits=["validation"])
    shard = shards(tmp_path)[0]
    first = cache.get("validation", [0, 1, 2])
    assert resident_bytes(shard) >= first.nbytes
    monkeypatch.setattr(features, "RELEASED_BYTES", first.nbytes)
    cache.get("validation", [0])
    assert resident_bytes(shard) == 0
    assert torch.equal(cache.get("validation", [0, 1, 2]), first)


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_batches_are_loaded_ahead_as_asked(dataset, tmp_path, ahead):
    processed, encoded = [], []
    batch, total = 2 * RECIPE.views, 10 * RECIPE.views  # images in their views

    def count(images):
        processed.extend(images)
        return process(images)

    def slow(pixels):
        encoded.extend(pixels)
        expected, patience = min(total, len(encoded) + ahead * batch), time.monotonic() + 10
        time.sleep(0.01)
        while len(processed) < expected and time.monotonic() < patience:
            time.sleep(0.001)
        assert len(processed) == expected
        return encode(pixels)

    cache = build(dataset, tmp_path / "ahead", encode=slow, process=count, ahead=ahead, splits=["train"])
    views = [row % 3 for row in range(10)]
    whole = build(dataset, tmp_path / "whole", splits=["train"])
    assert torch.equal(cache.get("train", range(10), views), whole.get("train", range(10), views))
    assert len(encoded) == total


def test_mirrored_view_is_the_mirrored_image_encoded(dataset, tmp_path):
    cache = build(dataset, tmp_path)
    mirrored = ImageOps.mirror(dataset["train"][6]["image"])
    assert torch.equal(cache.get("train", [6], [1])[0], encode(process([mirrored]))[0].half())


def test_views_are_deterministic_and_differ():
    image = drawing(0).resize((160, 120))
    crops = [make_view(image, image_id="a.jpg", view=view) for view in range(2, 6)]
    again = [make_view(image, image_id="a.jpg", view=view) for view in range(2, 6)]
    assert [crop.tobytes() for crop in crops] == [crop.tobytes() for crop in again]
    assert len({crop.tobytes() for crop in crops}) == 4
    assert make_view(image, image_id="b.jpg", view=2).tobytes() != crops[0].tobytes()


def test_crops_keep_most_of_the_image():
    image = Image.new("RGB", (160, 120))
    sizes = [make_view(image, image_id=str(number), view=2).size for number in range(200)]
    shares = [width * height / (160 * 120) for width, height in sizes]
    assert min(shares) > 0.59
    assert max(shares) <= 1.0
    assert make_view(Image.new("RGB", (1, 1)), image_id="dot", view=2).size == (1, 1)


def test_interrupted_build_continues_where_it_stopped(dataset, tmp_path):
    whole = build(dataset, tmp_path / "whole")
    calls = []

    def interrupted(pixels):
        calls.append(len(pixels))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return encode(pixels)

    with pytest.raises(KeyboardInterrupt):
        build(dataset, tmp_path, encode=interrupted)
    finished = {path: path.stat().st_mtime_ns for path in shards(tmp_path)}
    assert len(finished) == 2
    with pytest.raises(DataError, match=r"no finished features.*build them"):
        FeatureCache.open(tmp_path, RECIPE)

    images = []
    resumed = build(dataset, tmp_path, encode=lambda pixels: images.append(len(pixels)) or encode(pixels))
    assert sum(images) == 2 * 3 + 3  # two train images in three views, and the validation images
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    for view in range(3):
        assert torch.equal(resumed.get("train", range(10), [view] * 10), whole.get("train", range(10), [view] * 10))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # on a single core
def test_build_interrupted_while_processes_decode_continues(dataset, tmp_path):
    processor, calls = ImageProcessor.plain(8), []
    whole = build(dataset, tmp_path / "whole", process=processor)

    def interrupted(pixels):
        calls.append(len(pixels))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(pixels)

    with pytest.raises(KeyboardInterrupt):
        build(dataset, tmp_path, process=processor, encode=interrupted, workers=2)
    assert not multiprocessing.active_children()
    assert len(shards(tmp_path)) == 1
    resumed = build(dataset, tmp_path, process=processor, workers=2)
    for view in range(3):
        assert torch.equal(resumed.get("train", range(10), [view] * 10), whole.get("train", range(10), [view] * 10))
    assert torch.equal(resumed.get("validation", range(3)), whole.get("validation", range(3)))


def test_finished_cache_is_not_built_again(dataset, tmp_path):
    build(dataset, tmp_path, splits=["validation"])

    def fail(pixels):
        raise AssertionError("encoded again")

    assert build(dataset, tmp_path, splits=["validation"], encode=fail).splits == ["validation"]


def test_splits_are_added_to_a_cache(dataset, tmp_path):
    cache = build(dataset, tmp_path, splits=["validation"])
    with pytest.raises(DataError, match="no features of the split train, only of validation; build them"):
        cache.get("train", [0])
    assert build(dataset, tmp_path, splits=["train"]).splits == ["validation", "train"]


def test_build_interrupted_after_its_last_shard_needs_no_encoder(dataset, tmp_path):
    build(dataset, tmp_path)
    (tmp_path / RECIPE.fingerprint / "index.json").unlink()
    cache = build(dataset, tmp_path, encode=lambda pixels: pytest.fail("encoded again"))
    assert torch.equal(cache.get("train", [9]), expected(dataset, "train", 9)[None])


@pytest.mark.parametrize("field", ["encoder", "processor", "dataset", "dtype", "views"])
def test_fingerprint_covers_every_field(field):
    value = {"views": 2, "dtype": "float32"}.get(field, "other")
    other = FeatureRecipe(**{**RECIPE.__dict__, field: value})
    assert other.fingerprint != RECIPE.fingerprint
    assert FeatureRecipe(**RECIPE.__dict__).fingerprint == RECIPE.fingerprint


def test_missing_cache_is_an_error(tmp_path):
    with pytest.raises(DataError, match=f"{RECIPE.fingerprint}: no finished features.*build"):
        FeatureCache.open(tmp_path, RECIPE)


def test_cache_of_another_recipe_is_an_error(dataset, tmp_path):
    build(dataset, tmp_path)
    other = FeatureRecipe(**{**RECIPE.__dict__, "encoder": "f" * 16})
    (tmp_path / RECIPE.fingerprint).rename(tmp_path / other.fingerprint)
    with pytest.raises(DataError, match="made with another encoder than asked for; delete the folder"):
        FeatureCache.open(tmp_path, other)


def test_torn_shard_is_an_error(dataset, tmp_path):
    build(dataset, tmp_path)
    shard = shards(tmp_path)[1]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"train-00001.safetensors: missing or torn.*delete the folder"):
        FeatureCache.open(tmp_path, RECIPE)
    shard.unlink()
    with pytest.raises(DataError, match=r"train-00001.safetensors: missing or torn.*delete the folder"):
        FeatureCache.open(tmp_path, RECIPE)


def test_shard_in_the_wrong_place_is_an_error(dataset, tmp_path):
    build(dataset, tmp_path)
    folder = tmp_path / RECIPE.fingerprint
    (folder / "train-00000.safetensors").write_bytes((folder / "validation-00000.safetensors").read_bytes())
    with pytest.raises(DataError, match=r"train-00000.safetensors: holds \[1, 3, 4, 3\].*not \[3, 4\]"):
        FeatureCache.open(tmp_path, RECIPE)


@pytest.mark.parametrize("text", ["{", "[]", '{"splits": {}}'])
def test_torn_index_is_an_error(dataset, tmp_path, text):
    build(dataset, tmp_path, splits=["validation"])
    (tmp_path / RECIPE.fingerprint / "index.json").write_text(text)
    with pytest.raises(DataError, match=r"index.json: torn.*delete the folder"):
        build(dataset, tmp_path)


def test_full_disk_is_noticed_before_the_first_shard(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_shards.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 100}))
    needed = 10 * 3 * PATCHES * WIDTH * 2
    with pytest.raises(DataError, match=f"{RECIPE.fingerprint}: no space left.*{needed:,} bytes"):
        build(dataset, tmp_path)
    assert shards(tmp_path) == []


@pytest.mark.parametrize("number", DISK_FULL)
def test_disk_that_fills_up_leaves_no_torn_shard(number, dataset, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(number, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(feature_shards.os, "fsync", full)
        with pytest.raises(DataError, match=r"no space left on this disk.*run again"):
            build(dataset, tmp_path)
    assert list((tmp_path / RECIPE.fingerprint).iterdir()) == []
    assert build(dataset, tmp_path).splits == ["train", "validation"]


def test_unreadable_image_is_named(tmp_path):
    rows = {"image_id": ["good.png", "bad.png"], "image": [{"bytes": b"text", "path": None}] * 2}
    split = datasets.Dataset.from_dict(
        rows, features=datasets.Features(image_id=datasets.Value("string"), image=datasets.Image())
    )
    with pytest.raises(ImageError, match=r"good.png"):
        build(datasets.DatasetDict(train=split), tmp_path, splits=["train"])


def test_features_beyond_the_number_type_are_an_error(dataset, tmp_path):
    def huge(pixels):
        tokens = encode(pixels)
        tokens[-1] = 1e6
        return tokens

    with pytest.raises(DataError, match=r"12.png: its features are not finite in float16; store them as"):
        build(dataset, tmp_path, splits=["validation"], encode=huge)
    wide = FeatureRecipe(**{**RECIPE.__dict__, "dtype": "float32"})
    cache = build(dataset, tmp_path, splits=["validation"], encode=huge, recipe=wide)
    assert cache.get("validation", [2]).max() == 1e6


def test_progress_is_logged_with_speed_and_time_left(dataset, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO, logger="captioner"):
        build(dataset, tmp_path)
    first, last = caplog.messages[0], caplog.messages[-1]
    assert first.startswith("image features: 15 % (2 of 13 images), ")
    assert last.startswith("image features: 100 % (13 of 13 images), ")
    assert last.endswith(" images/s, 0:00 left")


def test_index_records_the_recipe(dataset, tmp_path):
    build(dataset, tmp_path)
    index = json.loads(Path(tmp_path, RECIPE.fingerprint, "index.json").read_text())
    assert index["recipe"] == RECIPE.__dict__
    assert index["splits"]["train"] == {"rows": 10, "views": 3, "shard_rows": 4}
