"""The average of the weights: by hand, in the place of the weights, and through a whole run."""

from dataclasses import replace

import pytest
import torch
from interruptions import stop_at_eight
from torch import nn

from captioner.errors import CheckpointError
from captioner.settings import OptimSettings, Settings
from captioner.training import checkpoint, states
from captioner.training.averaging import WeightAverage
from captioner.training.signals import InterruptedTrainingError


def make_module():
    torch.manual_seed(0)
    module = nn.ModuleDict({"embedding": nn.Embedding(3, 2), "output": nn.Linear(2, 3), "norm": nn.BatchNorm1d(2)})
    module["frozen"] = nn.Linear(2, 2).requires_grad_(False)
    module["output"].weight = module["embedding"].weight
    return module


def change(module):
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.add_(torch.ones_like(tensor))


def test_average_is_the_recursion_with_a_decay_that_rises():
    module = make_module()
    average = WeightAverage(module, decay=0.3)
    expected = module["output"].bias.detach().clone()
    for step, decay in ((1, 2 / 11), (2, 3 / 12), (3, 0.3), (4, 0.3)):  # (1 + step) / (10 + step), at most 0.3
        change(module)
        average.update(step)
        expected = decay * expected + (1 - decay) * module["output"].bias.detach()
    torch.testing.assert_close(average.state()["output.bias"], expected)


def test_all_that_is_learnt_is_averaged_once_and_nothing_else():
    names = {"embedding.weight", "output.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    assert WeightAverage(make_module(), decay=0.9).state().keys() == names


def test_averages_are_in_place_inside_and_the_weights_come_back():
    module = make_module()
    average = WeightAverage(module, decay=0.9)
    change(module)
    average.update(1)
    newest = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    averages = {name: tensor.clone() for name, tensor in average.state().items()}
    with pytest.raises(ValueError, match="within"), average.in_place():  # noqa: PT012
        assert module["output"].weight.equal(averages["embedding.weight"])
        assert not module["output"].weight.equal(newest["embedding.weight"])
        assert module["norm"].running_mean.equal(averages["norm.running_mean"])
        raise ValueError("within")
    assert all(tensor.equal(newest[name]) for name, tensor in module.state_dict().items())
    assert all(tensor.equal(averages[name]) for name, tensor in average.state().items())


def test_state_comes_back_and_of_other_weights_it_is_refused():
    module = make_module()
    average, other = WeightAverage(module, decay=0.9), WeightAverage(make_module(), decay=0.9)
    change(module)
    average.update(1)
    other.load_state(average.state(), origin="run")
    assert all(tensor.equal(average.state()[name]) for name, tensor in other.state().items())
    with pytest.raises(CheckpointError, match=r"^run: 'norm.bias' is averaged in only one of checkpoint and settings"):
        other.load_state({name: each for name, each in average.state().items() if name != "norm.bias"}, origin="run")


@pytest.fixture
def averaging(change) -> Settings:
    return replace(change(epochs=2), optim=OptimSettings(lr=3e-3, encoder_lr=1e-3, ema=0.9))


def test_the_average_is_validated_and_exported_and_does_not_touch_what_is_learnt(tiny_run, make_run, change, averaging):
    plain, tasks, seen = make_run("plain"), [], []
    plain.train(settings=change(epochs=2))

    def alter(task):
        validate = task.validate
        task.validate = lambda: seen.append(states.module_state(task.module)) or validate()
        tasks.append(task)

    def on_best(metrics):
        seen.append({name: tensor.clone() for name, tensor in tasks[0].module.state_dict().items()})

    tiny_run.train(settings=averaging, alter=alter, on_best=on_best)
    newest, _ = checkpoint.find_checkpoint(tiny_run.folder)
    average, weights = checkpoint.read_tensors(newest, "average"), checkpoint.read_tensors(newest, "model")
    assert len(seen) == 3  # two validations, the first of them the best
    assert not average["projection.places.weight"].equal(weights["projection.places.weight"])
    without, _ = checkpoint.find_checkpoint(plain.folder)
    assert (newest / checkpoint.MODEL).read_bytes() == (without / checkpoint.MODEL).read_bytes()


def test_the_average_goes_on_exactly(tiny_run, make_run, averaging):
    with pytest.raises(InterruptedTrainingError):
        tiny_run.train(settings=averaging, alter=stop_at_eight)
    tiny_run.train(settings=averaging, resume=tiny_run.folder, seed=1)
    whole = make_run("whole")
    whole.train(settings=averaging)
    assert tiny_run.files() == whole.files()


def test_a_run_that_had_no_average_begins_one_with_its_weights(tiny_run, change, averaging, monkeypatch):
    tiny_run.train(settings=change(epochs=1))
    weights = checkpoint.read_tensors(checkpoint.find_checkpoint(tiny_run.folder)[0], "model")
    begun, start = [], WeightAverage.__init__

    def note(average, module, *, decay):
        start(average, module, decay=decay)
        begun.append({name: tensor.clone() for name, tensor in average.state().items()})

    monkeypatch.setattr(WeightAverage, "__init__", note)
    tiny_run.train(settings=averaging, resume=tiny_run.folder, seed=1)
    [first] = begun
    assert all(tensor.equal(weights[name]) for name, tensor in first.items())
