"""What happens to runs in these tests, and how what is left of them is read."""

import json
import os
from pathlib import Path

from captioner.tasks.captioning import CaptioningTask

LONG = ("--trainer.max-steps", "0", "--trainer.epochs", "4")  # of three steps


def read_lines(run: Path, name: str = "train/loss") -> list[dict]:
    return [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if name in line]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def score(patch, scores):
    """Let validations find these, in turn."""
    validate, scores = CaptioningTask.validate, [*scores]
    patch.setattr(CaptioningTask, "validate", lambda task: validate(task) | {"CIDEr-D": scores.pop(0)})


def before_loss(patch, number, act):
    """Do something before the loss of the batch of that number, from 1."""
    loss, numbers = CaptioningTask.loss, iter(range(1, 1000))

    def acting_loss(task, batch):
        if next(numbers) == number:
            act()
        return loss(task, batch)

    patch.setattr(CaptioningTask, "loss", acting_loss)


def cut_power():
    raise SystemError("power cut")


def send(number):
    return lambda *words, **options: os.kill(os.getpid(), number)
