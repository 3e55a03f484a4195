"""A loss or gradient that is not finite ends a run, names the examples and leaves the last checkpoint."""

from dataclasses import replace

import pytest
from line_task import LineTask, train

from captioner.errors import CaptionerError
from captioner.tasks.base import Examples
from captioner.training import checkpoint


class Diverging(LineTask):
    """The loss, or only its gradient, is infinite or no number in one batch."""

    def __init__(self, at, fault):
        super().__init__()
        self.at, self.fault = at, fault

    def loss(self, batch):
        output = super().loss(batch)
        return replace(output, loss=self.fault(output.loss)) if batch == self.at else output


def zero_with_infinite_slope(loss):
    return (loss - loss.detach()).square().sqrt()  # as the root at zero


@pytest.mark.parametrize(
    ("fault", "what"),
    [
        (lambda loss: loss * float("nan"), "the loss is nan at step 7 on points of batch 2; "),
        (lambda loss: loss * float("inf"), "the loss is inf at step 7 on points of batch 2; "),
        (zero_with_infinite_slope, "the gradient's norm is nan at step 7 on points of batch 2; "),
    ],
)
def test_divergence_names_the_examples_and_leaves_the_last_checkpoint(tmp_path, fault, what):
    with pytest.raises(CaptionerError) as stop:
        train(Diverging((1, 2), fault), tmp_path)
    last = tmp_path / "step-00000005"
    assert str(stop.value) == f"{what}resume {last} with a lower --optim.lr or --trainer.precision fp32"
    assert checkpoint.find_checkpoint(tmp_path)[0] == last
    assert train(LineTask(), tmp_path, resume=tmp_path).step == 10


@pytest.mark.parametrize("count", [64, 65])
def test_divergence_names_all_examples_those_at_fault_first(tmp_path, count):
    class Blaming(Diverging):
        def describe(self, batch):
            return Examples("points", tuple(map(str, range(count))), ("5", "3"))

    with pytest.raises(CaptionerError) as stop:
        train(Blaming((0, 1), lambda loss: loss * float("nan")), tmp_path)
    names = [name for name in map(str, range(count)) if name not in ("5", "3")]
    said = f"at step 1 on points 5, 3 (the loss of each alone is not finite), beside {', '.join(names[:62])}"
    path = tmp_path / "not-finite-00000001.txt"
    if count > 64:
        said += f" and others, all 65 in {path}"
        assert path.read_text().splitlines() == ["5", "3", *names]
    assert f"{said}; start again" in str(stop.value)
    assert path.exists() == (count > 64)


def test_divergence_before_the_first_checkpoint_sends_back_to_the_start(tmp_path):
    with pytest.raises(CaptionerError, match=r"at step 0 on points of batch 0; start again with a lower --optim.lr"):
        train(Diverging((0, 0), lambda loss: loss * float("nan")), tmp_path)


def test_module_is_handed_back_bare(tmp_path):
    task = Diverging((1, 2), lambda loss: loss * float("nan"))
    module = task.module
    with pytest.raises(CaptionerError):
        train(task, tmp_path)
    assert task.module is module
