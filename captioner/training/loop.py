"""fit(): iteration, clipping, cadence and resume. It names no image and no caption."""

import contextlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from captioner.errors import CaptionerError
from captioner.settings import Settings
from captioner.tasks.base import Task
from captioner.training import checkpoint, states
from captioner.training.averaging import WeightAverage
from captioner.training.optim import build_optimizer, learning_rate_factor, set_learning_rate
from captioner.training.processes import Processes
from captioner.training.progress import TrainingProgress, count_steps
from captioner.training.signals import InterruptedTrainingError, caught_signals
from captioner.training.timings import CHECKPOINT, EXPORT, TRAINING, VALIDATION, WAITING, Stopwatch
from captioner.training.tracking import Trackers


@dataclass
class RunState:
    """Where a run stands; all of it goes into every checkpoint."""

    step: int = 0
    """Optimizer steps taken."""
    epoch: int = 0
    """Number of the current epoch, from 0."""
    position: int = 0
    """Batches of the current epoch already used."""
    validated: int | None = None
    """Step of the newest validation."""
    best: float | None = None
    """Best value of the monitored metric."""
    best_step: int | None = None
    """Step of the best value."""
    stale: int = 0
    """Validations since the best value."""
    sums: dict[str, float] = field(default_factory=dict)
    """What the reports since the last line of metrics.jsonl add up to."""


def fit(
    task: Task,
    settings: Settings,
    *,
    accelerator: Accelerator,
    run: Path,
    trackers: Trackers,
    on_best: Callable[[dict[str, Any]], None],
    on_saved: Callable[[Path], None] = lambda checkpoint: None,
    resume: tuple[Path, dict[str, Any]] | None = None,
    stopwatch: Stopwatch | None = None,
) -> RunState:
    """Train ``task.module`` to the end of the settings' epochs or steps.

    Args:
        task: what is trained.
        settings: the run's settings.
        accelerator: device, processes and precision.
        run: the run's folder, for checkpoints.
        trackers: where metrics go.
        on_best: called with the validation metrics whenever the monitored one is the best so far.
        on_saved: called with every checkpoint.
        resume: a whole checkpoint and its state, as ``find_checkpoint`` returns them.
        stopwatch: one that has counted what came before; by default time is counted from here on.

    Raises:
        InterruptedTrainingError: SIGINT or SIGTERM came; the state is saved.
        CaptionerError: a loss or gradient is not finite; the last checkpoint is left as it is.
        CheckpointError: the checkpoint does not fit the task.
    """
    stopwatch = stopwatch or Stopwatch()
    with stopwatch.during(TRAINING):
        return _Fit(task, settings, accelerator, run, trackers, on_best, on_saved, stopwatch).run(resume)


@dataclass
class _Fit:
    """One call of ``fit``."""

    task: Task
    settings: Settings
    accelerator: Accelerator
    folder: Path
    trackers: Trackers
    on_best: Callable[[dict[str, Any]], None]
    on_saved: Callable[[Path], None]
    stopwatch: Stopwatch

    def __post_init__(self) -> None:
        self.processes = Processes(self.accelerator)
        self.bare_module, self.copied = self.task.module, self.processes.copy_if_sharded(self.task.module)
        self.optimizer = build_optimizer(self.task.module, self.settings.optim)
        self.average: WeightAverage | None = None
        self.state = RunState()
        self.saved: Path | None = None  # the checkpoint of the state as it is
        self.accumulation = self.settings.trainer.gradient_accumulation
        self.total = count_steps(self.task.batches_per_epoch(), self.settings.trainer)

    def run(self, resume: tuple[Path, dict[str, Any]] | None) -> RunState:
        prepared, self.optimizer = self.accelerator.prepare(self.bare_module, self.optimizer)
        # Captions differ in length: a network compiled for any length is compiled once.
        self.task.module = torch.compile(prepared, dynamic=True) if self.settings.trainer.compile else prepared
        try:
            self.processes.part_random_states(self.settings.trainer.seed)
            if resume:
                self._load(*resume)
            self.average = self._start_average(resume)
            progress = TrainingProgress(self.total, done=self.state.step, enabled=self.accelerator.is_main_process)
            with caught_signals() as caught, contextlib.closing(progress):
                self._train(progress, caught)
        finally:
            self.task.module = self.bare_module
        return self.state

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
        report = self._add_gradients(batches)
        report.update({"gradient_norm": self._update(batches), "steps": 1})
        sums = Counter(state.sums)
        sums.update(report)
        state.step, state.position, state.sums = state.step + 1, state.position + len(batches), dict(sums)
        if self.average:
            self.average.update(state.step)
        self.saved = None
        progress.advance(loss=report["loss"], learning_rate=factor * peak, pairs=report["pairs"])
        if state.step % self.settings.trainer.log_every == 0:
            self._log_training(factor * peak)

    def _add_gradients(self, batches: list[Any]) -> Counter[str]:
        """Add up the gradients of the batches' mean loss; returns the mean loss and the sums of the reports."""
        report: Counter[str] = Counter()
        for number, batch in enumerate(batches, start=1):
            waits = number < len(batches)
            with self.accelerator.no_sync(self.task.module) if waits else contextlib.nullcontext():
                with self.accelerator.autocast():
                    output = self.task.loss(batch)
                loss, counts, share = self.processes.share(output)
                if not math.isfinite(loss):
                    raise self._divergence(f"the loss is {loss}", [batch])
                self.accelerator.backward(output.loss * share / len(batches))
            report.update({"loss": loss / len(batches), **counts})
        return report

    def _update(self, batches: list[Any]) -> float:
        """Clip the gradient and take the step; returns the gradient's norm before."""
        norm = float(self.accelerator.clip_grad_norm_(self.task.module.parameters(), self.settings.optim.clip_norm))
        if not math.isfinite(norm) and self.accelerator.scaler is None:  # a scaler passes over such a step itself
            raise self._divergence(f"the gradient's norm is {norm}", batches)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def _divergence(self, what: str, batches: list[Any]) -> CaptionerError:
        own = "; ".join(self.task.describe(batch) for batch in batches)
        examples = "; ".join(self.processes.gather(own))
        saved = checkpoint.list_checkpoints(self.folder)
        again = f"resume {saved[-1]}" if saved else "start again"
        return CaptionerError(
            f"{what} at step {self.state.step} on {examples}; "
            f"{again} with a lower --optim.lr or --trainer.precision fp32"
        )

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
        """Move to the next epoch; where it is time, validate, export the best and save."""
        state, trainer, batches = self.state, self.settings.trainer, self.task.batches_per_epoch()
        if state.position >= batches:
            state.epoch, state.position = state.epoch + 1, 0
            self.saved = None
        if state.step < self.total and state.epoch % trainer.validate_every:
            return
        averaged = self.average.in_place() if self.average else contextlib.nullcontext()
        # How often a run is validated does not change what it learns.
        with self.stopwatch.during(VALIDATION), averaged, states.preserved_random_state():
            metrics = self._validate()
        shown = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        progress.report(f"epoch {state.epoch + state.position / max(1, batches):.3g}/{trainer.epochs}", shown)
        self._save()

    def _validate(self) -> dict[str, Any]:
        """Metrics of the model as it is; the best so far is exported."""
        self.task.module.eval()
        with self.processes.whole_module(self.task, self.copied):
            with self.accelerator.autocast():
                metrics = self.processes.agree(self.task.validate())
            self._keep_best(metrics)
        return metrics

    def _keep_best(self, metrics: dict[str, Any]) -> None:
        """Record the metrics; where they are the best so far, export the model."""
        state, monitor = self.state, self.task.monitor
        state.validated, state.stale = state.step, state.stale + 1
        self._track({"epoch": state.epoch, **{f"validation/{key}": value for key, value in metrics.items()}})
        if not monitor.improves(metrics[monitor.metric], state.best):
            return
        state.stale = 0
        stored = False
        with self.stopwatch.during(EXPORT), checkpoint.warn_instead_of_stop("the best model so far is not exported"):
            if self.processes.is_main:
                self.on_best({"step": state.step, "epoch": state.epoch, **metrics})
            stored = True
        if self.processes.agree(stored):
            state.best, state.best_step = metrics[monitor.metric], state.step

    def _save(self) -> Path | None:
        """Write a checkpoint and remove old ones; a full disk is a warning, the earlier checkpoints stay."""
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
            with checkpoint.warn_instead_of_stop(f"no checkpoint at step {self.state.step}"):
                self.trackers.flush()
                saved = checkpoint.save_checkpoint(
                    self.folder,
                    step=self.state.step,
                    model=model,
                    optimizer=optimizer,
                    average=average,
                    state={**asdict(self.state), **own_states, "scaler": scaler},
                )
                checkpoint.prune_checkpoints(self.folder, keep=self.settings.trainer.keep, last=self.state.step)
        return self.processes.agree(saved)

    def _load(self, folder: Path, content: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        states.load_module_state(self.bare_module, checkpoint.read_tensors(folder, "model"), origin=folder)
        optimizer = checkpoint.read_tensors(folder, "optimizer")
        states.load_optimizer_state(self.optimizer, optimizer, origin=folder)
        self.processes.restore_states(self.task, content, origin=folder)
        if content["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        # The first checkpoints did not say when they were validated; they were written after a validation.
        content = {"validated": content["step"], "stale": 0, **content}
        self.state = RunState(**{name: content[name] for name in RunState.__dataclass_fields__})
        self.saved = folder
