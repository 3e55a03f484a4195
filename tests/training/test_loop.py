"""The loop on the smallest task there is: a line through points."""

import errno
import json
import os
import random
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from line_task import Lines, LineTask, make_settings, steps_saved, train
from safetensors import SafetensorError

from captioner.training import checkpoint
from captioner.training.device import build_accelerator
from captioner.training.signals import InterruptedTrainingError, caught_signals


def test_steps_equal_a_plain_loop_with_groups_cut_at_the_end_of_the_epoch(tmp_path):
    task, settings = LineTask(), make_settings(gradient_accumulation=2)
    state = train(task, tmp_path, settings)
    assert (state.step, state.epoch, state.position) == (6, 2, 0)

    plain = LineTask()
    optimizer = torch.optim.AdamW(
        [{"params": [plain.module[0].weight], "weight_decay": 0.05}, {"params": [plain.module[0].bias]}],
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=True,
    )
    groups = [[(epoch, number) for number in numbers] for epoch in (0, 1) for numbers in ((0, 1), (2, 3), (4,))]
    # Warm-up over 1.2 of 6 steps, then half a cosine.
    decay = [0.5 * (1 + np.cos(np.pi * (step - 1.2) / 4.8)) for step in range(2, 6)]
    for group, factor in zip(groups, [1 / 2.2, 2 / 2.2, *decay], strict=True):
        for parameters in optimizer.param_groups:
            parameters["lr"] = 0.1 * factor
        sum(plain.loss(batch).loss / len(group) for batch in group).backward()
        torch.nn.utils.clip_grad_norm_(plain.module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert task.seen == plain.seen
    torch.testing.assert_close(task.module.state_dict(), plain.module.state_dict(), rtol=1e-6, atol=1e-7)


def test_lines_are_means_over_the_steps_since_the_last_one(tmp_path):
    tracker = Lines()
    train(LineTask(), tmp_path, make_settings(epochs=1, gradient_accumulation=2, log_every=2), tracker=tracker)
    training, validation = tracker.lines
    assert (training["step"], training["train/points"]) == (2, 4.0)
    assert set(training) == {*("step", "epoch", "learning_rate", "train/loss", "train/points", "train/gradient_norm")}
    assert validation == {"step": 3, "epoch": 1, "validation/score": 0.0, "validation/samples": ["a line"]}


def test_max_steps_in_an_epoch_still_validates_exports_and_saves(tmp_path):
    task, best = LineTask(scores=[1.0, 2.0]), []
    settings = make_settings(max_steps=7, epochs=3)
    state = train(task, tmp_path, settings, on_best=best.append)
    assert (state.step, state.epoch, state.position) == (7, 1, 2)
    assert [metrics["step"] for metrics in best] == [5, 7]
    assert steps_saved(tmp_path) == [5, 7]

    more = LineTask()
    assert (
        train(more, tmp_path, replace(settings, trainer=replace(settings.trainer, max_steps=0)), resume=tmp_path).step
        == 15
    )
    assert more.seen[0] == (1, 2)


def test_validates_every_so_many_epochs_and_at_the_end(tmp_path):
    task = LineTask()
    state = train(task, tmp_path, make_settings(epochs=3, validate_every=2))
    assert (task.validations, state.validated) == (2, 15)
    assert steps_saved(tmp_path) == [10, 15]


def test_validation_does_not_change_what_is_learnt(tmp_path):
    class Drawing(LineTask):
        def validate(self):
            random.random(), np.random.rand(), torch.rand(3)
            return super().validate()

    often, seldom = Drawing(), LineTask()
    torch.manual_seed(1)
    train(often, tmp_path / "often", make_settings(epochs=2, validate_every=1))
    torch.manual_seed(1)
    train(seldom, tmp_path / "seldom", make_settings(epochs=2, validate_every=2))
    assert (often.validations, seldom.validations) == (2, 1)
    assert all(map(torch.equal, often.module.parameters(), seldom.module.parameters()))


def test_saves_every_so_many_steps_beside_the_validations(tmp_path):
    train(LineTask(), tmp_path, make_settings(epochs=2, save_every=3, keep=10))
    assert steps_saved(tmp_path) == [3, 5, 6, 9, 10]
    _, state = checkpoint.find_checkpoint(tmp_path / "step-00000006")
    assert (state["epoch"], state["position"], state["validated"]) == (1, 1, 5)


def test_stops_after_so_many_validations_without_a_new_best(tmp_path):
    state = train(LineTask([1.0, 2.0, 2.0, 1.0, 3.0]), tmp_path, make_settings(epochs=5, patience=2))
    assert (state.step, state.best_step, state.stale) == (20, 10, 2)
    patient = make_settings(epochs=5, patience=3)
    assert train(LineTask(), tmp_path, make_settings(epochs=5, patience=2), resume=tmp_path).step == 20
    assert train(LineTask([3.0]), tmp_path, patient, resume=tmp_path).best_step == 25


def test_compiled_network_is_trained_and_handed_back_bare(tmp_path, monkeypatch):
    compiled = []

    def compile_network(module, *, dynamic):
        compiled.append((module, dynamic))
        return module

    monkeypatch.setattr(torch, "compile", compile_network)
    task = LineTask()
    module = task.module
    train(task, tmp_path, make_settings(compile=True))
    assert compiled == [(module, True)]
    assert task.module is module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # its compiler uses what it deprecates
def test_compiled_network_learns_the_same(tmp_path):
    plain, compiled = LineTask(), LineTask()
    plain.module[1].p = compiled.module[1].p = 0.0  # a compiled network draws its dropout in another order
    train(plain, tmp_path / "plain")
    train(compiled, tmp_path / "compiled", make_settings(compile=True))
    torch.testing.assert_close(compiled.module.state_dict(), plain.module.state_dict(), rtol=1e-5, atol=1e-6)


def test_a_resumed_earlier_step_is_where_the_run_is_from_then_on(tmp_path):
    rising = [1.0, 2.0, 3.0, 4.0]
    train(LineTask(rising), tmp_path, make_settings(epochs=4, keep=4))

    class Failing(LineTask):
        def loss(self, batch):
            if batch == (2, 1):
                raise SystemError("power cut")
            return super().loss(batch)

    with pytest.raises(SystemError):
        train(Failing(), tmp_path, make_settings(epochs=4), resume=tmp_path / "step-00000010")
    assert steps_saved(tmp_path) == [5, 10]
    assert sorted(path.name for path in tmp_path.glob(".*")) == [
        *(".step-00000015.abandoned", ".step-00000020.abandoned")  # nothing new is saved yet
    ]
    task = LineTask()
    assert train(task, tmp_path, make_settings(epochs=3, keep=1), resume=tmp_path).step == 15
    assert task.seen[0] == (2, 0)
    assert steps_saved(tmp_path) == [10, 15]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), SafetensorError("No space left")])
def test_full_disk_costs_one_checkpoint_and_not_the_run(tmp_path, monkeypatch, caplog, error):
    save_file = checkpoint.save_file

    def fill_disk(tensors, path):
        save_file(tensors, path)
        if path.parent.name == ".step-00000010.writing" and path.name == checkpoint.OPTIMIZER:
            raise error

    monkeypatch.setattr(checkpoint, "save_file", fill_disk)
    seen = []
    state = train(
        LineTask([1.0, 2.0, 3.0]),
        tmp_path,
        make_settings(epochs=3, keep=1),
        on_best=lambda metrics: seen.append([folder.name for folder in checkpoint.list_checkpoints(tmp_path)]),
    )
    assert "no checkpoint at step 10: " in caplog.text
    assert "No space left" in caplog.text
    assert "training goes on" in caplog.text
    assert seen == [[], ["step-00000005"], ["step-00000005"]]
    assert state.step == 15
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["step-00000015"]


def test_interrupt_on_a_full_disk_says_that_nothing_was_saved(tmp_path, monkeypatch):
    def fill_disk(tensors, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    class Interrupted(LineTask):
        def loss(self, batch):
            os.kill(os.getpid(), signal.SIGTERM)
            return super().loss(batch)

    monkeypatch.setattr(checkpoint, "save_file", fill_disk)
    with pytest.raises(InterruptedTrainingError, match=r"^stopped by SIGTERM; its newest state could not be saved$"):
        train(Interrupted(), tmp_path)


def test_second_signal_stops_at_once_and_handlers_come_back(caplog):
    started = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), caught_signals() as caught:  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        assert caught == [signal.SIGINT]
        assert "SIGINT: saving after this step; once more to stop at once" in caplog.text
        os.kill(os.getpid(), signal.SIGINT)
    after = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, started)
    assert after == before


def test_training_outside_the_main_thread_leaves_signals_alone(tmp_path):
    states = []
    thread = threading.Thread(target=lambda: states.append(train(LineTask(), tmp_path)))
    thread.start()
    thread.join()
    assert states[0].step == 10


def test_runs_of_different_precision_follow_each_other_in_one_process(tmp_path):
    for precision in ("bf16", "fp32", "bf16"):
        settings = make_settings(precision=precision)
        assert build_accelerator(settings).mixed_precision == {"fp32": "no"}.get(precision, precision)
        state = train(LineTask(), tmp_path / precision, settings)
        assert state.step == 10
        content = json.loads((tmp_path / precision / "step-00000010" / "state.json").read_text())
        assert content["scaler"] is None
        assert (
            checkpoint.read_tensors(tmp_path / precision / "step-00000010", "model")["0.weight"].dtype == torch.float32
        )
