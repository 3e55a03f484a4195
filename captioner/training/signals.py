"""Ctrl-C and a polite kill: a run ends after the step it is in, with its state saved."""

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from captioner.errors import CaptionerError

logger = logging.getLogger(__name__)


class InterruptedTrainingError(CaptionerError):
    """A signal ended the run after its state was saved."""

    def __init__(self, number: int, saved: Path | None) -> None:
        self.signal, self.saved = number, saved
        state = f"saved {saved}" if saved else "its newest state could not be saved"
        super().__init__(f"stopped by {signal.Signals(number).name}; {state}")


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list instead of ending the process; a second one ends it as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: object) -> None:
        caught.append(number)
        signal.signal(number, previous[number])
        logger.warning("%s: saving after this step; once more to stop at once", signal.Signals(number).name)

    for number in previous:
        signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
