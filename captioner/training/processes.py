"""What the processes of one run tell each other; a single process is the smallest case, and hears only itself."""

import contextlib
import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import nn

from captioner.errors import CheckpointError
from captioner.tasks.base import StepOutput, Task
from captioner.training.states import load_module_state, load_random_state, module_state, random_state

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Processes:
    """All processes of a run, seen from one of them. Whatever one of them calls, all must call, in the same order."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.rank, self.count = accelerator.process_index, accelerator.num_processes
        self.is_main = accelerator.is_main_process

    def share(self, output: StepOutput) -> tuple[float, Counter[str], float]:
        """The loss of a batch that the processes share out, its report, and the factor of this process's own loss.

        Data parallelism averages gradients over processes, whatever each of them holds. With its loss times the factor
        the average is the gradient of the mean over all that the batch holds, as if one process had all of it.
        """
        loss = float(output.loss.detach())
        if self.count == 1:
            return loss, Counter(output.report), 1.0
        own = [loss * output.weight, output.weight, *output.report.values()]
        device = self.accelerator.device
        total, weight, *counts = self.accelerator.reduce(torch.tensor(own, dtype=torch.float64, device=device)).tolist()
        report = Counter(dict(zip(output.report, counts, strict=True)))
        weight = weight or 1.0  # a batch of which no process could read anything
        return total / weight, report, output.weight * self.count / weight

    def agree(self, value: Any) -> Any:
        """The main process's value."""
        if self.count == 1:
            return value
        return broadcast_object_list([value])[0]

    def read_as_main(self, read: Callable[[], Result]) -> tuple[Result | None, str]:
        """What is read where the main process can read it too, or None and what it met; all go the same way.

        Raises CheckpointError where the main process can read it and this one cannot.
        """
        result, problem = None, None
        try:
            result = read()
        except CheckpointError as error:
            problem = error
        if met := self.agree(str(problem or "")):
            return None, met
        if problem:
            raise problem
        return result, ""

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in their order."""
        return gather_object([value])

    def one_after_another(self, make: Callable[[], Result]) -> Result:
        """Let the main process make something on the disk, then the first one of every machine, then the others.

        What one of them has made, those that share its disk find there.
        """
        made = []
        turn = 0 if self.is_main else 1 if self.accelerator.is_local_main_process else 2
        for number in range(3 if self.count > 1 else 1):
            if number == turn:
                made.append(make())
            self.accelerator.wait_for_everyone()
        return made[0]

    def first_signal(self, caught: Sequence[int]) -> int:
        """A signal that any of them has caught, 0 for none: all stop after the same step."""
        own = caught[0] if caught else 0
        if self.count == 1:
            return own
        return max(self.accelerator.gather(torch.tensor([own], device=self.accelerator.device)).tolist())

    def part_random_states(self, seed: int) -> None:
        """Let every process but the first draw its own numbers, or dropout would fall on the same places in all."""
        if self.rank:
            torch.manual_seed(seed + self.rank)

    def gather_states(self, task: Task) -> dict[str, Any]:
        """What a checkpoint holds of each process: its generators and its place in the data, the main one's first."""
        main, *others = self.gather({"random": random_state(), "place": task.place()})
        return {**main, "others": others}

    def check_states(self, task: Task, content: dict[str, Any], *, origin: Path) -> None:
        """Raise CheckpointError for another number of processes within an epoch that was shared out between them."""
        saved = len(_states(content))
        if saved != self.count and content["position"] and task.split_by_process:
            raise CheckpointError(
                f"{origin} was saved within an epoch that {saved} processes had shared out between them, now "
                f"there are {self.count}; resume it with {saved}, or name a step at the end of an epoch"
            )

    def restore_states(self, task: Task, content: dict[str, Any], *, origin: Path) -> None:
        """Take up this process's part of what ``gather_states`` gave, where there are as many processes as then.

        Raises what ``check_states`` raises.
        """
        self.check_states(task, content, origin=origin)
        saved = _states(content)
        if len(saved) == self.count:
            load_random_state(saved[self.rank]["random"])
            task.go_to(saved[self.rank].get("place", {}))
        elif self.rank == 0:
            load_random_state(content["random"])
            logger.warning(
                "%s was saved by %d processes and goes on with %d: dropout draws other numbers from here on",
                *(origin, len(saved), self.count),
            )

    def quieten(self) -> None:
        """Leave it to the main process to tell what all of them would tell; errors come from each."""
        if not self.is_main:
            logging.getLogger("captioner").setLevel(logging.ERROR)

    def part(self) -> None:
        """Nothing is told from here on: each of them may end when it likes."""
        if self.count > 1:
            self.accelerator.state.destroy_process_group()

    def copy_if_sharded(self, module: nn.Module) -> nn.Module | None:
        """A copy for ``whole_module`` of a module that FSDP is about to shard, None for other ways of training."""
        return copy.deepcopy(module) if self.accelerator.is_fsdp2 else None

    @contextlib.contextmanager
    def whole_module(self, task: Task, copied: nn.Module | None) -> Iterator[None]:
        """Inside, the task's module is one that every process can use by itself, for validation and export.

        A sharded module answers only to all processes at once, through its ``forward``; decoding calls its parts.
        """
        if copied is None:
            yield
            return
        sharded = task.module
        load_module_state(copied, module_state(sharded), origin=Path("the sharded model"))
        task.module = copied.to(self.accelerator.device).eval()
        try:
            yield
        finally:
            task.module = sharded
            copied.cpu()


def _states(content: dict[str, Any]) -> list[dict[str, Any]]:
    """What a checkpoint holds of each process; the first checkpoints knew of one only."""
    return [content, *content.get("others", [])]
