"""Ctrl-C and a polite kill: a run in training ends after its step, saved; what has no steps ends at once."""

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from captioner.errors import CaptionerError

logger = logging.getLogger(__name__)


class InterruptedTrainingError(CaptionerError):
    """A signal ended the training after its step."""

    def __init__(self, number: int, saved: Path | None) -> None:
        self.signal, self.saved = number, saved
        state = f"saved {saved}" if saved else "its newest state could not be saved"
        super().__init__(f"stopped by {signal.Signals(number).name}; {state}")


class StoppedError(KeyboardInterrupt):
    """A signal ended what had no step to wait for; like Ctrl-C, it is none of the errors that code goes on after."""

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(f"stopped by {signal.Signals(number).name}")


@contextlib.contextmanager
def caught_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted in the list instead of ending the process; a second one ends it as before."""
    caught: list[int] = []

    def note(number: int) -> None:
        caught.append(number)
        logger.warning("%s: saving after this step; once more to stop at once", signal.Signals(number).name)

    with _handled(note):
        yield caught


@contextlib.contextmanager
def raised_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise StoppedError; a second one ends the process as before."""

    def stop(number: int) -> None:
        raise StoppedError(number)

    with _handled(stop):
        yield


@contextlib.contextmanager
def _handled(handle: Callable[[int], None]) -> Iterator[None]:
    """Inside, the first SIGINT and the first SIGTERM do this; outside the main thread neither does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: object) -> None:
        signal.signal(number, previous[number])
        handle(number)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
