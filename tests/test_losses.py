import math

import pytest
import torch
from torch.nn import functional

from captioner import losses
from captioner.data.batches import IGNORED
from captioner.losses import caption_cross_entropy

LOGITS = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [math.log(7), 0.0, 0.0, 0.0], [9.0, -9.0, 3.0, 1.0]]])


def loss_of_logits(logits, targets, **options):
    """States whose output layer changes nothing."""
    return caption_cross_entropy(logits, torch.eye(logits.shape[-1], dtype=logits.dtype), targets, **options)


def test_the_mean_is_over_the_targets_that_are_not_ignored():
    """By hand: one in four, and seven in ten."""
    loss = loss_of_logits(LOGITS, torch.tensor([[2, 0, IGNORED]]))
    assert loss.item() == pytest.approx((math.log(4) - math.log(0.7)) / 2, abs=1e-6)


def test_ignored_places_have_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    loss_of_logits(logits, torch.tensor([[2, 0, IGNORED]]), label_smoothing=0.1).backward()
    assert logits.grad[0, 2].abs().max() == 0
    assert (logits.grad[0, :2].abs().sum(dim=-1) > 0).all()


def test_smoothing_mixes_the_target_with_the_even_distribution():
    targets, smoothing = torch.tensor([[2, 0, 1]]), 0.2
    log_probabilities = LOGITS.log_softmax(dim=-1)
    share = functional.one_hot(targets, 4) * (1 - smoothing) + smoothing / 4
    expected = -(share * log_probabilities).sum(dim=-1).mean()
    loss = loss_of_logits(LOGITS, targets, label_smoothing=smoothing)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def naive(states, weight, targets, *, label_smoothing=0.0):
    """All the logits at once, and torch's own loss."""
    logits = functional.linear(states, weight).float()
    return functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing
    )


def make_case(vocabulary=50, width=8):
    draw = torch.Generator().manual_seed(0)
    states = torch.randn(3, 7, width, generator=draw)
    weight = torch.randn(vocabulary, width, generator=draw)
    targets = torch.randint(0, vocabulary, (3, 7), generator=draw)
    targets[0, 4:] = targets[2, 6:] = IGNORED  # 17 are left
    return states.requires_grad_(), weight.requires_grad_(), targets


def gradients(loss, states, weight, scale=1.0):
    return torch.autograd.grad(loss * scale, (states, weight))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tokens", [1, 5, 17, 100])  # at once; five leave a rest of two
def test_logits_made_in_parts_give_the_value_and_gradients_of_all(monkeypatch, smoothing, tokens):
    states, weight, targets = make_case()
    monkeypatch.setitem(losses.LOGITS_AT_ONCE, "cpu", tokens * weight.shape[0])
    found = caption_cross_entropy(states, weight, targets, label_smoothing=smoothing)
    expected = naive(states, weight, targets, label_smoothing=smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradients(found, states, weight, 3.0), gradients(expected, states, weight, 3.0), rtol=1e-5, atol=1e-7
    )


def test_bf16_autocast_rounds_the_product_and_sums_in_full_precision():
    states, weight, targets = make_case(vocabulary=4000)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (loss(states, weight, targets) for loss in (caption_cross_entropy, naive))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    exact = gradients(naive(states, weight, targets), states, weight)
    for gradient, reference in zip(gradients(found, states, weight), exact, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - reference).norm() < torch.finfo(torch.bfloat16).eps * reference.norm()


def test_gradients_of_unlikely_tokens_survive_half_precision():
    """A probability of 1e-6 divided by many tokens is nothing in fp16; the sum over the tokens is something."""
    states = torch.zeros(1, 4096, 2).requires_grad_()
    weight = torch.tensor([[0.0, 0.0], [math.log(1e-6), 0.0]]).requires_grad_()
    with torch.no_grad():
        states[..., 0] = 1.0
    with torch.autocast("cpu", torch.float16):
        loss = caption_cross_entropy(states, weight, torch.zeros(1, 4096, dtype=torch.long))
    assert gradients(loss, states, weight, 1024.0)[1][1, 0].item() == pytest.approx(1024e-6, rel=0.05)


@pytest.mark.parametrize("size", [3.0, 30.0])
def test_gradients_that_all_tokens_agree_on_do_not_overflow_half_precision(size):
    """A frequent token's row of the weight has a gradient of about 0.4 x 80,000 states; fp16 ends at 65,504."""
    draw = torch.Generator().manual_seed(0)
    states = (size * (1 + torch.rand(2, 40_000, 3, generator=draw))).requires_grad_()
    weight = (torch.randn(5, 3, generator=draw) * 1e-2 / size).requires_grad_()
    targets = torch.randint(0, 5, (2, 40_000), generator=draw)
    targets[:, ::2] = 1
    with torch.autocast("cpu", torch.float16):
        found = gradients(caption_cross_entropy(states, weight, targets), states, weight, 3.0)
    expected = gradients(naive(states, weight, targets), states, weight, 3.0)
    for gradient, reference in zip(found, expected, strict=True):
        assert (gradient - reference).norm() < torch.finfo(torch.float16).eps * reference.norm()


def test_nothing_to_predict_is_a_loss_of_nothing():
    states, weight, targets = make_case()
    loss = caption_cross_entropy(states, weight, torch.full_like(targets, IGNORED), label_smoothing=0.1)
    assert loss.item() == 0.0
    assert all(gradient.eq(0).all() for gradient in gradients(loss, states, weight))


def test_without_gradients_none_are_made(monkeypatch):
    states, weight, targets = make_case()
    expected = caption_cross_entropy(states, weight, targets).item()
    monkeypatch.setattr(losses, "_slope", None)
    with torch.no_grad():
        loss = caption_cross_entropy(states, weight, targets)
    assert not loss.requires_grad
    assert loss.item() == expected
