"""The state of weights, optimizer and random generators, as tensors by name and as JSON values, and back."""

import base64
import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from captioner.errors import CheckpointError


def module_state(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and buffers on the CPU, tied weights once."""
    tensors, seen = {}, set()
    for name, tensor in module.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        tensors[name] = tensor.detach().cpu().contiguous()
    return tensors


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
    module.load_state_dict(tensors, strict=False)


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors ``<parameter>/<quantity>``; its groups carry their parameters' names."""
    tensors = {}
    for name, parameter in _named(optimizer):
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{name}/{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
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
