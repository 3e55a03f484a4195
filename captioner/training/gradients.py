"""One optimizer step: the gradients of some batches added up, clipped and applied, or the reason why not."""

import contextlib
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from captioner.errors import CaptionerError
from captioner.tasks.base import Examples, Task
from captioner.training import checkpoint
from captioner.training.processes import Processes
from captioner.whole_writes import warn_instead_of_stop, write_text

LONGEST_LIST = 64
"""So many examples are named in a message; of more it names some, and a file that has them all."""


class GradientSteps:
    """Takes the steps of a run."""

    def __init__(
        self, task: Task, optimizer: torch.optim.Optimizer, *, processes: Processes, clip_norm: float, run: Path
    ) -> None:
        """Steps on ``task.module``, whatever that is by then; ``run`` is named in errors, with its checkpoints."""
        self._task, self._optimizer, self._processes = task, optimizer, processes
        self._accelerator: Accelerator = processes.accelerator
        self._clip_norm, self._run = clip_norm, run

    def take(self, batches: Sequence[Any], *, step: int) -> Counter[str]:
        """Step on the mean loss of the batches; returns that loss, the gradient's norm and the sums of the reports.

        Raises CaptionerError where one is not finite, before the weights change. ``step`` is the number of those taken.
        """
        report: Counter[str] = Counter()
        for number, batch in enumerate(batches, start=1):
            waits = number < len(batches)
            with self._accelerator.no_sync(self._task.module) if waits else contextlib.nullcontext():
                with self._accelerator.autocast():
                    output = self._task.loss(batch)
                loss, counts, share = self._processes.share(output)
                if not math.isfinite(loss):
                    raise self._divergence(f"the loss is {loss}", [batch], step)
                self._accelerator.backward(output.loss * share / len(batches))
            report.update({"loss": loss / len(batches), **counts})
        report.update({"gradient_norm": self._update(batches, step), "steps": 1})
        return report

    def _update(self, batches: Sequence[Any], step: int) -> float:
        """Clip the gradient and take the step; returns the gradient's norm before."""
        norm = float(self._accelerator.clip_grad_norm_(self._task.module.parameters(), self._clip_norm))
        if not math.isfinite(norm) and self._accelerator.scaler is None:  # a scaler passes over such a step itself
            raise self._divergence(f"the gradient's norm is {norm}", batches, step)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def _divergence(self, what: str, batches: Sequence[Any], step: int) -> CaptionerError:
        with self._accelerator.autocast():
            own = [self._task.describe(batch) for batch in batches]
        found = [examples for process in self._processes.gather(own) for examples in process]
        saved = checkpoint.list_checkpoints(self._run)
        again = f"resume {saved[-1]}" if saved else "start again"
        return CaptionerError(
            f"{what} at step {step} on {self._name(found, step)}; "
            f"{again} with a lower --optim.lr or --trainer.precision fp32"
        )

    def _name(self, found: Sequence[Examples], step: int) -> str:
        """The examples in words, those with a loss that is not finite by itself first."""
        faulty = list(dict.fromkeys(name for examples in found for name in examples.faulty))
        others = [name for name in dict.fromkeys(name for one in found for name in one.names) if name not in faulty]
        listed, more = [*faulty, *others], ""
        if len(listed) > LONGEST_LIST:
            path = self._run / f"not-finite-{step:08d}.txt"
            if self._processes.is_main:
                with warn_instead_of_stop(f"{path} is not written"):
                    write_text(path, "".join(f"{name}\n" for name in listed))
            more = f" and others, all {len(listed)} in {path}"
            faulty, others = faulty[:LONGEST_LIST], others[: max(0, LONGEST_LIST - len(faulty))]
        parts = [f"{', '.join(faulty)} (the loss of each alone is not finite)"] if faulty else []
        parts += [", ".join(others)] if others else []
        return f"{found[0].kind} {', beside '.join(parts)}{more}"
