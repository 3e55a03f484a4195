"""Weights, optimizer and random generators come back as they were."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from captioner.errors import CheckpointError
from captioner.training import states


def make_tied():
    module = nn.ModuleDict(
        {"embedding": nn.Embedding(3, 2), "output": nn.Linear(2, 3, bias=False), "norm": nn.BatchNorm1d(2)}
    )
    module["output"].weight = module["embedding"].weight
    return module


def test_tied_weights_are_stored_once_and_tied_when_loaded(tmp_path):
    module, other = make_tied(), make_tied()
    module["norm"].num_batches_tracked += 7
    tensors = states.module_state(module)
    assert sorted(tensors) == [
        "embedding.weight",
        *(f"norm.{name}" for name in ("bias", "num_batches_tracked", "running_mean", "running_var", "weight")),
    ]
    states.load_module_state(other, tensors, origin=tmp_path)
    assert other["output"].weight is other["embedding"].weight
    assert torch.equal(other["output"].weight, module["output"].weight)
    assert other["norm"].num_batches_tracked == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"embedding.weight": torch.zeros(4, 2)},
            r"run: 1 weights do not fit the settings \(first: embedding.weight\)",
        ),
        ({"encoder.weight": torch.zeros(1)}, r"run: 1 weights do not fit the settings \(first: encoder.weight\)"),
    ],
)
def test_weights_of_other_settings(change, message):
    module = make_tied()
    with pytest.raises(CheckpointError, match=message):
        states.load_module_state(module, {**states.module_state(module), **change}, origin=Path("run"))


def test_optimizer_of_other_settings():
    module = nn.Linear(1, 1)
    optimizer = torch.optim.AdamW([{"params": [module.weight], "names": ["weight"]}])
    tensors = {"bias/exp_avg": torch.zeros(1)}
    with pytest.raises(
        CheckpointError, match=r"^run: 'bias' is not trained by these settings; resume with the run's own$"
    ):
        states.load_optimizer_state(optimizer, tensors, origin=Path("run"))


def test_optimizer_state_comes_back():
    def make():
        module = nn.Linear(2, 1)
        return module, torch.optim.AdamW([{"params": [module.weight, module.bias], "names": ["weight", "bias"]}])

    (module, optimizer), (_, other) = make(), make()
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    tensors = states.optimizer_state(optimizer)
    assert sorted(tensors) == [
        f"{name}/{key}" for name in ("bias", "weight") for key in ("exp_avg", "exp_avg_sq", "step")
    ]
    states.load_optimizer_state(other, tensors, origin=Path("run"))
    torch.testing.assert_close(other.state_dict()["state"], optimizer.state_dict()["state"], rtol=0, atol=0)


def draw():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(2).tolist()


def test_random_state_survives_json():
    random.gauss(0, 1), np.random.randn()  # each keeps a second number back
    state = json.loads(json.dumps(states.random_state()))
    first = draw()
    states.load_random_state(state)
    assert draw() == first


def test_random_state_is_preserved_also_through_an_error():
    state = states.random_state()
    first = draw()
    states.load_random_state(state)
    with pytest.raises(ValueError, match="drawn"), states.preserved_random_state():  # noqa: PT012
        draw()
        raise ValueError("drawn")
    assert draw() == first
