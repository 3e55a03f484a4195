import json
import os
import tarfile

import pytest
from tiny_shards import KINDS, add_member, draw_png, write_shards, write_tar

from captioner.data import shard_files
from captioner.data.shard_files import FEW, count_files
from captioner.errors import DataError


@pytest.fixture
def read(monkeypatch):
    """Names of the files that were gone through from end to end."""
    names = []
    for kind, count in shard_files.COUNTERS.items():

        def counted(path, count=count):
            names.append(os.path.basename(path))
            return count(path)

        monkeypatch.setitem(shard_files.COUNTERS, kind, counted)
    return names


def paths_of(folder, kind):
    return sorted(map(str, folder.glob(f"*.{kind}")))


def samples(paths, memory=None):
    return [file.samples for file in count_files(paths, memory=memory)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_counted_once_and_again_when_it_changes(tmp_path, kind, read):
    write_shards(tmp_path / "shards", kind, [3, 5, 2])
    paths, memory = paths_of(tmp_path / "shards", kind), tmp_path / "data" / "counts.jsonl"
    assert samples(paths, memory) == samples(paths, memory) == [3, 5, 2]
    assert read == [f"000{number}.{kind}" for number in range(3)]
    write_shards(tmp_path / "shards", kind, [3, 4])
    later = os.stat(paths[0]).st_mtime_ns + 10**9
    os.utime(paths[0], ns=(later, later))
    assert samples(paths, memory) == samples(paths, memory) == [3, 4, 2]
    assert read[3:] == [f"000{number}.{kind}" for number in range(2)]


def test_what_was_counted_before_a_stop_is_kept(tmp_path, read):
    write_shards(tmp_path, "tar", [3, 5, 2])
    paths, memory = paths_of(tmp_path, "tar"), tmp_path / "counts.jsonl"
    whole = (tmp_path / "0002.tar").read_bytes()
    (tmp_path / "0002.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"0002\.tar: torn"):
        samples(paths, memory)
    (tmp_path / "0002.tar").write_bytes(whole)
    with memory.open("a") as file:
        file.write('{"path": "torn\n7\n{}\n')
    assert samples(paths, memory) == [3, 5, 2]
    assert read == ["0000.tar", "0001.tar", "0002.tar", "0002.tar"]


def test_many_files_are_counted_by_several_processes(tmp_path, read):
    sizes = [1 + number % 3 for number in range(FEW + 1)]
    write_shards(tmp_path, "tar", sizes)
    assert samples(paths_of(tmp_path, "tar"), tmp_path / "counts.jsonl") == sizes
    assert read == []  # in this process
    (tmp_path / "0003.tar").write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"0003\.tar: torn, or no \.tar file"):
        samples(paths_of(tmp_path, "tar"))


def write_stats(path, successes, *, seconds=1):
    """What img2dataset writes when it has finished a file, so many seconds after it."""
    stats = path.with_name(f"{path.stem}_stats.json")
    stats.write_text(successes if isinstance(successes, str) else json.dumps({"count": 99, "successes": successes}))
    changed = path.stat().st_mtime + seconds
    os.utime(stats, (changed, changed))


def test_counts_of_img2dataset_are_believed(tmp_path, read):
    write_shards(tmp_path, "tar", [3, 5])
    for number, successes in enumerate((3, 5)):
        write_stats(tmp_path / f"000{number}.tar", successes)
    [first, second] = count_files(paths_of(tmp_path, "tar"))
    assert (first.samples, second.samples) == (3, 5)
    assert {"png", "txt"} <= set(first.names)
    assert read == []


@pytest.mark.parametrize("successes", ["{", "[]", "{}", '{"successes": "9"}', '{"successes": true}'])
def test_counts_that_cannot_be_understood_are_not(tmp_path, read, successes):
    write_shards(tmp_path, "tar", [3])
    write_stats(tmp_path / "0000.tar", successes)
    assert samples(paths_of(tmp_path, "tar")) == [3]
    assert read == ["0000.tar"]


def test_counts_of_what_was_written_anew_are_not_believed(tmp_path, read):
    write_shards(tmp_path, "tar", [3])
    write_stats(tmp_path / "0000.tar", 9, seconds=-5)
    assert samples(paths_of(tmp_path, "tar")) == [3]


def test_a_torn_file_is_told_whatever_its_stats_say(tmp_path):
    write_tar(tmp_path / "0000.tar", range(30))
    path = tmp_path / "0000.tar"
    path.write_bytes(path.read_bytes()[: 15 * 2048 + 600])  # a sample is two members of two blocks of 512 bytes
    write_stats(path, 30)
    with pytest.raises(DataError, match="torn"):
        samples([str(path)])
    path.write_bytes(path.read_bytes()[: 15 * 2048])
    write_stats(path, 30)
    assert samples([str(path)]) == [15]


def test_a_file_without_captions_is_told_whatever_its_stats_say(tmp_path):
    with tarfile.open(tmp_path / "bare.tar", "w") as archive:
        add_member(archive, "x.jpg", draw_png(1))
    write_stats(tmp_path / "bare.tar", 1)
    with pytest.raises(DataError, match=r"bare\.tar: has jpg; each sample needs"):
        samples(paths_of(tmp_path, "tar"))


def test_counts_that_cannot_be_kept_are_a_warning(tmp_path, caplog):
    write_shards(tmp_path / "shards", "tar", [3, 5])
    (tmp_path / "data").write_text("a file where a folder should be")
    assert samples(paths_of(tmp_path / "shards", "tar"), tmp_path / "data" / "counts.jsonl") == [3, 5]
    assert "will be counted again: cannot write" in caplog.text
    assert len(caplog.messages) == 1
