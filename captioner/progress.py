"""Progress over a number of things: a bar on a terminal, plain lines in a log."""

import logging
import sys
import time
from types import TracebackType

from tqdm import tqdm

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts things done on standard error; without a terminal, a log line with percent, speed and time left."""

    def __init__(self, title: str, *, total: int | None, unit: str, enabled: bool = True) -> None:
        """Show the progress of ``title`` over ``total`` things called ``unit`` (None: nobody knows how many)."""
        self._title, self._total, self._unit = title, total, unit
        terminal = sys.stderr.isatty()
        self._lines = enabled and not terminal
        hidden = not (enabled and terminal)
        self._bar = tqdm(total=total, desc=title, unit=f" {unit}", dynamic_ncols=True, disable=hidden)
        self._done = self._skipped = 0
        self._started = self._line = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def skip(self, count: int) -> None:
        """So many were done before; they do not count for the speed."""
        self._skipped += count
        self._done += count
        if not self._bar.disable:
            self._bar.initial += count
            self._bar.n += count

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._line >= SECONDS_BETWEEN_LINES:
            self._line = now
            logger.info("%s", self._describe(now - self._started))

    def _describe(self, seconds: float) -> str:
        speed = (self._done - self._skipped) / max(seconds, 1e-9)
        if not self._total:
            return f"{self._title}: {self._done:,} {self._unit}, {speed:.1f} {self._unit}/s"
        minutes, rest = divmod(round((self._total - self._done) / max(speed, 1e-9)), 60)
        return (
            f"{self._title}: {100 * self._done // self._total} % ({self._done:,} of {self._total:,} {self._unit}),"
            f" {speed:.1f} {self._unit}/s, {minutes}:{rest:02d} left"
        )
