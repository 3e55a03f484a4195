"""What a person sees of a running training: a bar on a terminal, plain lines elsewhere."""

import contextlib
import logging
import math
import sys
import time
from collections import deque
from collections.abc import Mapping

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from captioner.settings import TrainerSettings

SECONDS_BETWEEN_LINES = 10.0
RECENT_STEPS = 100
"""Speed and time left are those of the last so many steps, without the validations between them."""
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def count_steps(batches: int, trainer: TrainerSettings) -> int:
    """Optimizer steps of a whole run, as far as patience lets it go, with so many batches an epoch."""
    of_epochs = trainer.epochs * math.ceil(batches / trainer.gradient_accumulation)
    return min(trainer.max_steps or of_epochs, of_epochs)


def describe_steps(batches: int, trainer: TrainerSettings, *, begun: int) -> str:
    """How long a run goes on, in words, as in ``12 steps, which are 1.5 epochs of 8 batches``.

    Args:
        batches: of an epoch.
        trainer: epochs, steps and patience.
        begun: steps that were done before.
    """
    steps = count_steps(batches, trainer)
    epochs = steps / math.ceil(batches / trainer.gradient_accumulation)
    words = f"{round(epochs, 2):g} epochs of {batches} batches"
    if trainer.gradient_accumulation > 1:
        words += f", {trainer.gradient_accumulation} a step"
    if epochs < trainer.epochs:
        words = f"{steps} steps, which are {words}"
    if begun:
        words += f", {begun} steps are done"
    return f"at most {words}" if trainer.patience else words


class TrainingProgress:
    """Steps done with loss, learning rate, pairs a second and time left, on standard error."""

    def __init__(self, total: int, *, done: int = 0, enabled: bool = True) -> None:
        """Progress over ``total`` steps of which ``done`` are done already."""
        self._total, self._done, self._enabled = total, done, enabled
        self._terminal = sys.stderr.isatty()
        shown = enabled and self._terminal
        self._bar = tqdm(total=total, initial=done, dynamic_ncols=True, bar_format=BAR, disable=not shown)
        self._log_lines = contextlib.ExitStack()  # while the bar is there, log lines go above it
        if shown:
            self._log_lines.enter_context(logging_redirect_tqdm([logging.getLogger("captioner")]))
        self._before = self._line = time.monotonic()
        self._recent: deque[tuple[float, float]] = deque(maxlen=RECENT_STEPS)  # seconds and pairs of each step

    def advance(self, *, loss: float, learning_rate: float, pairs: float) -> None:
        """One step is done."""
        now = time.monotonic()
        self._recent.append((now - self._before, pairs))
        self._before = now
        self._done += 1
        self._bar.set_postfix_str(self._describe(loss, learning_rate), refresh=False)
        self._bar.update()
        if not self._terminal and now - self._line >= SECONDS_BETWEEN_LINES:
            self._line = now
            self._write(f"step {self._done}/{self._total}: {self._describe(loss, learning_rate)}")

    def _describe(self, loss: float, learning_rate: float) -> str:
        seconds, pairs = map(sum, zip(*self._recent, strict=True))
        left = seconds / len(self._recent) * (self._total - self._done)
        hours, minutes = divmod(left / 60, 60)
        time_left = f"{hours:.0f} h {minutes:.0f} min" if hours else f"{minutes:.1f} min"
        return f"loss {loss:.3f}, lr {learning_rate:.1e}, {pairs / max(seconds, 1e-9):.0f} pairs/s, {time_left} left"

    def report(self, title: str, metrics: Mapping[str, float]) -> None:
        """A line of validation metrics; what they took is no step's time."""
        self._write(f"{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        self._before = time.monotonic()

    def _write(self, line: str) -> None:
        if self._enabled:
            tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
        self._log_lines.close()
