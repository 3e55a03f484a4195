"""Batches on the device that trains: a GPU gets the next one while it works on this one."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from captioner.data.batches import CaptionBatch


def on_device(batches: Iterable[CaptionBatch], device: torch.device) -> Iterator[CaptionBatch]:
    """Yield the batches on a device; to a CUDA one they are copied from pinned memory, beside the computation.

    The copy of the next batch is queued on a stream of its own before this one is handed out
    (https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html).
    """
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    stream = torch.cuda.Stream(device)
    waiting: CaptionBatch | None = None
    for batch in batches:
        following = _start_copy(batch, device, stream)
        if waiting is not None:
            yield waiting
        torch.cuda.current_stream(device).wait_stream(stream)
        waiting = following
    if waiting is not None:
        yield waiting


def _start_copy(batch: CaptionBatch, device: torch.device, stream: torch.cuda.Stream) -> CaptionBatch:
    with torch.cuda.stream(stream):
        tensors = {
            name: value.pin_memory().to(device, non_blocking=True)
            for name, value in vars(batch).items()
            if isinstance(value, Tensor)
        }
    for tensor in tensors.values():  # its memory is not given to others while the computation may still read it
        tensor.record_stream(torch.cuda.current_stream(device))
    return replace(batch, **tensors)
