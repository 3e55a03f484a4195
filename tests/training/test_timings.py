import errno
import json
import logging
from pathlib import Path

import pytest

from captioner.training import timings
from captioner.training.timings import Stopwatch, read_timings


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test passes itself."""

    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(timings, "time", clock)
    return clock


def test_every_second_belongs_to_one_activity(tmp_path, clock):
    watch = Stopwatch("training")
    clock.now += 5
    with watch.during("validation"):
        clock.now += 2
        with watch.during("export"):
            clock.now += 1
        clock.now += 0.5
    clock.now += 3
    watch.write(tmp_path, 7)
    clock.now += 4
    watch.write(tmp_path, 9)
    lines = [json.loads(line) for line in (tmp_path / "timings.jsonl").read_text().splitlines()]
    assert lines == [{"step": 7, "training": 8, "validation": 2.5, "export": 1}, {"step": 9, "training": 4}]
    assert read_timings(tmp_path) == {"training": 12, "validation": 2.5, "export": 1}


def test_an_activity_that_fails_ends(tmp_path, clock):
    watch = Stopwatch("training")

    def validate():
        clock.now += 2
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"), watch.during("validation"):
        validate()
    clock.now += 3
    watch.write(tmp_path, 1)
    assert read_timings(tmp_path) == {"training": 3, "validation": 2}


def test_torn_lines_and_missing_files(tmp_path):
    assert read_timings(tmp_path) == {}
    (tmp_path / "timings.jsonl").write_text('{"step": 1, "training": 2.5}\n{"step": 2, "tra\n3\n')
    assert read_timings(tmp_path) == {"training": 2.5}


def test_only_seconds_count(tmp_path):
    lines = ['{"training": "x", "export": 1}', '{"training": null}', '{"export": -3}', '{"export": 1e999}', "[]", "5"]
    (tmp_path / "timings.jsonl").write_text("\n".join([*lines, '{"step": 1, "training": 2, "export": true}']))
    assert read_timings(tmp_path) == {"training": 2, "export": 1}


def test_a_full_disk_loses_no_time(tmp_path, clock, monkeypatch, caplog):
    watch = Stopwatch("training")
    clock.now += 5

    def fill_disk(*words, **options):
        raise OSError(errno.ENOSPC, "No space left")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Path, "open", fill_disk)
        watch.write(tmp_path, 1)
    assert caplog.messages == ["the times until step 1 are not recorded: No space left"]
    clock.now += 1
    watch.write(tmp_path, 2)
    assert read_timings(tmp_path) == {"training": 6}


def test_a_run_tells_where_its_time_went(whole_run):
    seconds = read_timings(whole_run.folder)
    assert seconds.keys() == {"preparation", "training", "waiting", "validation", "export", "checkpoint"}
    assert min(seconds["training"], seconds["validation"], seconds["checkpoint"]) > 0
