"""The best model: which it is, that its checkpoint stays, and that its export comes back."""

import errno
import os
import shutil
import signal

import pytest
import torch
from line_task import LineTask, make_settings, steps_saved, train
from safetensors import SafetensorError

from captioner.errors import CheckpointError
from captioner.training import checkpoint
from captioner.training.device import build_accelerator
from captioner.training.processes import Processes
from captioner.training.signals import InterruptedTrainingError


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


def test_keeps_one_checkpoint_where_the_last_is_the_best(tmp_path):
    train(LineTask([1.0, 2.0, 3.0]), tmp_path, make_settings(epochs=3, keep=1))
    assert steps_saved(tmp_path) == [15]


def test_keeps_the_last_and_the_best(tmp_path):
    train(LineTask([1.0, 3.0, 2.0, 1.0, 0.0]), tmp_path, make_settings(epochs=5, keep=2))
    assert steps_saved(tmp_path) == [10, 20, 25]


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


@pytest.mark.parametrize("export", [1, 2])  # the first is that of a best model that is missing when the run goes on
def test_a_signal_during_the_export_at_either_end_is_heard(tmp_path, export):
    train(LineTask([1.0, 3.0, 2.0]), tmp_path, make_settings(epochs=3))
    task = LineTask([4.0])
    exports = Exports(task, None, OSError(errno.ENOSPC, "No space left on device")) if export == 2 else Exports(task)
    on_best = exports.on_best

    def stop(metrics):
        on_best(metrics)
        if len(exports.scores) == export:
            os.kill(os.getpid(), signal.SIGTERM)

    exports.on_best = stop
    with pytest.raises(InterruptedTrainingError) as stopped:
        train(task, tmp_path, make_settings(epochs=4), resume=tmp_path, **exports.options)
    assert stopped.value.saved == tmp_path / f"step-000000{[15, 20][export - 1]}"
    assert exports.scores == [3.0, 4.0][:export]


def test_the_main_process_decides_whether_the_best_can_be_read(tmp_path, monkeypatch):
    processes = Processes(build_accelerator(make_settings()))

    def fail():
        raise CheckpointError("it is damaged")

    assert processes.read_as_main(fail) == (None, "it is damaged")
    assert processes.read_as_main(lambda: 7) == (7, "")
    monkeypatch.setattr(processes, "agree", lambda value: "the main one's is damaged")
    assert processes.read_as_main(lambda: 7) == (None, "the main one's is damaged")
    monkeypatch.setattr(processes, "agree", lambda value: "")
    with pytest.raises(CheckpointError, match=r"^it is damaged$"):
        processes.read_as_main(fail)


def test_a_full_disk_that_has_space_at_the_end_costs_no_step(tmp_path, monkeypatch):
    save_file, tried = checkpoint.save_file, []

    def fill_disk(tensors, path):
        if "step-00000010" in path.parent.name and path.parent not in tried:
            tried.append(path.parent)
            if len(tried) == 1:
                raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", fill_disk)
    train(LineTask([1.0, 2.0]), tmp_path, make_settings(epochs=2))
    assert tried
    assert steps_saved(tmp_path) == [5, 10]


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
