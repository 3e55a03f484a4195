import io
import logging

import pytest

from captioner.settings import TrainerSettings
from captioner.training import progress
from captioner.training.progress import TrainingProgress, describe_steps


class Clock:
    """Seconds that a test passes itself."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def take(shown, clock, steps, *, seconds):
    for _ in range(steps):
        clock.now += seconds
        shown.advance(loss=2.0, learning_rate=3e-4, pairs=40)


def test_plain_lines_every_ten_seconds_off_a_terminal(clock, capsys):
    shown = TrainingProgress(100, done=20)
    take(shown, clock, 19, seconds=1)
    shown.report("epoch 1/3", {"loss": 1.23456, "CIDEr-D": 0.5})
    shown.close()
    assert capsys.readouterr().err.splitlines() == [
        "step 30/100: loss 2.000, lr 3.0e-04, 40 pairs/s, 1.2 min left",
        "epoch 1/3: loss 1.235, CIDEr-D 0.5",
    ]


def test_speed_and_time_left_are_those_of_recent_steps_without_validations(clock, capsys):
    shown = TrainingProgress(20_000)
    take(shown, clock, 100, seconds=9)  # compiling, say
    take(shown, clock, 100, seconds=1)
    clock.now += 3000
    shown.report("epoch 1/3", {})
    take(shown, clock, 10, seconds=1)
    assert capsys.readouterr().err.splitlines()[-1].endswith("40 pairs/s, 5 h 30 min left")


def test_nothing_where_it_is_switched_off(clock, capsys):
    shown = TrainingProgress(100, enabled=False)
    take(shown, clock, 30, seconds=1)
    shown.report("epoch", {"loss": 1})
    shown.close()
    assert capsys.readouterr().err == ""


def test_one_bar_on_a_terminal_and_log_lines_above_it(clock, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    logger = logging.getLogger("captioner")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(terminal)])
    before = list(logger.handlers)
    shown = TrainingProgress(10)
    take(shown, clock, 2, seconds=30)
    logger.warning("a warning")
    take(shown, clock, 8, seconds=30)
    shown.close()
    assert logger.handlers == before
    lines = terminal.getvalue().replace("\r", "\n").splitlines()
    assert [line for line in lines if "a warning" in line] == ["a warning"]
    assert "10/10" in lines[-1]
    assert "loss 2.000, lr 3.0e-04, 1 pairs/s, 0.0 min left" in lines[-1]


@pytest.mark.parametrize(
    ("trainer", "begun", "words"),
    [
        ({"epochs": 3}, 0, "3 epochs of 625 batches"),
        ({"epochs": 3, "max_steps": 1500}, 0, "1500 steps, which are 2.4 epochs of 625 batches"),
        ({"epochs": 3, "max_steps": 9000}, 0, "3 epochs of 625 batches"),
        ({"epochs": 3, "gradient_accumulation": 4}, 0, "3 epochs of 625 batches, 4 a step"),
        ({"epochs": 3, "patience": 2}, 700, "at most 3 epochs of 625 batches, 700 steps are done"),
    ],
)
def test_what_will_happen_is_told(trainer, begun, words):
    assert describe_steps(625, TrainerSettings(**trainer), begun=begun) == words
