"""torch.compile changes how a network is computed, and neither what a run holds nor how it goes on."""

import signal
from dataclasses import replace

import pytest
import torch

from captioner.training import checkpoint
from captioner.training.signals import InterruptedTrainingError

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the compiler's own


def stop_at_eight(task):
    loss, numbers = task.loss, iter(range(1, 100))

    def stopping_loss(batch):
        if next(numbers) == 8:
            signal.raise_signal(signal.SIGTERM)
        return loss(batch)

    task.loss = stopping_loss


def test_compiled_run_with_averages_resumes_and_has_the_names_and_nearly_the_weights_of_a_plain_one(
    tiny_run, make_run, change
):
    settings = change(compile=True)
    settings = replace(
        settings,
        optim=replace(settings.optim, ema=0.9),
        decoder=replace(settings.decoder, dropout=0.0),  # a compiled network draws other numbers
        projection=replace(settings.projection, dropout=0.0),
    )
    with pytest.raises(InterruptedTrainingError):
        tiny_run.train(settings=settings, alter=stop_at_eight)
    tiny_run.train(settings=settings, resume=tiny_run.folder, seed=1)
    plain = make_run("plain")
    plain.train(settings=replace(settings, trainer=replace(settings.trainer, compile=False)))
    found, expected = (checkpoint.find_checkpoint(run.folder)[0] for run in (tiny_run, plain))
    for name in ("model", "average"):
        tensors, others = (checkpoint.read_tensors(folder, name) for folder in (found, expected))
        torch.testing.assert_close(tensors, others, rtol=1e-3, atol=1e-4)
