"""The state of weights, optimizer and random generators, as tensors by name and as JSON values, and back."""

import base64
import collections
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from captioner.errors import CheckpointError


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers on the CPU, tied weights once; of a sharded one, all processes must ask."""
    tensors, seen = {}, set()
    for name, variable in module.state_dict(keep_vars=True).items():
        if variable.numel() and identity(variable) in seen:
            continue
        seen.add(identity(variable))
        tensors[name] = whole_tensor(variable)
    return tensors


def identity(variable: Tensor) -> int:
    """The same for tied weights of ``state_dict(keep_vars=True)``, also where a process has no part of a shard."""
    return id(variable) if isinstance(variable, DTensor) else variable.data_ptr()


def whole_tensor(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, put together where FSDP has sharded it."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().cpu().contiguous()


def shard_like(parameter: Tensor, value: Tensor) -> Tensor:
    """This process's part of a value, as FSDP has sharded the parameter."""
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


def load_module_state(module: nn.Module, tensors: dict[str, Tensor], *, origin: Path) -> None:
    """Load what ``module_state`` gave; raises CheckpointError if names or shapes do not fit."""
    expected = module_state(module)
    wrong = sorted(expected.keys() ^ tensors.keys())
    wrong += [name for name in expected if name in tensors and expected[name].shape != tensors[name].shape]
    if wrong:
        raise CheckpointError(
            f"{origin}: {len(wrong)} weights do not fit the settings (first: {wrong[0]}); "
            "resume with the run's own settings"
        )
    present = module.state_dict()
    sharded = {
        name: shard_like(present[name], value) for name, value in tensors.items() if isinstance(present[name], DTensor)
    }
    module.load_state_dict({**tensors, **sharded}, strict=False)


@contextlib.contextmanager
def other_weights(module: nn.Module, *tensors: dict[str, Tensor], origin: Path) -> Iterator[None]:
    """Inside, the module has these weights, the later ones over the earlier; raises as ``load_module_state`` does."""
    own = {name: tensor.clone() for name, tensor in module_state(module).items()}
    load_module_state(module, dict(collections.ChainMap(*reversed(tensors))), origin=origin)
    try:
        yield
    finally:
        load_module_state(module, own, origin=origin)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors ``<parameter>/<quantity>``; its groups carry their parameters' names."""
    tensors = {}
    for name, parameter in _named(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = whole_tensor(torch.as_tensor(value))
    return tensors


def load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], *, origin: Path) -> None:
    """Load what ``optimizer_state`` gave; raises CheckpointError if it is of parameters that are not trained."""
    parameters = dict(_named(optimizer))
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        if name not in parameters:
            raise CheckpointError(f"{origin}: {name!r} is not trained by these settings; resume with the run's own")
        optimizer.state[parameters[name]][quantity] = _laid_out_like(parameters[name], value)


def _laid_out_like(parameter: nn.Parameter, value: Tensor) -> Tensor:
    """On the parameter's device, and in its memory format: fused kernels walk both in the order of memory."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    if isinstance(parameter, DTensor):
        return shard_like(parameter, value)
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _named(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, nn.Parameter]]:
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators as JSON values."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "torch": base64.b64encode(torch.get_rng_state().numpy().tobytes()).decode(),
    }
    if torch.cuda.is_available():
        states = torch.cuda.get_rng_state_all()
        state["cuda"] = [base64.b64encode(item.numpy().tobytes()).decode() for item in states]
    return state


def load_random_state(state: dict[str, Any]) -> None:
    """Restore what ``random_state`` gave."""
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes(state["torch"]))
    if "cuda" in state and torch.cuda.is_available():
        for device, item in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):  # perhaps fewer now
            torch.cuda.set_rng_state(_bytes(item), device)


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Whatever is drawn inside, the generators go on from where they were before."""
    state = random_state()
    try:
        yield
    finally:
        load_random_state(state)


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
