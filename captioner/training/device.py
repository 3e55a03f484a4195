"""Where and how exactly a run computes: device, precision and threads."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from captioner.errors import ConfigError
from captioner.settings import Settings

PATIENCE = timedelta(hours=24)
"""How long processes wait for one another: one may be encoding the images of all. One that dies ends the others."""


def resolve_precision(precision: str, device: torch.device) -> str:
    """The precision that ``auto`` means: bf16 where the device multiplies it in hardware, else fp32.

    Raises ConfigError for fp16 without a GPU, whose gradients need scaling that CPUs do not have.
    """
    if precision == "fp16" and device.type != "cuda":
        raise ConfigError(f"trainer.precision=fp16 needs a CUDA GPU, this run is on {device.type}; use bf16 or fp32")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu":
        multiplies = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if multiplies else "fp32"
    return "fp32"


def build_accelerator(settings: Settings) -> Accelerator:
    """The accelerator for the settings' device and precision; torch is told the settings' number of threads.

    Raises ConfigError if there is no such device, or if it cannot compute in that precision.
    """
    wanted = settings.trainer.device
    _check_device(wanted)
    if ":" in wanted and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(f"trainer.device={wanted} is one GPU for several processes; use auto, each takes its own")
    # accelerate keeps one state a process; another run in this process may have had another device or precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    if wanted.startswith("cuda:"):
        torch.cuda.set_device(wanted)  # accelerate takes the current one
    if settings.trainer.threads:
        torch.set_num_threads(settings.trainer.threads)
    cpu = wanted == "cpu"
    precision = resolve_precision(settings.trainer.precision, PartialState(cpu=cpu, timeout=PATIENCE).device)
    return Accelerator(cpu=cpu, mixed_precision={"fp32": "no"}.get(precision, precision))


def _check_device(wanted: str) -> None:
    kind, _, number = wanted.partition(":")
    devices = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= devices:
        raise ConfigError(f"trainer.device={wanted}, but torch sees {devices} CUDA GPUs here; use auto or cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("trainer.device=mps, but torch sees no Apple GPU here; use auto or cpu")
