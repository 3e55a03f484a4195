"""The Task protocol: all that the training loop knows of what it trains."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class StepOutput:
    """What one batch gives."""

    loss: Tensor
    """A scalar to minimise."""
    report: Mapping[str, float]
    """Counts that the loop sums up, such as pairs and tokens."""
    weight: float = 1.0
    """How much the loss is the mean of, such as tokens: what it weighs beside other processes' losses."""


@dataclass(frozen=True)
class Examples:
    """What a batch was made of."""

    kind: str
    """What they are, such as ``images``."""
    names: tuple[str, ...]
    faulty: tuple[str, ...] = ()
    """Those of them whose loss alone is not finite."""


@dataclass(frozen=True)
class Monitor:
    """The validation metric that decides which checkpoint is best."""

    metric: str
    direction: Literal["max", "min"]

    def improves(self, value: float, best: float | None) -> bool:
        """Whether ``value`` beats ``best``; anything but NaN beats None."""
        if best is None:
            return not math.isnan(value)
        return value > best if self.direction == "max" else value < best


class Task(Protocol):
    """A model, its batches, its loss and its validation."""

    module: nn.Module
    monitor: Monitor
    split_by_process: bool
    """Whether another number of processes gives other batches, so that an epoch must end with as many as it began."""

    def batches_per_epoch(self) -> int:
        """Number of batches of a training epoch."""

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[Any]:
        """The training batches of an epoch from number ``start`` on, the same ones whenever asked."""

    def place(self) -> dict[str, Any]:
        """What lets ``go_to`` find the newest batch's end quickly, as JSON values; empty where nothing helps."""

    def go_to(self, place: Mapping[str, Any]) -> None:
        """Remember a ``place`` for the next call of ``batches``; what that gives does not depend on it."""

    def loss(self, batch: Any) -> StepOutput:
        """The loss of one batch, on the module's device."""

    def describe(self, batch: Any) -> Examples:
        """Which examples a batch holds, for an error message; the run ends after that."""

    def validate(self) -> dict[str, Any]:
        """Metrics on the validation split, the monitored one among them, and ``samples``: captions to look at."""
