import json
import tarfile
from dataclasses import fields, replace

import pytest
import torch
from tiny_shards import KINDS, add_sample, draw_png, make_captions, write_shards

from captioner.data.batches import IGNORED
from captioner.data.shards import find_shards
from captioner.data.streaming import StreamBatches
from captioner.data.tokenizer import CaptionTokenizer
from captioner.errors import DataError
from captioner.settings import TokenizerSettings

SIZES = [9, 8, 10, 7]  # 34 samples


@pytest.fixture(scope="module")
def tokenizer():
    captions = [caption for number in range(9) for caption in make_captions(number)]
    return CaptionTokenizer.train(captions, TokenizerSettings(vocabulary_size=300))


@pytest.fixture(scope="module", params=KINDS)
def shards(request, tmp_path_factory):
    return find_shards(write_shards(tmp_path_factory.mktemp("shards"), request.param, SIZES))


def read_colours(images):
    """What tells these pictures apart [images, 3]."""
    return torch.tensor([image.getpixel((0, 0)) for image in images])


def make_batches(shards, tokenizer, **changes):
    options = {"max_length": 32, "batch_images": 4, "shuffle_buffer": 12, **changes}
    return StreamBatches(shards, tokenizer, read_colours, **options)


def same(first, second):
    values = [(getattr(first, item.name), getattr(second, item.name)) for item in fields(first)]
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in values)


def names_of(batches):
    return [batch.rows for batch in batches]


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_an_epoch_has_every_sample_once_and_as_many_steps_for_all(shards, tokenizer, processes):
    shares = []
    for rank in range(processes):
        batches = make_batches(shards, tokenizer, rank=rank, processes=processes)
        shares.append(list(batches.batches(1)))
        assert len(shares[-1]) == len(batches)
    names = [name for share in shares for batch in share for name in batch.rows]
    assert sorted(names, key=int) == [str(number) for number in range(sum(SIZES))]
    for batch in (batch for share in shares for batch in share):
        assert batch.pairs == 2 * len(batch.rows)
        assert len(batch.rows) <= -(-4 // processes)
        if batch.rows:
            expected = [[int(name) * 7 % 256, int(name) * 31 % 256, 90] for name in batch.rows]
            assert batch.images.tolist() == expected


def test_a_process_that_has_no_more_gets_batches_without_captions(tokenizer, tmp_path):
    shards = find_shards(write_shards(tmp_path, "tar", [8, 2]))
    last = list(make_batches(shards, tokenizer, rank=1, processes=2).batches(0))[1:]
    assert [(batch.rows, batch.pairs) for batch in last] == [((), 0)] * 3
    assert set(torch.cat([batch.targets.flatten() for batch in last]).tolist()) == {IGNORED}


@pytest.mark.parametrize(("counted", "rows"), [(2, 8), (9, 12)])
def test_an_epoch_is_as_long_as_was_counted(tokenizer, tmp_path, counted, rows):
    found = find_shards(write_shards(tmp_path, "tar", [12]))
    batches = make_batches(replace(found, counts=(4 * counted,)), tokenizer)
    read = list(batches.batches(0))
    assert len(read) == len(batches) == counted
    assert sum(len(batch.rows) for batch in read) == rows


def test_epochs_differ_and_come_back(shards, tokenizer):
    batches = make_batches(shards, tokenizer)
    first, second = names_of(batches.batches(0)), names_of(batches.batches(1))
    assert first != second
    assert names_of(make_batches(shards, tokenizer).batches(0)) == first
    assert names_of(make_batches(shards, tokenizer, seed=1).batches(0)) != first


def test_samples_are_shuffled_within_the_window_only(tokenizer, tmp_path):
    shards = find_shards(write_shards(tmp_path, "tar", [36]))
    numbers = [int(name) for rows in names_of(make_batches(shards, tokenizer).batches(0)) for name in rows]
    assert numbers != sorted(numbers)
    assert [{*numbers[first : first + 12]} == {*range(first, first + 12)} for first in (0, 12, 24)] == [True] * 3


@pytest.mark.parametrize("processes", [1, 3])
def test_an_epoch_goes_on_exactly_from_any_batch(shards, tokenizer, processes):
    options = {"rank": processes - 1, "processes": processes, "views": 3, "captions_per_row": 1}
    whole = list(make_batches(shards, tokenizer, **options).batches(2))
    for start in range(len(whole) + 1):
        stopped = make_batches(shards, tokenizer, **options)
        running = stopped.batches(2)
        for _ in range(start):
            next(running)
        place = json.loads(json.dumps(stopped.place()))
        running.close()
        for with_place in (True, False)[: 2 if start == 4 else 1]:  # a place saves reading, and changes nothing
            resumed = make_batches(shards, tokenizer, **options)
            resumed.go_to(place if with_place else {})
            rest = list(resumed.batches(2, start=start))
            assert len(rest) == len(whole) - start
            assert all(same(one, other) for one, other in zip(rest, whole[start:], strict=True))


def test_a_place_spares_reading_what_was_used(shards, tokenizer, monkeypatch):
    stopped = make_batches(shards, tokenizer)
    running = stopped.batches(0)
    for _ in range(9):  # two more than are used
        next(running)
    place = stopped.place()
    running.close()
    assert place["window"] == 2
    read = []
    resumed = make_batches(shards, tokenizer)
    resumed.go_to(place)
    original = resumed._row
    monkeypatch.setattr(resumed, "_row", lambda sample, chance: read.append(sample) or original(sample, chance))
    next(resumed.batches(0, start=7))
    assert len(read) == 34 - 24


def test_other_shards_are_refused_within_an_epoch(shards, tokenizer, tmp_path):
    batches = make_batches(shards, tokenizer)
    next(batches.batches(0))
    other = make_batches(find_shards(write_shards(tmp_path, "tar", [9, 9])), tokenizer)
    with pytest.raises(DataError, match="the shards are not those that the run was stopped in"):
        other.go_to(batches.place())


def test_images_and_captions_that_cannot_be_used_are_left_out_and_named(tokenizer, tmp_path, caplog):
    with tarfile.open(tmp_path / "one.tar", "w") as archive:
        for number in range(8):
            image = b"no image" if number == 2 else draw_png(number)
            add_sample(archive, f"{number}", image, {"captions": [] if number == 5 else ["a wall"]})
    batches = make_batches(find_shards(str(tmp_path)), tokenizer, shuffle_buffer=4)
    found = list(batches.batches(0))
    assert len(found) == len(batches) == 2
    assert [len(batch.rows) for batch in found] == [3, 3]
    assert "5: left out, it has no caption" in caplog.text
    assert "left out: 2: is not an image in a known format" in caplog.text


def test_batches_of_like_length_save_padding(tokenizer, tmp_path):
    shards = find_shards(write_shards(tmp_path, "parquet", [60, 60]))
    bucketed = make_batches(shards, tokenizer, shuffle_buffer=120).padding_share(0)
    assert (
        0 <= bucketed < make_batches(shards, tokenizer, shuffle_buffer=120, length_buckets=False).padding_share(0) / 2
    )


def test_a_frozen_encoder_sees_whole_batches(shards, tokenizer):
    sizes = []
    batches = make_batches(shards, tokenizer, encode=lambda pixels: sizes.append(len(pixels)) or pixels[:, None] + 1)
    batch = next(batches.batches(0))
    assert sizes[0] == len(batch.rows) == 4
    assert batch.images[0, 0].tolist() == [int(batch.rows[0]) * 7 % 256 + 1, int(batch.rows[0]) * 31 % 256 + 1, 91]


def test_too_many_processes_are_refused(tokenizer, tmp_path):
    shards = find_shards(write_shards(tmp_path, "tar", [3]))
    with pytest.raises(DataError, match=r"leave some of 5 processes without any; raise --trainer\.batch-images"):
        make_batches(shards, tokenizer, processes=5)


def test_what_there_is_is_described(tokenizer, tmp_path):
    shards = find_shards(write_shards(tmp_path, "parquet", [3, 4]))
    assert make_batches(shards, tokenizer).describe() == "7 images in 2 parquet shards"
