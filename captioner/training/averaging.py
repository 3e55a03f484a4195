"""The moving average of a network's weights, which is validated and exported in the place of the newest ones."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from captioner.errors import CheckpointError
from captioner.training.states import identity, shard_like, whole_tensor


class WeightAverage:
    """An exponential moving average of all that a module learns: its trained weights and its batch statistics.

    It smooths the last steps' noise out of the weights (Tarvainen and Valpola 2017, https://arxiv.org/abs/1703.01780).
    The decay is ``min(decay, (1 + step) / (10 + step))``, so that the first, random weights are soon forgotten
    (https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage).
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        """Begin with the weights as they are.

        Args:
            module: on its device, where it stays.
            decay: share of the average that a step leaves as it was, in (0, 1).
        """
        self._decay = decay
        self._newest = _learnt_tensors(module)
        self._averages = {name: tensor.clone() for name, tensor in self._newest.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after the step of that number, from 1."""
        average = get_ema_multi_avg_fn(min(self._decay, (1 + step) / (10 + step)))
        average(list(self._averages.values()), list(self._newest.values()), None)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the module has the averages in the place of its weights."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, average in self._averages.items():
            newest = self._newest[name].clone()
            self._newest[name].copy_(average)
            average.copy_(newest)

    def state(self) -> dict[str, Tensor]:
        """The averages on the CPU, by the names of the weights."""
        return {name: whole_tensor(tensor) for name, tensor in self._averages.items()}

    def load_state(self, tensors: dict[str, Tensor], *, origin: object) -> None:
        """Load what ``state`` gave; raises CheckpointError if it is of other weights."""
        wrong = sorted(tensors.keys() ^ self._averages.keys())
        if wrong:
            raise CheckpointError(
                f"{origin}: {wrong[0]!r} is averaged in only one of checkpoint and settings; resume with the run's own"
            )
        for name, average in self._averages.items():
            value = tensors[name]
            average.copy_(shard_like(average, value) if isinstance(average, DTensor) else value)


def _learnt_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The live tensors that training changes, tied ones once; counters are left out."""
    frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
    tensors, seen = {}, set()
    for name, variable in module.state_dict(keep_vars=True).items():
        if name not in frozen and variable.is_floating_point() and identity(variable) not in seen:
            seen.add(identity(variable))
            tensors[name] = variable.detach()
    return tensors
