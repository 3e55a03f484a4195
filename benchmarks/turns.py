"""Trainings that take turns: each in a process of its own, which works only while it is its turn.

So all of them run as they always do, beside the same other work of the machine, and each one's peak memory is its own.
"""

import multiprocessing
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

# Not forked: a fork inherits torch's threads in a broken state.
Process: Callable[..., Any] = multiprocessing.get_context("spawn").Process


class TurnsOver(BaseException):
    """Ends a training whose turns are over; no training catches it by mistake."""


@dataclass
class Turn:
    """What a training did in one turn, or in all of them."""

    seconds: float = 0.0
    steps: int = 0
    pairs: int = 0
    tokens: int = 0
    """Tokens that were learnt from: words and ends of captions, no padding."""
    memory: int = 0
    """Peak bytes so far: of the GPU where there is one, else resident."""

    def __add__(self, other: "Turn") -> "Turn":
        names = ("seconds", "steps", "pairs", "tokens")
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        return Turn(**sums, memory=max(self.memory, other.memory))


class Pacer:
    """A training's side: it tells of every step, and is held between its turns."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._turn, self._seconds, self._started = Turn(), 0.0, 0.0

    def begin(self) -> None:
        """Wait for the first turn; all is built."""
        self._connection.send(Turn())
        self._wait()

    def step_done(self, *, pairs: int, tokens: int) -> None:
        """Count a step; where the turn's time is up, report and wait for the next turn."""
        turn = self._turn
        turn.steps, turn.pairs, turn.tokens = turn.steps + 1, turn.pairs + pairs, turn.tokens + tokens
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        turn.seconds = time.perf_counter() - self._started
        if turn.seconds >= self._seconds:
            turn.memory = peak_memory()
            self._connection.send(turn)
            self._wait()

    def _wait(self) -> None:
        try:
            seconds = self._connection.recv()
        except EOFError:
            seconds = None
        if seconds is None:
            raise TurnsOver
        self._seconds, self._turn, self._started = seconds, Turn(), time.perf_counter()


def peak_memory() -> int:
    """Bytes of this process at its peak: on the GPU where it uses one, else resident."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage() would count what the process that started this one had
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _run(connection: Connection, train: Callable[..., None], arguments: Sequence[Any], threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        train(*arguments, Pacer(connection))
    except TurnsOver:
        return
    except BaseException:  # the benchmark's side raises it
        connection.send(traceback.format_exc())


@dataclass
class Contestant:
    """The benchmark's side of one training."""

    name: str
    train: Callable[..., None]
    """Trains with the arguments and a Pacer, endlessly."""
    arguments: Sequence[Any]
    total: Turn = field(default_factory=Turn)
    """All turns, without the first."""
    first: Turn = field(default_factory=Turn)
    """The first step, with what is done only once, such as compiling."""

    def start(self, *, threads: int) -> Turn:
        """Start it and let it take one step, which does what is done only once and does not count."""
        self._connection, theirs = multiprocessing.Pipe()
        self._process = Process(target=_run, args=(theirs, self.train, self.arguments, threads), daemon=True)
        self._process.start()
        self._receive()
        self.first = self._take_turn(0.0)
        return self.first

    def take_turn(self, seconds: float) -> None:
        """Let it train for so many seconds, and to the end of the step it is in then."""
        self.total = self.total + self._take_turn(seconds)

    def stop(self) -> None:
        """End it."""
        self._connection.send(None)
        self._process.join()

    def _take_turn(self, seconds: float) -> Turn:
        self._connection.send(seconds)
        return self._receive()

    def _receive(self) -> Turn:
        while not self._connection.poll(1.0):
            if not self._process.is_alive():
                raise RuntimeError(f"{self.name} ended by itself")
        answer = self._connection.recv()
        if isinstance(answer, str):
            raise RuntimeError(f"{self.name} failed:\n{answer}")
        return answer


def take_turns(contestants: Sequence[Contestant], *, rounds: int, seconds: float, threads: int) -> None:
    """Start all, then let them train in turn, each going first in its round."""
    for contestant in contestants:
        contestant.start(threads=threads)
    for number in range(rounds):
        first = number % len(contestants)
        for contestant in [*contestants[first:], *contestants[:first]]:
            contestant.take_turn(seconds)
    for contestant in contestants:
        contestant.stop()
