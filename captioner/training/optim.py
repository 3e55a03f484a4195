"""Parameter groups by rule, AdamW, and the learning rate over time."""

import math

import torch
from torch import nn

from captioner.settings import OptimSettings, ScheduleSettings


def parameter_groups(module: nn.Module, settings: OptimSettings) -> list[dict]:
    """Groups for an optimizer: matrices decay, biases, norms and embeddings do not; an encoder has its own rate.

    A bare parameter that is not called ``weight``, such as a Vision Transformer's class token or its positions, is an
    embedding too.

    Each group carries its peak learning rate as ``peak_lr`` and its parameters' names as ``names``.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    groups: dict[tuple[bool, bool], dict] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim >= 2 and name.endswith("weight") and id(parameter) not in embeddings
        of_encoder = name.startswith("encoder.")
        rate = settings.encoder_lr if of_encoder else settings.lr
        group = groups.setdefault(
            (decays, of_encoder),
            {"params": [], "names": [], "lr": rate, "peak_lr": rate, "weight_decay": settings.weight_decay * decays},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def build_optimizer(module: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101) with the fused kernel."""
    groups = parameter_groups(module, settings)
    fused = all(parameter.device.type in ("cpu", "cuda") for group in groups for parameter in group["params"])
    return torch.optim.AdamW(groups, betas=settings.betas, fused=fused)


def learning_rate_factor(step: int, *, total: int, settings: ScheduleSettings) -> float:
    """Share of the peak learning rate at a step: linear warm-up from zero, then decay to the floor.

    Args:
        step: number of the step, from 0.
        total: number of steps of the run.
        settings: shape of the curve.
    """
    warmup = settings.warmup * total
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1.0, total - warmup))
    decay = {
        "cosine": 0.5 * (1 + math.cos(math.pi * progress)),
        "linear": 1 - progress,
        "constant": 1.0,
    }[settings.kind]
    return settings.floor + (1 - settings.floor) * decay


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to ``factor`` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
