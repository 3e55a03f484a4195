import json
import random
import tarfile

import pyarrow
import pytest
from pyarrow import parquet
from tiny_shards import KINDS, add_member, add_sample, draw_png, make_captions, write_shards

from captioner.data.shards import Sample, find_shards, read_captions, read_sample
from captioner.errors import DataError


def read_all(stream):
    return [read_sample(columns, place) for place, columns in enumerate(stream)]


def names_of(stream):
    return [sample.name for sample in read_all(stream)]


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_read_as_they_were_written(tmp_path, kind):
    shards = find_shards(write_shards(tmp_path, kind, [3, 5]))
    assert shards.counts == (3, 5)
    assert read_all(shards.stream()) == [
        Sample(str(number), draw_png(number), tuple(make_captions(number))) for number in range(8)
    ]
    assert list(read_captions(shards, most=2)) == [*make_captions(0), *make_captions(1)]
    assert find_shards(str(tmp_path)) == shards


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sizes", "processes"), [([5, 4, 6, 3], 2), ([5, 4, 7], 2), ([9], 3), ([2, 3, 4], 3)])
def test_processes_share_the_samples_out(tmp_path, kind, sizes, processes):
    shards = find_shards(write_shards(tmp_path, kind, sizes))
    shares = [
        names_of(shards.stream(order=random.Random(3), rank=rank, processes=processes)) for rank in range(processes)
    ]
    assert [len(share) for share in shares] == [shards.share(rank, processes) for rank in range(processes)]
    assert sorted(int(name) for share in shares for name in share) == [*range(sum(sizes))]


def test_files_are_shuffled_and_stay_with_their_process(tmp_path):
    shards = find_shards(write_shards(tmp_path, "parquet", [2] * 12))
    orders = [
        [names_of(shards.stream(order=random.Random(seed), rank=rank, processes=2)) for rank in (0, 1)]
        for seed in (1, 2)
    ]
    assert orders[0] != orders[1]
    assert [set(share) for share in orders[0]] == [set(share) for share in orders[1]]
    assert orders[0] == [names_of(shards.stream(order=random.Random(1), rank=rank, processes=2)) for rank in (0, 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("sizes", "processes"), [([5, 4], 1), ([5, 4], 2), ([9, 4, 2], 2)])
def test_a_stream_goes_on_from_its_state(tmp_path, kind, sizes, processes):
    shards = find_shards(write_shards(tmp_path, kind, sizes))
    stream = shards.stream(rank=processes - 1, processes=processes)
    samples = iter(stream)
    for _ in range(3):
        next(samples)
    state = json.loads(json.dumps(stream.state_dict()))
    again = shards.stream(rank=processes - 1, processes=processes)
    again.load_state_dict(state)
    assert names_of(again) == [read_sample(columns, 0).name for columns in samples] != []


def test_captions_may_be_one_text_and_images_plain_bytes(tmp_path):
    table = pyarrow.table({"jpg": [draw_png(1)], "caption": ["  A &amp; B  "], "key": ["x"], "width": [16]})
    parquet.write_table(table, tmp_path / "one.parquet")
    assert read_all(find_shards(str(tmp_path)).stream()) == [Sample("x", draw_png(1), ("A & B",))]


def test_captions_of_a_tar_may_stand_in_json(tmp_path):
    with tarfile.open(tmp_path / "one.tar", "w") as archive:
        add_sample(archive, "part/x", draw_png(1), {"captions": ["one", "two"], "width": 3})
        add_sample(archive, "part/y", draw_png(2), {"captions": ["three"], "width": None})
    samples = read_all(find_shards(str(tmp_path)).stream())
    assert [(sample.name, sample.captions) for sample in samples] == [
        ("part/x", ("one", "two")),
        ("part/y", ("three",)),
    ]


def test_what_a_sample_lacks_is_empty():
    assert read_sample({"image": None, "caption": None, "image_id": None}, 7) == Sample("sample 7", b"", ())


def write_nothing(folder):
    (folder / "readme.txt").write_text("")


def write_both(folder):
    write_shards(folder, "parquet", [1])
    write_shards(folder, "tar", [1])


def write_torn_parquet(folder):
    (folder / "torn.parquet").write_bytes(b"PAR1 and no more")


def write_torn_tar(folder):
    write_shards(folder, "tar", [3])
    path = folder / "0000.tar"
    path.write_bytes(path.read_bytes()[:700])


def write_without_captions(folder):
    with tarfile.open(folder / "bare.tar", "w") as archive:
        add_member(archive, "x.jpg", draw_png(1))


def write_unlike(folder):
    write_shards(folder, "parquet", [1])
    parquet.write_table(pyarrow.table({"image": [draw_png(1)], "caption": ["one"]}), folder / "other.parquet")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (write_nothing, "no .parquet or .tar files there"),
        (write_both, "names .parquet and .tar files; train from one kind"),
        (write_torn_parquet, "torn.parquet: torn, or no parquet file .*; fetch it again"),
        (write_torn_tar, "0000.tar: torn, or no .tar file .*; fetch it again"),
        (write_without_captions, "bare.tar: has jpg; each sample needs an image .* and captions"),
        (write_unlike, "other.parquet: has the columns image, caption, .* image, captions, image_id; rename them"),
    ],
)
def test_what_cannot_be_streamed_is_told(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises(DataError, match=message):
        find_shards(str(tmp_path))
