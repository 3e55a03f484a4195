import random
import threading
from collections import Counter
from dataclasses import fields

import pytest
import torch

from captioner.data.batches import IGNORED, PADDING_SEGMENT, CaptionBatches, pack_captions
from captioner.presets import PRESETS

START, END = 1, 2


def make_captions(images, *, seed=0):
    """Five captions an image, their lengths spread as those of Flickr8k: 11.4 tokens on average."""
    numbers = random.Random(seed)
    return [
        [[3 + image % 50] * min(max(round(numbers.gauss(11.4, 3.8)), 2), 36) for _ in range(5)]
        for image in range(images)
    ]


def make_batches(images=50, *, captions=None, load=None, **changes):
    def load_rows(rows, views):
        return torch.tensor([[row, view] for row, view in zip(rows, views, strict=True)])

    options = {"start": START, "end": END, "max_length": 48, "batch_images": 8, **changes}
    return CaptionBatches(captions or make_captions(images), load or load_rows, **options)


def same(first, second):
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in ((getattr(first, item.name), getattr(second, item.name)) for item in fields(first))
    )


def rows_of(batches):
    return [batch.rows for batch in batches]


def test_captions_are_packed_behind_each_other():
    tokens, positions, segments, targets = pack_captions([[[5, 6], [7]], [[8]]], start=START, end=END, max_length=10)
    pad, none = PADDING_SEGMENT, IGNORED
    assert tokens[0].tolist() == [START, 5, 6, START, 7]
    assert tokens[1, :2].tolist() == [START, 8]
    assert targets.tolist() == [[5, 6, END, 7, END], [8, END, none, none, none]]
    assert positions[0].tolist() == [0, 1, 2, 0, 1]
    assert positions[1, :2].tolist() == [0, 1]
    assert segments.tolist() == [[0, 0, 0, 1, 1], [0, 0, pad, pad, pad]]


@pytest.mark.parametrize(
    ("length", "inputs", "outputs"),
    [
        (3, [START, 5, 6, 7], [5, 6, 7, END]),
        (4, [START, 5, 6, 7], [5, 6, 7, 8]),
        (9, [START, 5, 6, 7], [5, 6, 7, 8]),
        (0, [START], [END]),
    ],
)
def test_a_caption_that_is_too_long_is_cut_and_teaches_no_end(length, inputs, outputs):
    caption = list(range(5, 5 + length))
    tokens, positions, _, targets = pack_captions([[caption]], start=START, end=END, max_length=4)
    assert tokens.tolist() == [inputs]
    assert targets.tolist() == [outputs]
    assert positions.tolist() == [[*range(len(inputs))]]


def test_a_batch_holds_every_pair_of_its_images():
    batches = make_batches(20)
    for batch in batches.batches(0):
        assert batch.pairs == 5 * len(batch.rows)
        assert batch.images[:, 0].tolist() == list(batch.rows)
        for place, row in enumerate(batch.rows):
            assert Counter(batch.targets[place].tolist())[END] == 5
            assert (batch.tokens[place] == batches.captions[row][0][0]).sum() == sum(map(len, batches.captions[row]))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("images", [1, 7, 8, 50])
def test_an_epoch_has_every_image_once(images, shuffle):
    batches = make_batches(images, shuffle=shuffle)
    rows = rows_of(batches.batches(3))
    assert sorted(row for batch in rows for row in batch) == [*range(images)]
    assert len(rows) == len(batches)
    assert shuffle or [row for batch in rows for row in batch] == [*range(images)]


def test_the_same_seed_and_epoch_give_the_same_batches():
    first, again = (make_batches(seed=5, views=3) for _ in range(2))
    pairs = list(zip(first.batches(2), again.batches(2), strict=True))
    assert all(same(one, other) for one, other in pairs)
    assert rows_of(first.batches(2)) != rows_of(first.batches(3))
    assert rows_of(first.batches(2)) != rows_of(make_batches(seed=6).batches(2))


def test_an_epoch_goes_on_from_any_batch():
    batches = make_batches(views=3)
    whole = list(batches.batches(1))
    for start in range(len(whole) + 1):
        rest = list(batches.batches(1, start=start))
        assert len(rest) == len(whole) - start
        assert all(same(one, other) for one, other in zip(rest, whole[start:], strict=True))


def test_views_are_drawn_anew_each_epoch_and_evenly():
    batches = make_batches(300, views=3)
    epochs = [dict(row for batch in batches.batches(epoch) for row in batch.images.tolist()) for epoch in range(3)]
    assert all(min(Counter(views.values()).values()) > 70 for views in epochs)
    assert all(sum(first[row] != second[row] for row in first) > 150 for first, second in [epochs[:2], epochs[1:]])
    assert {view for batch in make_batches().batches(0) for view in batch.images[:, 1].tolist()} == {0}


@pytest.mark.parametrize(("images", "size"), [(6000, 32), (2000, 64)])
def test_padding_is_under_five_percent_on_lengths_like_flickr8ks(images, size):
    batches = make_batches(images, batch_images=size)
    assert 0 < batches.padding_share(0) < 0.05
    assert batches.padding_share(0) < make_batches(images, batch_images=size, shuffle=False).padding_share(0) / 2


def test_padding_is_under_five_percent_on_lengths_like_flickr30ks():
    """13 tokens on average, with a long tail on the right, in the batches of the preset flickr30k-clip."""
    numbers = random.Random(0)
    captions = [
        [[3] * min(max(round(numbers.lognormvariate(2.48, 0.42)), 2), 80) for _ in range(5)] for _ in range(6000)
    ]
    lengths = [len(caption) for image in captions for caption in image]
    assert 12.5 < sum(lengths) / len(lengths) < 13.5
    trainer, decoder = PRESETS["flickr30k-clip"].trainer, PRESETS["flickr30k-clip"].decoder
    batches = make_batches(
        captions=captions,
        batch_images=trainer.batch_images,
        length_buckets=trainer.length_buckets,
        captions_per_row=trainer.captions_per_row,
        max_length=decoder.max_length,
    )
    assert 0 < batches.padding_share(0) < 0.05


def test_the_padding_share_is_that_of_the_batches():
    batches = make_batches(100)
    targets = torch.cat([batch.targets.flatten() for batch in batches.batches(1)])
    assert batches.padding_share(1) == pytest.approx((targets == IGNORED).float().mean().item())


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch_out(processes):
    whole = rows_of(make_batches(51).batches(4))
    shares = [rows_of(make_batches(51, rank=rank, processes=processes).batches(4)) for rank in range(processes)]
    for step, rows in enumerate(whole):
        parts = [share[step] for share in shares]
        assert sum(map(len, parts)) == len(rows)
        assert {row for part in parts for row in part} == set(rows)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_process_that_the_last_images_do_not_reach_gets_a_batch_without_captions():
    """Or the others would wait for it for ever."""
    shares = [list(make_batches(9, rank=rank, processes=4, shuffle=False).batches(0)) for rank in range(4)]
    first, *others = [share[-1] for share in shares]
    assert (first.rows, first.pairs) == ((8,), 5)
    for batch in others:
        assert (batch.rows, batch.pairs, len(batch.images)) == ((), 0, 1)
        assert set(batch.targets.flatten().tolist()) == {IGNORED}


def captions_of(batch):
    """The captions of a batch by its rows, as (row of the dataset, token ids)."""
    for place, row in enumerate(batch.rows):
        segments, targets = batch.segments[place], batch.targets[place]
        for segment in range(int(segments.max()) + 1):
            yield row, tuple(targets[segments == segment].tolist()[:-1])


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("group", "rows"), [(1, 5), (2, 3), (5, 1), (9, 1), (0, 1)])
def test_an_image_comes_again_until_all_its_captions_had_their_turn(group, rows, shuffle):
    captions = [[[10 * image + number] for number in range(5)] for image in range(1, 20)]
    batches = make_batches(captions=captions, captions_per_row=group, shuffle=shuffle)
    found = list(batches.batches(0))
    assert len(found) == len(batches)
    assert Counter(row for batch in found for row in batch.rows) == dict.fromkeys(range(19), rows)
    pairs = [pair for batch in found for pair in captions_of(batch)]
    expected = [(row, tuple(caption)) for row, image in enumerate(captions) for caption in image]
    assert (sorted(pairs) if shuffle else pairs) == expected
    assert sum(batch.pairs for batch in found) == 19 * 5


def test_which_captions_share_a_row_is_drawn_anew_each_epoch():
    def groups(epoch):
        return {(image, frozenset(numbers)) for batch in batches.plan(epoch) for image, numbers in batch}

    batches = make_batches(captions_per_row=2)
    assert groups(0) == groups(0)
    assert len(groups(0) & groups(1)) < len(groups(0)) / 2


def test_the_next_batches_are_loaded_while_one_is_used():
    loaded, names = [], set()

    def load(rows, views):
        loaded.append(rows)
        names.add(threading.current_thread().name)
        return torch.zeros(len(rows), 1)

    batches = make_batches(load=load).batches(0)
    next(batches)
    batches.close()
    assert 1 <= len(loaded) <= 3
    assert all(name.startswith("batches") for name in names)


def test_an_image_that_cannot_be_loaded_stops_the_epoch():
    def load(rows, views):
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        next(make_batches(load=load).batches(0))


def test_a_batch_moves_with_all_its_tensors():
    batch = next(make_batches().batches(0))
    moved = batch.to(torch.device("meta"))
    tensors = {name: value for name, value in vars(moved).items() if isinstance(value, torch.Tensor)}
    assert set(tensors) == {"images", "tokens", "positions", "segments", "targets"}
    assert {tensor.device.type for tensor in tensors.values()} == {"meta"}
    assert moved.rows == batch.rows


def test_without_length_buckets_batches_mix_lengths_and_still_hold_every_image():
    bucketed, mixed = make_batches(images=400), make_batches(images=400, length_buckets=False)
    assert sorted(row for batch in mixed.plan(0) for row in batch) == sorted(
        row for batch in bucketed.plan(0) for row in batch
    )
    assert mixed.padding_share(0) > 2 * bucketed.padding_share(0)
    assert mixed.plan(0) == make_batches(images=400, length_buckets=False).plan(0)
