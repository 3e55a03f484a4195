import json

import pytest
import torch

from benchmarks import large_cache
from benchmarks.features import main
from benchmarks.training_work import open_work, prepare_work
from captioner.build import open_features
from captioner.resources import TRAIN


def test_speed_and_memory_are_told(tmp_path, capsys):
    output = tmp_path / "figures.json"
    before = torch.get_num_threads()
    words = [
        "--workers",
        "0",
        "1",
        "--tiny",
        "--images",
        "6",
        "--rounds",
        "2",
        "--open-threads",
        "1",
        "2",
        "--memory-images",
        "40",
    ]
    assert main([*words, "--batch-images", "2", "--output", str(output)]) == 0
    content = json.loads(output.read_text())
    speed, memory = content["speed"], content["memory"]
    assert [build["workers"] for build in speed["builds"]] == [0, 1]
    for build in speed["builds"]:
        assert build["share_of_forward"] == pytest.approx(
            build["images_per_second"] / speed["forward_images_per_second"]
        )
    opening = speed["opening"]
    assert [row["threads"] for row in opening] == [1, 2]
    assert all(row["images_per_second"] > 0 for row in opening)
    assert opening[1]["times_first"] == pytest.approx(opening[1]["images_per_second"] / opening[0]["images_per_second"])
    assert torch.get_num_threads() == before
    assert memory["feature_bytes"] == 40 * 5 * 16 * 2  # 4 patches and the class token, 16 wide, two bytes each
    assert memory["peak_resident_bytes"] > 2**20
    printed = capsys.readouterr().out
    assert "an epoch over 40 images" in printed
    assert "building the cache, threads " in printed
    assert "building the cache, 1 worker process " in printed


def test_the_large_cache_is_one_that_the_project_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(large_cache, "SHARD_ROWS", 16)
    work = prepare_work(tmp_path, data=None, images=3, batch_images=2, precision="fp32", device="cpu", tiny=True)
    resources = large_cache.repeat_images(open_work(work), 40)
    large_cache.write_empty_cache(work.settings, resources)
    cache = open_features(work.settings, resources, (TRAIN,))  # there are no pixels: it would fail if it had to encode
    assert cache.get(TRAIN, [39, 0]).shape == (2, 5, 16)
    assert not cache.get(TRAIN, [39, 0]).any()
