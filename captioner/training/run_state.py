"""Where a run stands, beside its weights, optimizer and random generators."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunState:
    """Where a run stands; all of it goes into every checkpoint."""

    step: int = 0
    """Optimizer steps taken."""
    epoch: int = 0
    """Number of the current epoch, from 0."""
    position: int = 0
    """Batches of the current epoch already used."""
    validated: int | None = None
    """Step of the newest validation."""
    best: float | None = None
    """Best value of the monitored metric."""
    best_step: int | None = None
    """Step of the best value."""
    best_metrics: dict[str, Any] = field(default_factory=dict)
    """All metrics of the best validation, with its step and epoch."""
    stale: int = 0
    """Validations since the best value."""
    sums: dict[str, float] = field(default_factory=dict)
    """What the reports since the last line of metrics.jsonl add up to."""

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "RunState":
        """The state that a checkpoint's state.json holds."""
        # The first checkpoints did not say when they were validated, and were written after a validation; nor did they
        # hold more of the best one than its value.
        older = {"validated": content["step"], "stale": 0, "best_metrics": {"step": content["best_step"]}}
        return cls(**{name: {**older, **content}[name] for name in cls.__dataclass_fields__})
