"""Where a run's numbers go: metrics.jsonl always, Weights & Biases and TensorBoard when asked for."""

import contextlib
import importlib.util
import json
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from captioner.errors import ConfigError
from captioner.settings import TrackingSettings
from captioner.training.growing_file import GrowingFile
from captioner.training.tensorboard_tracker import TensorBoardTracker
from captioner.training.wandb_tracker import WandbTracker
from captioner.whole_writes import write_text

logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """A place for metrics."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of a step."""

    def close(self) -> None:
        """Write out what is pending."""


class JsonLinesTracker:
    """``metrics.jsonl``: one JSON object a line, each with its step; no clock, so a resumed run's file is the same."""

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        """Append to ``path``; lines after ``resume_step``, and torn ones, are dropped: they will be logged again."""
        self._path, self._warned = path, False
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(path) if line["step"] <= resume_step] if resume_step else []
        # A process may have died after logging a step's validation and before saving it: logged again, it is the same.
        self._logged = {_name_line(line) for line in kept if line["step"] == resume_step}
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if not path.exists() or path.read_bytes() != text.encode():
            write_text(path, text)
        self._file = GrowingFile(path)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append a line; where that fails it waits for the next one, or for ``flush``, with a warning."""
        line = {"step": step, **{name: _finite(value) for name, value in metrics.items()}}
        if _name_line(line) in self._logged:
            return
        with self._warning():
            self._file.append(json.dumps(line))

    def flush(self) -> None:
        """Write what waits, and see all lines onto the disk; where that fails they wait on, with a warning."""
        with self._warning():
            self._file.write(to_disk=True)

    def close(self) -> None:
        """Write what waits; a warning tells what is lost."""
        self.flush()
        if self._file.waiting:
            logger.warning("%s: its last %d lines are lost", self._path, self._file.waiting)

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        """Turn a failed write into a warning, once until there is space again."""
        try:
            yield
            self._warned = False
        except OSError as error:
            if not self._warned:
                logger.warning(
                    "cannot write %s (%s): its lines wait in memory until that is mended",
                    *(self._path, error.strerror or error),
                )
            self._warned = True


def _name_line(line: dict[str, Any]) -> tuple[int, frozenset[str]]:
    return line["step"], frozenset(line)


def _finite(value: Any) -> Any:
    """The value, or None for infinity and NaN, which JSON does not have."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl, none if there is no such file; torn ones are passed over with a warning."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            line = json.loads(text)
            lines.append({**line, "step": int(line["step"])})
        except (ValueError, TypeError, KeyError, OverflowError):
            logger.warning("%s: passed over a torn line", path)
    return lines


class Trackers:
    """Several trackers as one; a failing one is dropped with a warning, except that metrics.jsonl goes on."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Record the metrics of a step everywhere."""
        for tracker in list(self._trackers):
            try:
                tracker.log(step, metrics)
            except Exception as error:  # a tracker is a foreign service: whatever it raises must not stop training
                if isinstance(tracker, JsonLinesTracker):  # ours: a fault of the program
                    raise
                logger.warning("tracking with %s stopped: %s", type(tracker).__name__, error)
                self._trackers.remove(tracker)

    def flush(self) -> None:
        """See metrics.jsonl onto the disk, before a checkpoint that will not log its lines again."""
        for tracker in self._trackers:
            if isinstance(tracker, JsonLinesTracker):
                tracker.flush()

    def close(self) -> None:
        """Write out what is pending everywhere."""
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:  # as above
                logger.warning("%s did not close: %s", type(tracker).__name__, error)


def check_trackers(settings: TrackingSettings) -> None:
    """Raise ConfigError if a tracker that is asked for is not installed."""
    for name, wanted in (("wandb", settings.wandb), ("tensorboard", settings.tensorboard)):
        if wanted and importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"tracking.{name}: {name} is not installed; run `pip install {name}`, or train with "
                f"--tracking.no-{name}"
            )


def open_trackers(
    settings: TrackingSettings,
    *,
    run: Path,
    config: dict[str, Any],
    resume_step: int = 0,
    pictures: Callable[[], Sequence[Image]] = tuple,
) -> Trackers:
    """The trackers that the settings ask for; one that cannot start is left out with a warning.

    Args:
        settings: which ones.
        run: the run's folder; its name is the curves' name.
        config: the run's settings.
        resume_step: the step that the run goes on from; later lines are dropped, they will be logged again.
        pictures: gives the images of the sample captions of a validation, in their order.
    """
    trackers: list[Tracker] = [JsonLinesTracker(run / "metrics.jsonl", resume_step=resume_step)]

    def add(open_tracker: Callable[[Sequence[Image]], Tracker]) -> None:
        try:
            trackers.append(open_tracker(pictures()))
        except Exception as error:  # as above
            logger.warning("a tracker could not start: %s", error)

    if settings.wandb:
        add(lambda shown: WandbTracker(settings, name=run.name, folder=run, config=config, pictures=shown))
    if settings.tensorboard:
        add(lambda shown: TensorBoardTracker(run, config=config, resume_step=resume_step, pictures=shown))
    return Trackers(trackers)
