"""torch.compile changes how a network is computed, and neither what a run holds nor how it goes on."""

from dataclasses import replace

import pytest
from interruptions import stop_at_eight

from captioner.training import checkpoint
from captioner.training.signals import InterruptedTrainingError
from captioner.training.tracking import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # the compiler's own


def read_losses(folder):
    return [line["train/loss"] for line in read_metrics(folder / "metrics.jsonl") if "train/loss" in line]


def test_compiled_run_resumes_and_learns_and_holds_what_a_plain_one_does(tiny_run, make_run, change):
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
        assert {key: tensor.shape for key, tensor in tensors.items()} == {
            key: tensor.shape for key, tensor in others.items()
        }
    # Not the weights: AdamW makes steps of mere rounding where there is no gradient, as of a key's bias.
    assert read_losses(tiny_run.folder) == pytest.approx(read_losses(plain.folder), rel=1e-4)
