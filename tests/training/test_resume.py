"""A run that was stopped and resumed ends like one that never stopped, bit for bit."""

import json
import os
import signal
from dataclasses import replace

import pytest
import torch

from captioner.training import checkpoint
from captioner.training.device import build_accelerator
from captioner.training.signals import InterruptedTrainingError

BATCHES, STEPS = 15, 9  # of TINY: three epochs of five batches, two batches a step


def before(batch, action):
    """Make a task do something before the loss of its batch of that number, from 1."""

    def alter(task):
        loss, numbers = task.loss, iter(range(1, BATCHES + 1))

        def acting_loss(*arguments):
            if next(numbers) == batch:
                action()
            return loss(*arguments)

        task.loss = acting_loss

    return alter


def send(number):
    return lambda: os.kill(os.getpid(), number)


def cut_power():
    raise SystemError("power cut")


def test_crash_in_an_epoch_goes_on_from_its_beginning(tiny_run, whole_run):
    with pytest.raises(SystemError, match="power cut"):
        tiny_run.train(alter=before(9, cut_power))
    newest, state = checkpoint.find_checkpoint(tiny_run.folder)
    assert (newest.name, state["epoch"], state["position"]) == ("step-00000003", 1, 0)
    tiny_run.train(resume=tiny_run.folder, seed=1)
    assert tiny_run.files() == whole_run.files()


@pytest.mark.parametrize(
    ("batch", "number", "step", "position"),
    [
        (1, signal.SIGINT, 1, 2),  # before anything was logged
        (8, signal.SIGTERM, 5, 4),  # in the middle of an epoch, between lines of metrics.jsonl
        (10, signal.SIGINT, 6, 5),  # in an epoch's last step, which holds one batch only
        (BATCHES, signal.SIGTERM, STEPS, 5),  # in the very last step
    ],
)
def test_signal_saves_and_resume_is_exact(tiny_run, whole_run, batch, number, step, position):
    with pytest.raises(InterruptedTrainingError, match=f"^stopped by {number.name}; saved .*step-{step:08d}$") as stop:
        tiny_run.train(alter=before(batch, send(number)))
    assert stop.value.signal == number
    assert checkpoint.read_state(stop.value.saved)["position"] == position
    tiny_run.train(resume=stop.value.saved, seed=1)
    assert tiny_run.files() == whole_run.files()


def test_two_interruptions_are_as_exact_as_one(tiny_run, whole_run):
    for batch, resume, seed in ((3, None, 0), (5, tiny_run.folder, 1)):  # the fifth batch after the first stop
        with pytest.raises(InterruptedTrainingError):
            tiny_run.train(alter=before(batch, send(signal.SIGINT)), resume=resume, seed=seed)
    tiny_run.train(resume=tiny_run.folder, seed=1)
    assert tiny_run.files() == whole_run.files()


def test_signal_during_validation_waits_for_its_end(tiny_run, whole_run, monkeypatch):
    def alter(task):
        validate = task.validate
        task.validate = lambda: send(signal.SIGINT)() or validate()

    saves, save = [], checkpoint.save_checkpoint
    monkeypatch.setattr(
        checkpoint, "save_checkpoint", lambda *a, **options: saves.append(options["step"]) or save(*a, **options)
    )
    with pytest.raises(InterruptedTrainingError, match=r"saved .*step-00000003$"):
        tiny_run.train(alter=alter)
    assert saves == [3]
    tiny_run.train(resume=tiny_run.folder, seed=1)
    assert tiny_run.files() == whole_run.files()


def test_validation_that_was_logged_but_not_saved_is_not_logged_twice(tiny_run, whole_run, monkeypatch):
    with pytest.raises(InterruptedTrainingError):  # saved before the validation of step 6
        tiny_run.train(alter=before(10, send(signal.SIGINT)))
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_checkpoint", lambda *a, **options: cut_power())
        with pytest.raises(SystemError):
            tiny_run.train(resume=tiny_run.folder)
    tiny_run.train(resume=tiny_run.folder, seed=1)
    assert tiny_run.files() == whole_run.files()


def test_finished_run_stays_as_it_is(tiny_run, whole_run):
    tiny_run.train()
    best = []
    state = tiny_run.train(alter=before(1, cut_power), resume=tiny_run.folder, on_best=best.append)
    assert (state.step, best) == (STEPS, [])
    assert tiny_run.files() == whole_run.files()


def test_damaged_newest_checkpoint_costs_the_steps_since_the_one_before(tiny_run, whole_run, caplog):
    tiny_run.train()
    weights = tiny_run.folder / f"step-{STEPS:08d}" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    assert tiny_run.train(resume=tiny_run.folder, seed=1).step == STEPS
    assert "step-00000009 is damaged (model.safetensors)" in caplog.text
    assert tiny_run.files() == whole_run.files()


def test_finished_run_goes_on_with_more_epochs(tiny_run, change):
    tiny_run.train(settings=change(epochs=1))
    state = tiny_run.train(settings=change(epochs=2), resume=tiny_run.folder)
    assert (state.step, state.epoch, state.position, state.validated) == (6, 2, 0, 6)


def test_checkpoint_written_before_validations_were_recorded_counts_as_validated(tiny_run, monkeypatch):
    save = checkpoint.save_checkpoint

    def save_as_before(run, *, state, **options):
        return save(run, state={name: value for name, value in state.items() if name != "validated"}, **options)

    monkeypatch.setattr(checkpoint, "save_checkpoint", save_as_before)
    tiny_run.train()
    before = tiny_run.files()
    assert tiny_run.train(resume=tiny_run.folder).validated == STEPS
    assert tiny_run.files() == before


def scale_gradients(settings):
    """What fp16 gets on a GPU: its autocast, and a scaler, whose first scale is too large for some steps."""
    accelerator = build_accelerator(settings)
    accelerator.native_amp, accelerator.state._mixed_precision = True, "fp16"
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26, growth_interval=2)
    return accelerator


def test_gradient_scaler_passes_over_steps_that_overflow_and_goes_on_exactly(tiny_run, make_run):
    with pytest.raises(InterruptedTrainingError) as stop:
        tiny_run.train(alter=before(8, send(signal.SIGTERM)), accelerator=scale_gradients)
    scaler = checkpoint.read_state(stop.value.saved)["scaler"]
    assert scaler["scale"] < 2**26  # it overflowed
    tiny_run.train(resume=tiny_run.folder, seed=1, accelerator=scale_gradients)
    whole = make_run("whole")
    whole.train(accelerator=scale_gradients)
    assert tiny_run.files() == whole.files()
    first, *_, last = (checkpoint.read_tensors(folder, "model") for folder in checkpoint.list_checkpoints(whole.folder))
    assert not first["projection.places.weight"].equal(last["projection.places.weight"])


def test_a_missing_best_is_exported_again_as_it_was(tiny_run, change):
    """Of averaged weights: the average of the best step, beside what is not averaged."""
    settings = replace(change(epochs=3), optim=replace(change().optim, ema=0.7))
    exports, tasks = [], []

    def keep(metrics):
        weights = {name: tensor.clone() for name, tensor in tasks[-1].module.state_dict().items()}
        exports.append((metrics, weights))

    tiny_run.train(settings=settings, alter=tasks.append, on_best=keep)
    whole, before = exports[-1], tiny_run.files()
    options = {"alter": tasks.append, "on_best": keep, "has_best": lambda step: False}
    tiny_run.train(settings=settings, resume=tiny_run.folder, **options)
    assert exports[-1][0] == exports[-2][0] == whole[0]
    torch.testing.assert_close(exports[-1][1], whole[1], rtol=0, atol=0)
    assert tiny_run.files() == before


def test_metrics_are_on_the_disk_before_a_checkpoint_counts_on_them(tiny_run, monkeypatch):
    metrics, events = tiny_run.folder / "metrics.jsonl", []
    fsync, save = os.fsync, checkpoint.save_checkpoint

    def note_flush(descriptor):
        if metrics.exists() and os.path.samestat(os.fstat(descriptor), metrics.stat()):
            events.append(("flushed", metrics.read_bytes()))
        fsync(descriptor)

    def note_save(*arguments, **options):
        events.append(("saved", metrics.read_bytes()))
        return save(*arguments, **options)

    monkeypatch.setattr(os, "fsync", note_flush)
    monkeypatch.setattr(checkpoint, "save_checkpoint", note_save)
    tiny_run.train()
    saves = [number for number, (what, _) in enumerate(events) if what == "saved"]
    assert len(saves) == 3
    assert all(events[number - 1] == ("flushed", events[number][1]) for number in saves)


def test_metrics_hold_no_clock(whole_run):
    names = {
        name
        for line in whole_run.folder.joinpath("metrics.jsonl").read_text().splitlines()
        for name in json.loads(line)
    }
    assert names == {
        *("step", "epoch", "learning_rate", "train/loss", "train/pairs", "train/tokens"),
        *("train/padding", "train/gradient_norm"),
        *("validation/loss", "validation/perplexity", "validation/CIDEr-D", "validation/samples"),
    }
