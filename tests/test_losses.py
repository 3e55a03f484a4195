import math

import pytest
import torch

from captioner.data.batches import IGNORED
from captioner.losses import caption_cross_entropy

LOGITS = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [math.log(7), 0.0, 0.0, 0.0], [9.0, -9.0, 3.0, 1.0]]])


def test_the_mean_is_over_the_targets_that_are_not_ignored():
    """By hand: one in four, and seven in ten."""
    loss = caption_cross_entropy(LOGITS, torch.tensor([[2, 0, IGNORED]]))
    assert loss.item() == pytest.approx((math.log(4) - math.log(0.7)) / 2, abs=1e-6)


def test_ignored_places_have_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    caption_cross_entropy(logits, torch.tensor([[2, 0, IGNORED]]), label_smoothing=0.1).backward()
    assert logits.grad[0, 2].abs().max() == 0
    assert (logits.grad[0, :2].abs().sum(dim=-1) > 0).all()


def test_smoothing_mixes_the_target_with_the_even_distribution():
    targets, smoothing = torch.tensor([[2, 0, 1]]), 0.2
    log_probabilities = LOGITS.log_softmax(dim=-1)
    share = torch.nn.functional.one_hot(targets, 4) * (1 - smoothing) + smoothing / 4
    expected = -(share * log_probabilities).sum(dim=-1).mean()
    loss = caption_cross_entropy(LOGITS, targets, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_half_precision_logits_are_summed_in_full_precision():
    logits = torch.randn(2, 5, 4000, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.arange(10).view(2, 5)
    loss = caption_cross_entropy(logits, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(caption_cross_entropy(logits.double(), targets).item(), rel=1e-6)
