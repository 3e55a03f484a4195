"""Where a run's numbers go: metrics.jsonl always, Weights & Biases when asked for."""

import json
import logging
import math
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from captioner.settings import TrackingSettings
from captioner.training.checkpoint import write_text

logger = logging.getLogger(__name__)

WANDB_ID = "wandb-id.txt"  # so that a resumed run goes on in its own curves


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
        self._path, self._torn = path, False
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(path) if line["step"] <= resume_step] if resume_step else []
        # A process may have died after logging a step's validation and before saving it: logged again, it is the same.
        self._logged = {_name_line(line) for line in kept if line["step"] == resume_step}
        text = "".join(json.dumps(line) + "\n" for line in kept)
        if not path.exists() or path.read_bytes() != text.encode():
            write_text(path, text)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Append a line; where that fails, a warning says what is lost."""
        line = {"step": step, **{name: _finite(value) for name, value in metrics.items()}}
        if _name_line(line) in self._logged:
            return
        try:
            with self._path.open("a") as file:
                file.write("\n" * self._torn + json.dumps(line) + "\n")
            self._torn = False
        except OSError as error:
            self._torn = True
            logger.warning("metrics of step %d are lost: cannot write %s (%s)", step, self._path, error.strerror)

    def close(self) -> None:
        """Every line is on the disk already."""


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
        except (ValueError, TypeError, KeyError):
            logger.warning("%s: passed over a torn line", path)
    return lines


class WandbTracker:
    """Weights & Biases, online where an API key is known, else offline; it never prompts."""

    def __init__(self, settings: TrackingSettings, *, name: str, folder: Path, config: dict[str, Any]) -> None:
        import wandb

        self._run = wandb.init(
            project=settings.project,
            id=_wandb_id(folder),
            name=name,
            dir=folder,
            config=config,
            resume="allow",
            mode=_wandb_mode(),
            settings=wandb.Settings(silent=True, init_timeout=30),
        )

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Send the metrics that are numbers."""
        numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        self._run.log(numbers, step=step)

    def close(self) -> None:
        """Send what is pending."""
        self._run.finish()


def _wandb_id(folder: Path) -> str:
    """The run's id at Weights & Biases, made up once."""
    path = folder / WANDB_ID
    if not path.exists():
        write_text(path, secrets.token_hex(4))
    return path.read_text()


def _wandb_mode() -> str:
    """What WANDB_MODE says, but offline for online without an API key, where Weights & Biases would prompt."""
    import wandb

    mode = os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        logger.warning("Weights & Biases has no API key here: logging offline, `wandb sync` uploads it later")
        return "offline"
    return mode


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

    def close(self) -> None:
        """Write out what is pending everywhere."""
        for tracker in self._trackers:
            try:
                tracker.close()
            except Exception as error:  # as above
                logger.warning("%s did not close: %s", type(tracker).__name__, error)


def open_trackers(settings: TrackingSettings, *, run: Path, config: dict[str, Any], resume_step: int = 0) -> Trackers:
    """The trackers that the settings ask for; one that cannot start is left out with a warning."""
    trackers: list[Tracker] = [JsonLinesTracker(run / "metrics.jsonl", resume_step=resume_step)]
    if settings.wandb:
        try:
            trackers.append(WandbTracker(settings, name=run.name, folder=run, config=config))
        except Exception as error:  # as above
            logger.warning("Weights & Biases is off: %s", error)
    return Trackers(trackers)
