"""Parameter groups by rule, AdamW, and the learning rate over time."""

import math

import torch
from torch import nn

from captioner.settings import OptimSettings, ScheduleSettings


def parameter_groups(module: nn.Module, settings: OptimSettings) -> list[dict]:
    """Groups for an optimizer: matrices decay, biases, norms and embeddings do not; an encoder has its own rate.

    With ``layer_decay`` below 1, that rate falls from each of the encoder's layers to the one before (Bao et al. 2022,
    https://arxiv.org/abs/2106.08254, section 3.2), so that what is general changes least.

    A bare parameter that is not called ``weight``, such as a Vision Transformer's class token or its positions, is an
    embedding too.

    Each group carries its peak learning rate as ``peak_lr`` and its parameters' names as ``names``.
    """
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    below_top = layers_below_top(getattr(module, "encoder", None))
    groups: dict[tuple[bool, bool, float], dict] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = parameter.ndim >= 2 and name.endswith("weight") and id(parameter) not in embeddings
        of_encoder = name.startswith("encoder.")
        rate = settings.lr
        if of_encoder:
            rate = settings.encoder_lr * settings.layer_decay ** below_top[name.removeprefix("encoder.")]
        group = groups.setdefault(
            (decays, of_encoder, rate),
            {"params": [], "names": [], "lr": rate, "peak_lr": rate, "weight_decay": settings.weight_decay * decays},
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return list(groups.values())


def layers_below_top(encoder: nn.Module | None) -> dict[str, int]:
    """How many layers lie above each of an encoder's parameters, by name; nothing without an encoder.

    Its layers are the longest list of modules that is in no other list, such as a Vision Transformer's blocks or a
    ResNet's stages. What comes before the list, such as embeddings, is one layer more; what comes after it is the top.
    """
    if encoder is None:
        return {}
    lists: dict[str, int] = {}
    for name, part in encoder.named_modules():
        if isinstance(part, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in lists):
            lists[name] = len(part)
    longest, count = max(lists.items(), key=lambda item: item[1], default=("", 0))
    below: dict[str, int] = {}
    layer = 0 if count else 1  # of the parameter before
    for name, _ in encoder.named_parameters():
        if count and name.startswith(f"{longest}."):
            layer = 1 + int(name.removeprefix(f"{longest}.").split(".")[0])
        elif layer:
            layer = count + 1
        below[name] = count + 1 - layer
    return below


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
