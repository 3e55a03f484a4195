"""Where a run's time goes: seconds of each activity, in timings.jsonl, which is no part of what a resume repeats."""

import contextlib
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from captioner.training.growing_file import GrowingFile

logger = logging.getLogger(__name__)

TIMINGS = "timings.jsonl"
PREPARATION, FEATURES = "preparation", "features"
TRAINING, WAITING, VALIDATION, EXPORT, CHECKPOINT = "training", "waiting", "validation", "export", "checkpoint"
EVALUATION, UPLOAD = "evaluation", "upload"


class Stopwatch:
    """Seconds spent on each activity."""

    def __init__(self, activity: str = PREPARATION) -> None:
        """Start it; what is not named otherwise is this activity."""
        self._activity, self._since = activity, time.perf_counter()
        self._seconds: Counter[str] = Counter()

    @contextlib.contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Count what happens inside to another activity; within another one, to this alone."""
        outer = self._switch(activity)
        try:
            yield
        finally:
            self._switch(outer)

    def _switch(self, activity: str) -> str:
        before, now = self._activity, time.perf_counter()
        self._seconds[before] += now - self._since
        self._activity, self._since = activity, now
        return before

    def write(self, run: Path, step: int) -> None:
        """Append what was spent since the last time to the run's timings.jsonl; a full disk is a warning."""
        self._switch(self._activity)
        line = json.dumps({"step": step, **{name: round(value, 4) for name, value in self._seconds.items()}})
        try:
            GrowingFile(run / TIMINGS).append(line)
        except OSError as error:
            logger.warning("the times until step %d are not recorded: %s", step, error.strerror)
            return
        self._seconds.clear()


def read_timings(run: Path) -> dict[str, float]:
    """Seconds of each activity over all of a run's processes, damaged lines passed over; empty for an older run."""
    seconds: Counter[str] = Counter()
    path = run / TIMINGS
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError, AttributeError):
            line = json.loads(text)
            seconds.update({name: value for name, value in line.items() if name != "step" and _are_seconds(value)})
    return dict(seconds)


def _are_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < math.inf
