"""Weights & Biases: curves, settings, and sample captions with their images; training never waits for it."""

import logging
import os
import queue
import secrets
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from captioner.settings import TrackingSettings
from captioner.whole_writes import write_text

logger = logging.getLogger(__name__)

WANDB_ID = "wandb-id.txt"  # so that a resumed run goes on in its own curves
START_SECONDS = 30.0  # for the server to answer
FINISH_SECONDS = 60.0  # for what is pending, when training has ended
MOST_PENDING = 10_000  # lines that wait for a server that takes none


class WandbTracker:
    """Weights & Biases, online where an API key is known and the server answers, else offline; it never prompts.

    All of it, starting included, happens in a thread of its own.
    """

    def __init__(
        self,
        settings: TrackingSettings,
        *,
        name: str,
        folder: Path,
        config: dict[str, Any],
        pictures: Sequence[Image] = (),
    ) -> None:
        """Begin to track.

        Args:
            settings: with the project.
            name: of the curves.
            folder: where Weights & Biases keeps its files.
            config: the run's settings.
            pictures: the images of a validation's sample captions.
        """
        os.environ.setdefault("WANDB_SILENT", "true")  # its own lines would tear the progress bar
        import wandb  # here, and not in two threads at once

        self._wandb = wandb
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._pictures = folder, pictures
        self._options = {
            "project": settings.project,
            "id": _wandb_id(folder),
            "name": name,
            "dir": folder,
            "config": config,
            "resume": "allow",
        }
        self._lines: queue.Queue[tuple[int, dict[str, Any]] | None] = queue.Queue(MOST_PENDING)
        self._thread = threading.Thread(target=self._work, name="wandb", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Hand over the metrics that are numbers, and the sample captions; raises RuntimeError if it takes no more."""
        if not self._thread.is_alive():
            return
        try:
            self._lines.put_nowait((step, metrics))
        except queue.Full:
            raise RuntimeError(f"Weights & Biases took none of the last {MOST_PENDING} lines") from None

    def close(self) -> None:
        """Give what is pending some time to be sent."""
        try:
            self._lines.put_nowait(None)
        except queue.Full:
            return
        self._thread.join(START_SECONDS + FINISH_SECONDS)
        if self._thread.is_alive():
            logger.warning("Weights & Biases has not taken all yet; `wandb sync %s` uploads the rest", self._files())

    def _files(self) -> str:
        return str(self._folder / "wandb" / "*run-*")

    def _work(self) -> None:
        """Start, then send line after line."""
        run = None
        try:
            run = self._start()
            while (line := self._lines.get()) is not None:
                step, metrics = line
                run.log(self._content(metrics), step=step)
        except Exception as error:  # a foreign service: whatever it raises must not stop training
            logger.warning("Weights & Biases is off: %s", error)
        if run:
            try:
                run.finish()
            except Exception as error:  # as above
                logger.warning("Weights & Biases has not all: %s; `wandb sync %s` uploads it", error, self._files())

    def _start(self) -> Any:
        """The run, online if that can be."""
        wandb = self._wandb

        def start(mode: str) -> Any:
            settings = wandb.Settings(
                silent=True,
                console="off",
                init_timeout=START_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            )
            return wandb.init(**self._options, mode=mode, settings=settings)

        mode = _wandb_mode(wandb)
        try:
            return start(mode)
        except Exception as error:  # as above
            if mode != "online":
                raise
            reason = " ".join(str(error).split())
            logger.warning(
                "Weights & Biases cannot be reached (%s): logging offline, `wandb sync %s` uploads it later",
                reason,
                self._files(),
            )
            wandb.teardown()  # which still holds the run's id
            return start("offline")

    def _content(self, metrics: dict[str, Any]) -> dict[str, Any]:
        content: dict[str, Any] = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
        for key, value in metrics.items():
            if isinstance(value, list) and self._pictures:
                # The samples are those of the first images; where there are fewer captions, fewer are shown.
                pairs = zip(self._pictures, value, strict=False)
                content[key] = [self._wandb.Image(picture, caption=str(text)) for picture, text in pairs]
        return content


def _wandb_id(folder: Path) -> str:
    """The run's id at Weights & Biases, made up once."""
    path = folder / WANDB_ID
    if not path.exists():
        write_text(path, secrets.token_hex(4))
    return path.read_text()


def _wandb_mode(wandb: Any) -> str:
    """What WANDB_MODE says, but offline for online without an API key, where Weights & Biases would prompt."""
    mode = os.environ.get("WANDB_MODE") or "online"
    if mode == "online" and not wandb.login(prompt=False, verify=False):
        logger.warning("Weights & Biases has no API key here: logging offline, `wandb sync` uploads it later")
        return "offline"
    return mode
