import math

import pytest
import torch
from torch import nn

from captioner.settings import OptimSettings, ScheduleSettings
from captioner.training.optim import (
    build_optimizer,
    layers_below_top,
    learning_rate_factor,
    parameter_groups,
    set_learning_rate,
)

SETTINGS = OptimSettings(lr=1e-2, encoder_lr=1e-4, weight_decay=0.1, betas=(0.8, 0.9))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 5, 4))
        self.convolution = nn.Conv2d(3, 4, 2)
        self.norm = nn.BatchNorm2d(4)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.embedding = nn.Embedding(6, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.output = nn.Linear(4, 6, bias=False)
        self.output.weight = self.embedding.weight  # tied: an embedding first of all


def test_groups_by_rule():
    groups = {tuple(group["names"]): group for group in parameter_groups(Network(), SETTINGS)}
    rates = {names: (group["lr"], group["peak_lr"], group["weight_decay"]) for names, group in groups.items()}
    encoder = ("encoder.cls_token", "encoder.position_embeddings", "encoder.convolution.bias")
    attention = ("attention.in_proj_bias", "attention.out_proj.bias")
    assert rates == {
        (*encoder, "encoder.norm.weight", "encoder.norm.bias"): (1e-4, 1e-4, 0.0),
        ("encoder.convolution.weight",): (1e-4, 1e-4, 0.1),
        ("embedding.weight", *attention, "norm.weight", "norm.bias"): (1e-2, 1e-2, 0.0),
        ("attention.in_proj_weight", "attention.out_proj.weight"): (1e-2, 1e-2, 0.1),
    }
    network = Network()
    parameters = dict(network.named_parameters())
    for group in parameter_groups(network, SETTINGS):
        assert all(parameters[name] is each for name, each in zip(group["names"], group["params"], strict=True))


class LayeredEncoder(nn.Module):
    """Embeddings, three blocks, each with a list of its own, and a norm."""

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(nn.ModuleDict({"parts": nn.ModuleList([nn.Linear(4, 4)] * 9)}) for _ in range(3))
        self.norm = nn.LayerNorm(4)


def test_layers_are_counted_from_the_top():
    depths = layers_below_top(LayeredEncoder())
    assert {name.removesuffix(".weight"): depth for name, depth in depths.items() if name.endswith("weight")} == {
        "embeddings": 4,
        "blocks.0.parts.0": 3,
        "blocks.1.parts.0": 2,
        "blocks.2.parts.0": 1,
        "norm": 0,
    }
    assert set(layers_below_top(Encoder()).values()) == {0}
    assert layers_below_top(None) == {}


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_a_layer_decay_lowers_the_rates_of_the_encoder_alone(decay):
    network = Network()
    network.encoder = LayeredEncoder()
    rates = {}
    for group in parameter_groups(network, OptimSettings(lr=1e-2, encoder_lr=1e-4, layer_decay=decay)):
        assert group["lr"] == group["peak_lr"]
        rates.update(dict.fromkeys(group["names"], group["peak_lr"]))
    assert rates["encoder.norm.weight"] == 1e-4
    assert rates["encoder.blocks.2.parts.0.bias"] == pytest.approx(1e-4 * decay)
    assert rates["encoder.blocks.0.parts.0.weight"] == pytest.approx(1e-4 * decay**3)
    assert rates["encoder.embeddings.weight"] == pytest.approx(1e-4 * decay**4)
    assert rates["attention.in_proj_weight"] == 1e-2


def test_optimizer_has_the_settings():
    optimizer = build_optimizer(Network(), SETTINGS)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.9)}
    assert all(group["fused"] for group in optimizer.param_groups)


def test_set_learning_rate_keeps_the_ratio_of_the_groups():
    optimizer = build_optimizer(Network(), SETTINGS)
    for factor in (0.5, 0.25):
        set_learning_rate(optimizer, factor)
        assert {group["lr"] for group in optimizer.param_groups} == {1e-2 * factor, 1e-4 * factor}


@pytest.mark.parametrize(
    ("kind", "floor", "factors"),
    [
        # Warm-up over 2 of 10 steps; then 0, 1/8 ... 7/8 of the way down.
        ("cosine", 0.0, {0: 1 / 3, 1: 2 / 3, 2: 1.0, 4: 0.5 + math.sqrt(0.125), 6: 0.5, 9: 0.0380602}),
        ("linear", 0.0, {0: 1 / 3, 1: 2 / 3, 2: 1.0, 4: 0.75, 6: 0.5, 9: 0.125}),
        ("constant", 0.0, {0: 1 / 3, 1: 2 / 3, 2: 1.0, 6: 1.0, 9: 1.0}),
        ("linear", 0.2, {0: 1 / 3, 2: 1.0, 6: 0.6, 9: 0.3}),
        ("cosine", 0.2, {2: 1.0, 6: 0.6, 10: 0.2, 15: 0.2}),  # a run that goes on past its total stays at the floor
    ],
)
def test_schedule(kind, floor, factors):
    settings = ScheduleSettings(kind=kind, warmup=0.2, floor=floor)
    for step, factor in factors.items():
        assert learning_rate_factor(step, total=10, settings=settings) == pytest.approx(factor, abs=1e-6), step


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.33, 1.0])
def test_schedule_starts_above_zero_and_rises_then_falls(warmup):
    settings = ScheduleSettings(warmup=warmup)
    factors = [learning_rate_factor(step, total=20, settings=settings) for step in range(20)]
    peak = factors.index(max(factors))
    assert min(factors) > 0
    assert max(factors) <= 1
    assert factors == sorted(factors[:peak]) + sorted(factors[peak:], reverse=True)
    assert peak == min(19, math.ceil(warmup * 20))
