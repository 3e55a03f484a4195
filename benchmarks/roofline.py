"""What a step of the decoder must compute and move, and what the machine can: the roof over ``benchmarks.decoding``."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from captioner.models.packed_decoder import PackedDecoder
from captioner.models.packed_weights import multiplies_bf16

REPEATS = 5
STREAM_BYTES = 256 * 2**20
ITEM_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
"""Of a weight."""


@dataclass(frozen=True)
class Ceilings:
    """Of this machine, with the threads of this process."""

    operations: dict[str, float]
    """Multiplications and additions a second of a product of [1024, 1024] matrices, by precision."""
    bandwidth: float
    """Bytes a second that a sum over a large tensor reads."""


def measure_ceilings(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> Ceilings:
    """Measure the best of several repeats."""
    operations = {}
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        left, right = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
        operations[precision] = 2 * 1024**3 / _best_time(lambda left=left, right=right: left @ right, device, clock)
    if device.type == "cpu":
        left, right = (torch.randint(-127, 128, (1024, 1024), dtype=torch.int8) for _ in range(2))
        operations["int8"] = 2 * 1024**3 / _best_time(lambda: torch._int_mm(left, right), device, clock)
    stream = torch.ones(STREAM_BYTES // 4, device=device)
    return Ceilings(operations, STREAM_BYTES / _best_time(stream.sum, device, clock))


def describe_machine(ceilings: Ceilings, device: torch.device) -> dict[str, Any]:
    """What the figures hold for."""
    operations = ", ".join(f"{name} {value / 1e9:.0f}" for name, value in ceilings.operations.items())
    return {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {device}",
        "torch": torch.__version__,
        "ceilings": f"{operations} Gop/s, {ceilings.bandwidth / 1e9:.1f} GB/s",
        "bf16 in hardware": multiplies_bf16(device),
    }


def _best_time(work: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    times = []
    for _ in range(REPEATS + 1):
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times[1:])


@dataclass(frozen=True)
class StepCost:
    """What one step must do; attention over the captions themselves, which is small, is left out."""

    row_operations: float
    """Multiplications and additions for one beam: the products with the weights, and attention to the image."""
    weight_bytes: float
    """Weights read once a step, however many beams there are."""
    image_bytes: float
    """Keys and values of the image tokens, read once an image."""


def step_cost(packed: PackedDecoder, *, patches: int) -> StepCost:
    """The cost of a step from the decoder's shape."""
    shape = packed.settings
    weights = shape.layers * (6 + 2 * shape.feedforward) * shape.width**2 + packed.vocabulary_size * shape.width
    states = torch.empty(0, dtype=packed.dtype).element_size()
    return StepCost(
        row_operations=2 * weights + 4 * shape.layers * patches * shape.width,
        weight_bytes=weights * ITEM_BYTES[packed.precision],
        image_bytes=2 * shape.layers * patches * shape.width * states,
    )


def shortest_time(cost: StepCost, ceilings: Ceilings, precision: str, *, images: int, beams: int) -> float:
    """Seconds that a step cannot be faster than: the slower of computing and moving."""
    computing = images * beams * cost.row_operations / ceilings.operations[precision]
    moving = (cost.weight_bytes + images * cost.image_bytes) / ceilings.bandwidth
    return max(computing, moving)
