"""fit(): iteration, precision, clipping, cadence and resume. It names no image and no caption."""

import contextlib
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from safetensors import SafetensorError

from captioner.errors import CaptionerError, ConfigError
from captioner.settings import Settings
from captioner.tasks.base import Task
from captioner.training import checkpoint
from captioner.training.optim import build_optimizer, learning_rate_factor, set_learning_rate
from captioner.training.progress import TrainingProgress
from captioner.training.signals import InterruptedTrainingError, caught_signals
from captioner.training.timings import CHECKPOINT, EXPORT, VALIDATION, WAITING, Stopwatch
from captioner.training.tracking import Trackers

logger = logging.getLogger(__name__)


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
    sums: dict[str, float] = field(default_factory=dict)
    """What the reports since the last line of metrics.jsonl add up to."""


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision that ``auto`` means: bf16 where the device multiplies it in hardware, else fp32.

    Raises ConfigError for fp16 without a GPU, whose gradients need scaling that CPUs do not have.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"trainer.precision=fp16 needs a CUDA GPU, this run is on {device.type}; use bf16 or fp32")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        multiplies = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if multiplies else "fp32"
    return "fp32"


def build_accelerator(settings: Settings) -> Accelerator:
    """The accelerator for the settings' device and precision.

    Raises ConfigError if there is no such device, or if it cannot compute in that precision.
    """
    wanted = settings.trainer.device
    _check_device(wanted)
    # accelerate keeps one state a process; another run in this process may have had another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    if wanted.startswith("cuda:"):
        torch.cuda.set_device(wanted)  # accelerate takes the current one
    cpu = wanted == "cpu"
    precision = resolve_precision(settings.trainer.precision, PartialState(cpu=cpu).device)
    return Accelerator(cpu=cpu, mixed_precision={"fp32": "no"}.get(precision, precision))


def _check_device(wanted: str) -> None:
    kind, _, number = wanted.partition(":")
    devices = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= devices:
        raise ConfigError(f"trainer.device={wanted}, but torch sees {devices} CUDA GPUs here; use auto or cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("trainer.device=mps, but torch sees no Apple GPU here; use auto or cpu")


def fit(
    task: Task,
    settings: Settings,
    *,
    accelerator: Accelerator,
    run: Path,
    trackers: Trackers,
    on_best: Callable[[dict[str, Any]], None],
    resume: tuple[Path, dict[str, Any]] | None = None,
) -> RunState:
    """Train ``task.module`` to the end of the settings' epochs or steps.

    Args:
        task: what is trained.
        settings: the run's settings.
        accelerator: device, processes and precision.
        run: the run's folder, for checkpoints.
        trackers: where metrics go.
        on_best: called with the validation metrics whenever the monitored one is the best so far.
        resume: a whole checkpoint and its state, as ``find_checkpoint`` returns them.

    Raises:
        InterruptedTrainingError: SIGINT or SIGTERM came; the state is saved.
        CaptionerError: a loss or gradient is not finite; the last checkpoint is left as it is.
        CheckpointError: the checkpoint does not fit the task.
    """
    return _Fit(task, settings, accelerator, run, trackers, on_best).run(resume)


class _Fit:
    """One call of ``fit``."""

    def __init__(
        self,
        task: Task,
        settings: Settings,
        accelerator: Accelerator,
        run: Path,
        trackers: Trackers,
        on_best: Callable[[dict[str, Any]], None],
    ) -> None:
        self.task, self.settings, self.accelerator = task, settings, accelerator
        self.folder, self.trackers, self.on_best = run, trackers, on_best
        self.bare_module = task.module
        self.optimizer = build_optimizer(task.module, settings.optim)
        self.state = RunState()
        self.saved: Path | None = None  # the checkpoint of the state as it is
        self.stopwatch = Stopwatch()
        self.accumulation = settings.trainer.gradient_accumulation
        epochs_steps = settings.trainer.epochs * math.ceil(task.batches_per_epoch() / self.accumulation)
        self.total = min(settings.trainer.max_steps or epochs_steps, epochs_steps)

    def run(self, resume: tuple[Path, dict[str, Any]] | None) -> RunState:
        self.task.module, self.optimizer = self.accelerator.prepare(self.bare_module, self.optimizer)
        try:
            if resume:
                self._load(*resume)
            progress = TrainingProgress(self.total, done=self.state.step, enabled=self.accelerator.is_main_process)
            with caught_signals() as caught, contextlib.closing(progress):
                self._train(progress, caught)
        finally:
            self.task.module = self.bare_module
        return self.state

    def _train(self, progress: TrainingProgress, caught: Sequence[int]) -> None:
        """Epoch after epoch, until the last step is taken and validated."""
        while self.state.step < self.total or self.state.validated != self.state.step:
            for batches in self._step_batches():
                self._step(batches, progress)
                self._stop_if(caught)
            self._end_epoch(progress)
            self._stop_if(caught)

    def _stop_if(self, caught: Sequence[int]) -> None:
        if caught:
            raise InterruptedTrainingError(caught[0], self.saved or self._save())

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
                loss = float(output.loss.detach())
                if not math.isfinite(loss):
                    raise self._divergence(f"the loss is {loss}", [batch])
                self.accelerator.backward(output.loss / len(batches))
            report.update({"loss": loss / len(batches), **output.report})
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
        examples = "; ".join(self.task.describe(batch) for batch in batches)
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
        # How often a run is validated does not change what it learns.
        with self.stopwatch.during(VALIDATION), checkpoint.preserved_random_state():
            metrics = self._validate()
        shown = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        progress.report(f"epoch {state.epoch + state.position / max(1, batches):.3g}/{trainer.epochs}", shown)
        self._save()

    def _validate(self) -> dict[str, Any]:
        """Metrics of the model as it is; the best so far is exported."""
        self.task.module.eval()
        with self.accelerator.autocast():
            metrics = self.task.validate()
        state, monitor = self.state, self.task.monitor
        state.validated = state.step
        self._track({"epoch": state.epoch, **{f"validation/{key}": value for key, value in metrics.items()}})
        if monitor.improves(metrics[monitor.metric], state.best):
            with self.stopwatch.during(EXPORT), warn_instead_of_stop("the best model so far is not exported"):
                if self.accelerator.is_main_process:
                    self.on_best({"step": state.step, "epoch": state.epoch, **metrics})
                state.best, state.best_step = metrics[monitor.metric], state.step
        return metrics

    def _save(self) -> Path | None:
        """Write a checkpoint and remove old ones; a full disk is a warning, the earlier checkpoints stay."""
        if not self.accelerator.is_main_process:
            return None
        with self.stopwatch.during(CHECKPOINT), warn_instead_of_stop(f"no checkpoint at step {self.state.step}"):
            self.saved = checkpoint.save_checkpoint(
                self.folder,
                step=self.state.step,
                model=checkpoint.module_state(self.bare_module),
                optimizer=checkpoint.optimizer_state(self.optimizer),
                state={
                    **asdict(self.state),
                    "random": checkpoint.random_state(),
                    "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
                },
            )
            checkpoint.prune_checkpoints(self.folder, keep=self.settings.trainer.keep, last=self.state.step)
        self.stopwatch.write(self.folder, self.state.step)
        return self.saved

    def _load(self, folder: Path, content: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        checkpoint.load_module_state(self.bare_module, checkpoint.read_tensors(folder, "model"), origin=folder)
        optimizer = checkpoint.read_tensors(folder, "optimizer")
        checkpoint.load_optimizer_state(self.optimizer, optimizer, origin=folder)
        checkpoint.load_random_state(content["random"])
        if content["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        # The first checkpoints did not say when they were validated; they were written after a validation.
        content = {"validated": content["step"], **content}
        self.state = RunState(**{name: content[name] for name in RunState.__dataclass_fields__})
        self.saved = folder


@contextlib.contextmanager
def warn_instead_of_stop(loss: str) -> Iterator[None]:
    """Turn a failed write into a warning that says what is lost for now."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as its own error
        reason = getattr(error, "strerror", None) or error
        logger.warning("%s: %s; free some space, training goes on", loss, reason)
