"""A training process that is killed at any moment and resumed ends like one that nobody touched, bit for bit.

The processes are forked from one that has imported everything: a kill then costs no import of torch.
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TINY_ENCODERS
from tiny_shards import write_shards
from tiny_workshop import Workshop, without_meteor, write_photos

from captioner import whole_writes
from captioner.commands import prepare, train
from captioner.run_folder import read_settings
from captioner.settings import Settings
from captioner.training import checkpoint

NAME = "run"
LINES = 18  # every form writes at least ten more to its metrics.jsonl
VIT = json.dumps(TINY_ENCODERS["vit"] | {"num_hidden_layers": 2, "image_size": 16})

STREAM = "the shards of the workshop"

FORMS: dict[str, dict] = {
    "accumulation, average, step-wise checkpoints": {
        "trainer": {"gradient_accumulation": 2, "captions_per_row": 1, "epochs": 7, "save_every": 2, "patience": 6},
        "optim": {"lr": 1e-2, "ema": 0.9},
        "decoder": {"dropout": 0.2},
    },
    "one caption a row": {"trainer": {"captions_per_row": 1, "length_buckets": False, "epochs": 5, "save_every": 4}},
    "cached features": {"encoder": {"trainable": False, "views": 2}, "trainer": {"epochs": 8, "save_every": 1}},
    "fine-tuned transformer": {
        "encoder": {"config": VIT, "gradient_checkpointing": True},
        "optim": {"lr": 1e-2, "layer_decay": 0.75, "ema": 0.8},
        "trainer": {"epochs": 8},
    },
    "cached features, average": {
        "encoder": {"trainable": False, "views": 2},
        "trainer": {"epochs": 8, "save_every": 2, "keep": 1},
        "optim": {"lr": 1e-2, "ema": 0.9},
    },
    "stream": {"data": {"streaming": STREAM, "shuffle_buffer": 4}, "trainer": {"epochs": 6, "save_every": 1}},
    "half precision": {"trainer": {"precision": "bf16", "epochs": 8, "save_every": 5, "keep": 1}},
}


def train_in_child(argv: list[str], settings: Settings, log: Path, dies_at: int) -> None:
    """What a forked process does: ``captioner train``, whose ``dies_at``-th flush to the disk is its last (0: none)."""
    sys.stdout = sys.stderr = log.open("a")
    flush, numbers = whole_writes.flush, iter(range(1, 1_000_000))

    def flush_or_die(path: Path) -> None:
        if next(numbers) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(path)

    whole_writes.flush = flush_or_die
    torch.set_num_threads(1)
    with without_meteor():
        status = train.main(argv, presets={NAME: settings})
    sys.stdout.flush()
    os._exit(status)  # what runs at the exit of the process that this one was forked from is not its business


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "captioner.build", "captioner.publish", "captioner.scoring"])
    return context


class Runner:
    """Trains one form in processes."""

    def __init__(
        self, workshop: Workshop, context: multiprocessing.context.BaseContext, folder: Path, form: str
    ) -> None:
        groups = {"encoder": {}, **FORMS[form]}
        if "data" in groups:
            groups["data"] = groups["data"] | {"streaming": str(workshop.folder / "shards" / "*.tar")}
        groups["trainer"] = {"folder": str(folder), "max_steps": 0, "seed": 3, **groups["trainer"]}
        self.settings, self.context = workshop.preset(**groups), context
        self.run, self.log = folder / NAME, folder / "log.txt"
        folder.mkdir()

    def start(self, *, dies_at: int = 0) -> multiprocessing.process.BaseProcess:
        """``captioner train run --resume auto`` in a process of its own."""
        arguments = ([NAME, "--resume", "auto"], self.settings, self.log, dies_at)
        process = self.context.Process(target=train_in_child, args=arguments)
        process.start()
        return process

    def finish(self, process: multiprocessing.process.BaseProcess) -> int:
        process.join(120)
        assert process.exitcode is not None, self.log.read_text()
        return process.exitcode

    def stop(self, number: int, moment: Callable[[], bool]) -> int:
        """Send a signal when it is the moment; returns the exit status."""
        process = self.start()
        while process.is_alive() and not moment():
            time.sleep(0.001)
        os.kill(process.pid, number)
        return self.finish(process)

    def lines(self) -> int:
        """Lines of metrics.jsonl so far."""
        path = self.run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def kill_after(self, lines: int, *, pause: float = 0.0) -> None:
        """SIGKILL once metrics.jsonl has so many lines, and after a pause."""

        def moment() -> bool:
            return self.lines() >= lines and not time.sleep(pause)

        assert self.stop(signal.SIGKILL, moment) == -signal.SIGKILL, self.log.read_text()

    def kill_in_flush(self, number: int) -> None:
        """SIGKILL within the writing of a checkpoint, between two of its files."""
        assert self.finish(self.start(dies_at=number)) == -signal.SIGKILL, self.log.read_text()

    def kill_in_save(self, *, pause: float) -> None:
        """SIGKILL at some moment while a checkpoint or an export is being written."""

        def moment() -> bool:
            return any(self.run.glob(".*.writing")) and not time.sleep(pause)

        assert self.stop(signal.SIGKILL, moment) == -signal.SIGKILL, self.log.read_text()

    def outcome(self) -> dict[str, Any]:
        """Run to the end; the contents of the newest checkpoint, of the export, of metrics.jsonl and the settings."""
        assert self.finish(self.start()) == 0, self.log.read_text()
        assert not list(self.run.glob(".*"))  # nothing half written is left
        newest, _ = checkpoint.find_checkpoint(self.run)
        paths = [*newest.iterdir(), *(self.run / "best").iterdir(), self.run / "metrics.jsonl"]
        found = {str(path.relative_to(self.run)): path.read_bytes() for path in paths}
        del found[f"{newest.name}/settings.json"]  # it tells of the command lines, and so does the run's own
        _, settings = read_settings(self.run)
        _, copy = read_settings(newest)
        assert copy == settings
        return found | {"settings": replace(settings, trainer=replace(settings.trainer, folder=""))}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    write_photos(workshop.folder / "photos")
    words = ["folder", "--root", str(workshop.folder / "photos"), "--data-folder", str(workshop.data)]
    assert prepare.main(words) == 0
    write_shards(workshop.folder / "shards", "tar", [4, 3])
    return workshop


@pytest.fixture
def make_runner(workshop, context, tmp_path) -> Callable[[str, str], Runner]:
    return lambda form, name: Runner(workshop, context, tmp_path / name, form)


def test_three_kills(make_runner):
    form = "accumulation, average, step-wise checkpoints"
    killed = make_runner(form, "killed")
    killed.kill_after(2)  # within the first epoch
    killed.kill_in_flush(12 + random.Random().randrange(12))
    killed.kill_after(max(killed.lines() + 2, LINES), pause=random.Random().uniform(0, 0.02))
    assert killed.outcome() == make_runner(form, "whole").outcome()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_four_kills_of_every_form(make_runner, form):
    killed, draw = make_runner(form, "killed"), random.Random()
    for _ in range(4):
        if draw.random() < 0.25:
            killed.kill_in_save(pause=draw.uniform(0, 0.01))
        elif draw.random() < 0.5 or killed.lines() >= LINES:
            killed.kill_in_flush(1 + draw.randrange(10))
        else:
            killed.kill_after(draw.randrange(killed.lines(), LINES) + 1, pause=draw.uniform(0, 0.02))
    assert killed.outcome() == make_runner(form, "whole").outcome()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(make_runner, number, status):
    runner = make_runner("one caption a row", "stopped")
    assert runner.stop(number, lambda: runner.lines() >= 2) == status
    text = runner.log.read_text()
    assert "Traceback" not in text
    saved, state = checkpoint.find_checkpoint(runner.run)
    assert state["step"] >= 2
    assert text.splitlines()[-1] == (
        f"stopped by {number.name}; saved {saved}; go on with: captioner train {NAME} --resume {runner.run}"
    )
