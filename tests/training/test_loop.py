"""The loop on the smallest task there is: a line through points."""

import errno
import json
import os
import random
import shutil
import signal
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from captioner.errors import CaptionerError
from captioner.run_folder import give_up_future
from captioner.settings import OptimSettings, ScheduleSettings, Settings, TrainerSettings
from captioner.tasks.base import Examples, Monitor, StepOutput
from captioner.training import checkpoint
from captioner.training.device import build_accelerator
from captioner.training.loop import fit
from captioner.training.signals import InterruptedTrainingError, caught_signals
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


@pytest.mark.parametrize(
    ("direction", "scores", "best_steps", "best"),
    [
        ("max", [1.0, 0.5, 3.0, 3.0], [5, 15], 3.0),
        ("min", [1.0, 0.5, 3.0, 0.5], [5, 10], 0.5),
        ("max", [float("nan"), 0.5, float("nan"), 0.4], [10], 0.5),
    ],
)
def test_best_is_by_the_monitor(tmp_path, direction, scores, best_steps, best):
    exported = []
    state = train(LineTask(scores, direction), tmp_path, make_settings(epochs=4), on_best=exported.append)
    assert [metrics["step"] for metrics in exported] == best_steps
    assert (state.best, state.best_step) == (best, best_steps[-1])
    assert exported[-1] == {"step": best_steps[-1], "epoch": best_steps[-1] // 5, "score": best, "samples": ["a line"]}


def test_resumed_run_remembers_its_best(tmp_path):
    train(LineTask([2.0]), tmp_path, make_settings(epochs=1))
    exported = []
    state = train(LineTask([1.0]), tmp_path, make_settings(epochs=2), resume=tmp_path, on_best=exported.append)
    assert (exported, state.best, state.best_step) == ([], 2.0, 5)


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


def test_keeps_one_checkpoint_where_the_last_is_the_best(tmp_path):
    train(LineTask([1.0, 2.0, 3.0]), tmp_path, make_settings(epochs=3, keep=1))
    assert steps_saved(tmp_path) == [15]


def test_keeps_the_last_and_the_best(tmp_path):
    train(LineTask([1.0, 3.0, 2.0, 1.0, 0.0]), tmp_path, make_settings(epochs=5, keep=2))
    assert steps_saved(tmp_path) == [10, 20, 25]


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


class Exports:
    """Keeps the weights that it is given, as long as there is space."""

    def __init__(self, task, *errors):
        self.task, self.errors = task, [*errors]
        self.best, self.weights, self.scores = None, None, []

    def on_best(self, metrics):
        if self.errors and (error := self.errors.pop(0)):
            raise error
        assert not self.task.module.training
        self.best, self.weights = metrics, {name: one.clone() for name, one in self.task.module.state_dict().items()}
        self.scores.append(metrics["score"])

    def has_best(self, step):
        return self.best is not None and self.best["step"] == step

    @property
    def options(self):
        return {"on_best": self.on_best, "has_best": self.has_best}


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("No space left")])
def test_failed_export_is_made_up_for_at_the_end(tmp_path, caplog, error):
    task = LineTask([1.0, 3.0, 2.0])
    exports = Exports(task, None, error)
    state = train(task, tmp_path, make_settings(epochs=3, keep=1), **exports.options)
    assert "the best model so far is not exported: No space left" in caplog.text
    assert (exports.scores, state.best, state.best_step) == ([1.0, 3.0], 3.0, 10)
    saved = checkpoint.read_tensors(tmp_path / "step-00000010", "model")
    torch.testing.assert_close(exports.weights, saved, rtol=0, atol=0)
    last = checkpoint.read_tensors(tmp_path / "step-00000015", "model")
    torch.testing.assert_close(dict(task.module.state_dict()), last, rtol=0, atol=0)
    assert not torch.equal(saved["0.weight"], last["0.weight"])


def test_a_best_model_that_is_neither_exported_nor_saved_gives_way_to_a_lesser_one(tmp_path, monkeypatch):
    error, save_file = OSError(errno.ENOSPC, "No space left on device"), checkpoint.save_file

    def fill_disk(tensors, path):
        if "step-00000010" in path.parent.name:
            raise error
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", fill_disk)
    task = LineTask([1.0, 3.0, 2.0])
    exports = Exports(task, None, error)
    state = train(task, tmp_path, make_settings(epochs=3), **exports.options)
    assert (exports.scores, state.best, state.best_step) == ([1.0, 2.0], 2.0, 15)


def test_a_missing_best_is_exported_again_from_its_checkpoint(tmp_path):
    task = LineTask([1.0, 3.0, 2.0])
    whole = Exports(task)
    train(task, tmp_path, make_settings(epochs=3, keep=1), **whole.options)
    again_task = LineTask()
    again = Exports(again_task)
    train(again_task, tmp_path, make_settings(epochs=3, keep=1), resume=tmp_path, **again.options)
    assert again.best == whole.best == {"step": 10, "epoch": 2, "score": 3.0, "samples": ["a line"]}
    torch.testing.assert_close(again.weights, whole.weights, rtol=0, atol=0)
    assert again_task.validations == 0


def test_the_last_model_stands_in_for_a_best_one_that_is_nowhere(tmp_path, caplog):
    train(LineTask([1.0, 3.0, 2.0]), tmp_path, make_settings(epochs=3, keep=1))
    shutil.rmtree(tmp_path / "step-00000010")
    task = LineTask([2.0])
    exports = Exports(task)
    state = train(task, tmp_path, make_settings(epochs=3, keep=1), resume=tmp_path, **exports.options)
    assert "the best model so far, of step 10, is neither exported nor saved: " in caplog.text
    assert (exports.scores, state.best, state.best_step, state.step) == ([2.0], 2.0, 15, 15)


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


class Diverging(LineTask):
    """The loss, or only its gradient, is infinite or no number in one batch."""

    def __init__(self, at, fault):
        super().__init__()
        self.at, self.fault = at, fault

    def loss(self, batch):
        output = super().loss(batch)
        return replace(output, loss=self.fault(output.loss)) if batch == self.at else output


def zero_with_infinite_slope(loss):
    return (loss - loss.detach()).square().sqrt()  # as the root at zero


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (lambda loss: loss * float("nan"), "the loss is nan at step 7 on points of batch 2; "),
        (lambda loss: loss * float("inf"), "the loss is inf at step 7 on points of batch 2; "),
        (zero_with_infinite_slope, "the gradient's norm is nan at step 7 on points of batch 2; "),
    ],
)
def test_divergence_names_the_examples_and_leaves_the_last_checkpoint(tmp_path, fault, what):
    with pytest.raises(CaptionerError) as stop:
        train(Diverging((1, 2), fault), tmp_path)
    last = tmp_path / "step-00000005"
    assert str(stop.value) == f"{what}resume {last} with a lower --optim.lr or --trainer.precision fp32"
    assert checkpoint.find_checkpoint(tmp_path)[0] == last
    assert train(LineTask(), tmp_path, resume=tmp_path).step == 10


@pytest.mark.parametrize("count", [64, 65])
def test_divergence_names_all_examples_those_at_fault_first(tmp_path, count):
    class Blaming(Diverging):
        def describe(self, batch):
            return Examples("points", tuple(map(str, range(count))), ("5", "3"))

    with pytest.raises(CaptionerError) as stop:
        train(Blaming((0, 1), lambda loss: loss * float("nan")), tmp_path)
    names = [name for name in map(str, range(count)) if name not in ("5", "3")]
    said = f"at step 1 on points 5, 3 (the loss of each alone is not finite), beside {', '.join(names[:62])}"
    path = tmp_path / "not-finite-00000001.txt"
    if count > 64:
        said += f" and others, all 65 in {path}"
        assert path.read_text().splitlines() == ["5", "3", *names]
    assert f"{said}; start again" in str(stop.value)
    assert path.exists() == (count > 64)


def test_divergence_before_the_first_checkpoint_sends_back_to_the_start(tmp_path):
    with pytest.raises(CaptionerError, match=r"at step 0 on points of batch 0; start again with a lower --optim.lr"):
        train(Diverging((0, 0), lambda loss: loss * float("nan")), tmp_path)


def test_module_is_handed_back_bare(tmp_path):
    task = Diverging((1, 2), lambda loss: loss * float("nan"))
    module = task.module
    with pytest.raises(CaptionerError):
        train(task, tmp_path)
    assert task.module is module


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
