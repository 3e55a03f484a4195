"""What a person sees of a running training: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """Steps done with loss, learning rate, pairs a second and time left, on standard error."""

    def __init__(self, total: int, *, done: int = 0, enabled: bool = True) -> None:
        """Progress over ``total`` steps of which ``done`` are done already."""
        self._total, self._done, self._enabled = total, done, enabled
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, initial=done, unit="step", dynamic_ncols=True, disable=not (enabled and self._terminal)
        )
        self._first, self._started, self._line = done, time.monotonic(), time.monotonic()
        self._pairs = 0.0

    def advance(self, *, loss: float, learning_rate: float, pairs: float) -> None:
        """One step is done."""
        self._done += 1
        self._pairs += pairs
        speed = self._pairs / max(1e-9, time.monotonic() - self._started)
        details = f"loss {loss:.3f}, lr {learning_rate:.1e}, {speed:.0f} pairs/s"
        self._bar.set_postfix_str(details, refresh=False)
        self._bar.update()
        if not self._terminal and time.monotonic() - self._line >= SECONDS_BETWEEN_LINES:
            self._line = time.monotonic()
            left = (self._line - self._started) / (self._done - self._first) * (self._total - self._done)
            self._write(f"step {self._done}/{self._total}: {details}, {left / 60:.1f} min left")

    def report(self, title: str, metrics: Mapping[str, float]) -> None:
        """A line of validation metrics."""
        self._write(f"{title}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))

    def _write(self, line: str) -> None:
        if self._enabled:
            tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        self._bar.close()
