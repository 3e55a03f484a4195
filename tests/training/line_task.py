"""The smallest task there is, a line through points, and how to train it."""

import torch

from captioner.run_folder import give_up_future
from captioner.settings import OptimSettings, ScheduleSettings, Settings, TrainerSettings
from captioner.tasks.base import Examples, Monitor, StepOutput
from captioner.training import checkpoint
from captioner.training.device import build_accelerator
from captioner.training.loop import fit
from captioner.training.tracking import Trackers

BATCHES = 5


class LineTask:
    """Five batches of points an epoch; validation says what ``scores`` holds, in turn."""

    def __init__(self, scores=(), direction="max"):
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout(0.5))
        self.monitor = Monitor("score", direction)
        self.scores, self.validations, self.seen = list(scores), 0, []

    split_by_process = False

    def batches_per_epoch(self):
        return BATCHES

    def place(self):
        return {}

    def go_to(self, place):
        assert place == {}

    def batches(self, epoch, *, start=0):
        return iter([(epoch, number) for number in range(BATCHES)][start:])

    def loss(self, batch):
        self.seen.append(batch)
        points = torch.tensor([[batch[1] / 10 + batch[0]], [1.0]])
        return StepOutput((self.module(points) - 2 * points).square().mean(), {"points": 2})

    def describe(self, batch):
        return Examples("points of batch", (str(batch[1]),))

    def validate(self):
        assert not self.module.training
        self.validations += 1
        return {"score": self.scores.pop(0) if self.scores else 0.0, "samples": ["a line"]}


class Lines:
    """A tracker that keeps what it is given."""

    def __init__(self):
        self.lines = []

    def log(self, step, metrics):
        self.lines.append({"step": step, **metrics})

    def close(self):
        """Nothing is pending."""


def make_settings(**trainer):
    defaults = {"epochs": 2, "precision": "fp32", "device": "cpu", "log_every": 2}
    return Settings(
        optim=OptimSettings(lr=0.1),
        schedule=ScheduleSettings(warmup=0.2),
        trainer=TrainerSettings(**{**defaults, **trainer}),
    )


def train(
    task,
    run,
    settings=None,
    *,
    resume=None,
    on_best=lambda metrics: None,
    has_best=lambda step: True,
    tracker=None,
):
    settings = settings or make_settings()
    found = checkpoint.find_checkpoint(resume) if resume else None

    def begin():
        if found:
            give_up_future(run, found[1]["step"])
        return Trackers([tracker or Lines()])

    return fit(
        task,
        settings,
        accelerator=build_accelerator(settings),
        run=run,
        begin=begin,
        on_best=on_best,
        has_best=has_best,
        resume=found,
    )


def steps_saved(run):
    return [int(folder.name.removeprefix("step-")) for folder in checkpoint.list_checkpoints(run)]
