"""fit(): iteration, clipping, cadence and resume. It names no image and no caption."""

import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from captioner.settings import Settings
from captioner.tasks.base import Task
from captioner.training import checkpoint, states
from captioner.training.averaging import WeightAverage
from captioner.training.gradients import GradientSteps
from captioner.training.optim import build_optimizer, learning_rate_factor, set_learning_rate
from captioner.training.processes import Processes
from captioner.training.progress import TrainingProgress, count_steps
from captioner.training.run_state import RunState
from captioner.training.signals import InterruptedTrainingError, caught_signals
from captioner.training.timings import CHECKPOINT, EXPORT, TRAINING, VALIDATION, WAITING, Stopwatch
from captioner.training.tracking import Trackers
from captioner.whole_writes import warn_instead_of_stop

logger = logging.getLogger(__name__)


def fit(
    task: Task,
    settings: Settings,
    *,
    accelerator: Accelerator,
    run: Path,
    begin: Callable[[], Trackers],
    on_best: Callable[[dict[str, Any]], None],
    has_best: Callable[[int], bool] = lambda step: True,
    on_saved: Callable[[Path], None] = lambda checkpoint: None,
    made_from: Mapping[str, str] | None = None,
    resume: tuple[Path, dict[str, Any]] | None = None,
    stopwatch: Stopwatch | None = None,
) -> RunState:
    """Train ``task.module`` to the end of the settings' epochs or steps.

    Args:
        task: what is trained.
        settings: the run's settings.
        accelerator: device, processes and precision.
        run: the run's folder, for checkpoints.
        begin: called once all that the run goes on from is loaded, and nothing can be refused any more; gives where
            metrics go, which is left open.
        on_best: called with the validation metrics to export the model: whenever the monitored one is the best so far,
            and again where that export is missing.
        has_best: whether the exported model is that of a step.
        on_saved: called with every checkpoint.
        made_from: fingerprints of what the run is made from; they go into every checkpoint.
        resume: a whole checkpoint and its state, as ``find_checkpoint`` returns them.
        stopwatch: one that has counted what came before; by default time is counted from here on.

    Raises:
        InterruptedTrainingError: SIGINT or SIGTERM came; the state is saved where there was space.
        CaptionerError: a loss or gradient is not finite; the last checkpoint is left as it is.
        CheckpointError: the checkpoint does not fit the task.
    """
    made_from, stopwatch = dict(made_from or {}), stopwatch or Stopwatch()
    with stopwatch.during(TRAINING):
        return _Fit(task, settings, accelerator, run, on_best, has_best, on_saved, made_from, stopwatch).run(
            begin, resume
        )


@dataclass
class _Fit:
    """One call of ``fit``."""

    task: Task
    settings: Settings
    accelerator: Accelerator
    folder: Path
    on_best: Callable[[dict[str, Any]], None]
    has_best: Callable[[int], bool]
    on_saved: Callable[[Path], None]
    made_from: dict[str, str]
    stopwatch: Stopwatch

    def __post_init__(self) -> None:
        self.processes = Processes(self.accelerator)
        self.bare_module, self.copied = self.task.module, self.processes.copy_if_sharded(self.task.module)
        self.optimizer = build_optimizer(self.task.module, self.settings.optim)
        self.average: WeightAverage | None = None
        self.state = RunState()
        self.saved: Path | None = None  # the checkpoint of the state as it is
        self.trackers, self.documents = Trackers([]), {}
        self.accumulation = self.settings.trainer.gradient_accumulation
        self.total = count_steps(self.task.batches_per_epoch(), self.settings.trainer)

    def run(self, begin: Callable[[], Trackers], resume: tuple[Path, dict[str, Any]] | None) -> RunState:
        prepared, self.optimizer = self.accelerator.prepare(self.bare_module, self.optimizer)
        # Captions differ in length: a network compiled for any length is compiled once.
        self.task.module = torch.compile(prepared, dynamic=True) if self.settings.trainer.compile else prepared
        self.gradients = GradientSteps(
            self.task,
            self.optimizer,
            processes=self.processes,
            clip_norm=self.settings.optim.clip_norm,
            run=self.folder,
        )
        try:
            self.processes.part_random_states(self.settings.trainer.seed)
            if resume:
                self._load(*resume)
            self.average = self._start_average(resume)
            self.trackers = begin()
            self._run()
        finally:
            self.task.module = self.bare_module
        return self.state

    def _run(self) -> None:
        self.documents = checkpoint.read_documents(self.folder)
        progress = TrainingProgress(self.total, done=self.state.step, enabled=self.accelerator.is_main_process)
        with caught_signals() as caught, contextlib.closing(progress):
            self._restore_best()
            self._stop_if(caught)
            self._train(progress, caught)
            if not self._restore_best():  # the last model stands in for it
                self.state.best = self.state.best_step = None
                self._validate_and_save(progress)
            if not self.saved:  # there may be space by now
                self._save()
            self._stop_if(caught)

    def _start_average(self, resume: tuple[Path, dict[str, Any]] | None) -> WeightAverage | None:
        """The average of the weights, where the settings want one; a checkpoint without one begins with its weights."""
        if not self.settings.optim.ema:
            return None
        average = WeightAverage(self.bare_module, decay=self.settings.optim.ema)
        if resume and checkpoint.AVERAGE in resume[1]["files"]:
            average.load_state(checkpoint.read_tensors(resume[0], "average"), origin=resume[0])
        return average

    def _train(self, progress: TrainingProgress, caught: Sequence[int]) -> None:
        """Epoch after epoch, until the last step is taken and validated, or nothing has got better for long."""
        save_every = self.settings.trainer.save_every
        while (self.state.step < self.total or self.state.validated != self.state.step) and not self._is_stale():
            for batches in self._step_batches():
                self._step(batches, progress)
                if save_every and self.state.step % save_every == 0:
                    self._save()
                self._stop_if(caught)
            self._end_epoch(progress)
            self._stop_if(caught)

    def _is_stale(self) -> bool:
        patience = self.settings.trainer.patience
        return 0 < patience <= self.state.stale

    def _stop_if(self, caught: Sequence[int]) -> None:
        if number := self.processes.first_signal(caught):
            raise InterruptedTrainingError(number, self.saved or self._save())

    def _step_batches(self) -> Iterator[list[Any]]:
        """The batches of every step that is left of the epoch."""
        batches = self.task.batches(self.state.epoch, start=self.state.position)
        while self.state.step < self.total:
            with self.stopwatch.during(WAITING):
                group = list(itertools.islice(batches, self.accumulation))
            if not group:
                return
            yield group

    def _step(self, batches: list[Any], progress: TrainingProgress) -> None:
        """One optimizer step."""
        state, peak = self.state, self.settings.optim.lr
        factor = learning_rate_factor(state.step, total=self.total, settings=self.settings.schedule)
        set_learning_rate(self.optimizer, factor)
        self.task.module.train()
        report = self.gradients.take(batches, step=state.step)
        sums = Counter(state.sums)
        sums.update(report)
        state.step, state.position, state.sums = state.step + 1, state.position + len(batches), dict(sums)
        if self.average:
            self.average.update(state.step)
        self.saved = None
        progress.advance(loss=report["loss"], learning_rate=factor * peak, pairs=report["pairs"])
        if state.step % self.settings.trainer.log_every == 0:
            self._log_training(factor * peak)

    def _log_training(self, learning_rate: float) -> None:
        """A line of means since the last one."""
        sums, self.state.sums = self.state.sums, {}
        steps = sums.pop("steps")
        means = {f"train/{key}": value / steps for key, value in sums.items()}
        self._track({"epoch": self.state.epoch, "learning_rate": learning_rate, **means})

    def _track(self, line: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.trackers.log(self.state.step, line)

    def _end_epoch(self, progress: TrainingProgress) -> None:
        """Move to the next epoch; validate where it is time."""
        state = self.state
        if state.position >= self.task.batches_per_epoch():
            state.epoch, state.position = state.epoch + 1, 0
            self.saved = None
        if state.step >= self.total or not state.epoch % self.settings.trainer.validate_every:
            self._validate_and_save(progress)

    def _validate_and_save(self, progress: TrainingProgress) -> None:
        """Validate, export the best and save."""
        state, epochs, batches = self.state, self.settings.trainer.epochs, self.task.batches_per_epoch()
        before = (state.best, state.best_step, state.best_metrics)
        averaged = self.average.in_place() if self.average else contextlib.nullcontext()
        # How often a run is validated does not change what it learns.
        with self.stopwatch.during(VALIDATION), averaged, states.preserved_random_state():
            metrics, exported = self._validate()
        shown = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        progress.report(f"epoch {state.epoch + state.position / max(1, batches):.3g}/{epochs}", shown)
        if not self._save() and not exported:  # it is nowhere; a lesser model than it is better than none
            state.best, state.best_step, state.best_metrics = before

    def _validate(self) -> tuple[dict[str, Any], bool]:
        """Metrics of the model as it is; and whether, if it is the best so far, it could be exported."""
        self.task.module.eval()
        with self.processes.whole_module(self.task, self.copied):
            with self.accelerator.autocast():
                metrics = self.processes.agree(self.task.validate())
            self._track({"epoch": self.state.epoch, **{f"validation/{key}": value for key, value in metrics.items()}})
            return metrics, not self._keeps_best(metrics) or self._export()

    def _keeps_best(self, metrics: dict[str, Any]) -> bool:
        """Record a validation; returns whether it is the best so far."""
        state, value = self.state, metrics[self.task.monitor.metric]
        state.validated, state.stale = state.step, state.stale + 1
        improved = self.task.monitor.improves(value, state.best)
        if improved:
            state.stale, state.best, state.best_step = 0, value, state.step
            state.best_metrics = {"step": state.step, "epoch": state.epoch, **metrics}
        return improved

    def _export(self) -> bool:
        """Export the module as it is as the best; a full disk is a warning."""
        stored = False
        with self.stopwatch.during(EXPORT), warn_instead_of_stop("the best model so far is not exported"):
            if self.processes.is_main:
                self.on_best(dict(self.state.best_metrics))
            stored = True
        return self.processes.agree(stored)

    def _restore_best(self) -> bool:
        """Export the best model again where that is missing, or of another step; returns whether there is one now.

        It may have been removed or not been written for want of space, or be of steps that the run has given up.
        """
        step = self.state.best_step
        if step is None or self.processes.agree(self.has_best(step)):
            return step is not None
        folder = checkpoint.step_folder(self.folder, step)
        tensors, problem = self.processes.read_as_main(lambda: checkpoint.read_weights(folder))
        if tensors is None:
            logger.warning("the best model so far, of step %d, is neither exported nor saved: %s", step, problem)
            return False
        with states.other_weights(self.bare_module, *tensors, origin=folder):
            self.task.module.eval()
            with self.processes.whole_module(self.task, self.copied):
                return self._export()

    def _save(self) -> Path | None:
        """Write a checkpoint and remove old ones; a full disk is a warning, the earlier checkpoints stay."""
        self.trackers.flush()
        with self.stopwatch.during(CHECKPOINT):
            self.saved = self._write_checkpoint()
        if self.processes.is_main:
            self.stopwatch.write(self.folder, self.state.step)
            if self.saved:
                self.on_saved(self.saved)
        return self.saved

    def _write_checkpoint(self) -> Path | None:
        # Every process has a part in this, though only the main one writes.
        own_states = self.processes.gather_states(self.task)
        model, optimizer = states.module_state(self.bare_module), states.optimizer_state(self.optimizer)
        average = self.average.state() if self.average else None
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler else None
        saved = self.saved
        if self.processes.is_main:
            with warn_instead_of_stop(f"no checkpoint at step {self.state.step}"):
                saved = checkpoint.save_checkpoint(
                    self.folder,
                    step=self.state.step,
                    model=model,
                    optimizer=optimizer,
                    average=average,
                    state={**asdict(self.state), **own_states, "scaler": scaler, "made_from": self.made_from},
                    documents=self.documents,
                )
                keep = self.settings.trainer.keep
                checkpoint.prune_checkpoints(self.folder, keep=keep, best=self.state.best_step)
        return self.processes.agree(saved)

    def _load(self, folder: Path, content: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        states.load_module_state(self.bare_module, checkpoint.read_tensors(folder, "model"), origin=folder)
        optimizer = checkpoint.read_tensors(folder, "optimizer")
        states.load_optimizer_state(self.optimizer, optimizer, origin=folder)
        self.processes.restore_states(self.task, content, origin=folder)
        if content["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.state = RunState.of(content)
        self.saved = folder
