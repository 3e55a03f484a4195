"""Losses: pure functions from predictions and targets to a number."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

from captioner.data.batches import IGNORED

LOGITS_AT_ONCE = {"cpu": 2**22}
"""Logits that exist at a time: on a CPU so few that its cache helps, elsewhere enough to keep the device busy."""
LOGITS_AT_ONCE_ELSEWHERE = 2**26
SUMMANDS_IN_FP16 = 2**15
"""Half of fp16's largest number."""


@torch.compiler.disable  # how many parts there are depends on the captions
def caption_cross_entropy(states: Tensor, weight: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the targets that are not padding, 0 where all are.

    The logits of a batch take more memory than the network; here they are made for some tokens at a time, and so is
    their gradient, which the forward pass leaves for the backward pass: nothing is computed twice (Hsu et al. 2024,
    https://arxiv.org/abs/2410.10989).

    Args:
        states: what the output layer is given [images, length, width].
        weight: of the output layer, which has no bias [vocabulary, width].
        targets: token ids [images, length], IGNORED where there is nothing to predict.
        label_smoothing: share of the target probability spread over the vocabulary (Szegedy et al. 2016,
            https://arxiv.org/abs/1512.00567, section 7).
    """
    kind = states.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else states.dtype
    with torch.autocast(kind, enabled=False):
        return _CaptionCrossEntropy.apply(
            states.flatten(0, -2), weight, targets.flatten(), label_smoothing, dtype, torch.is_grad_enabled()
        )


class _CaptionCrossEntropy(Function):
    """The loss of states [tokens, width]; its gradients are sums over the tokens until the backward pass divides them.

    So they do not underflow in half precision, and the scale of a gradient scaler comes where they are in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, targets: Tensor, smoothing: float, dtype: torch.dtype, learns: bool
    ) -> Tensor:
        kept = (targets != IGNORED).nonzero().squeeze(1)
        exact = torch.promote_types(dtype, torch.float32)
        matrix, total = weight.to(dtype), torch.zeros((), dtype=exact, device=states.device)
        if learns:
            of_states, of_weight = torch.zeros_like(states, dtype=exact), torch.zeros_like(weight, dtype=exact)
        for places in kept.split(_tokens_at_once(weight)):
            some, right = states[places].to(dtype), targets[places]
            scores = functional.linear(some, matrix).to(exact).log_softmax(dim=-1)
            total += functional.nll_loss(scores, right, reduction="sum") * (1 - smoothing)
            if smoothing:
                total -= scores.mean(dim=-1).sum() * smoothing
            if learns:
                slope = _slope(scores, right, smoothing).to(dtype)
                of_states[places] = (slope @ matrix).to(exact)
                _add_product(of_weight, slope, some)
        ctx.count = max(1, len(kept))
        if learns:
            ctx.save_for_backward(of_states, of_weight)
            ctx.dtypes = states.dtype, weight.dtype
        return total / ctx.count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        factor, sums = gradient / ctx.count, ctx.saved_tensors
        of_states, of_weight = ((total * factor).to(dtype) for total, dtype in zip(sums, ctx.dtypes, strict=True))
        return of_states, of_weight, None, None, None, None


def _tokens_at_once(weight: Tensor) -> int:
    return max(1, LOGITS_AT_ONCE.get(weight.device.type, LOGITS_AT_ONCE_ELSEWHERE) // weight.shape[0])


def _slope(scores: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Gradient of the summed loss by the logits, in the place of their log-probabilities [tokens, vocabulary]."""
    slope = scores.exp_()
    if smoothing:
        slope -= smoothing / scores.shape[1]
    wanted = torch.full_like(targets, smoothing - 1, dtype=slope.dtype)[:, None]
    return slope.scatter_add_(1, targets[:, None], wanted)


def _add_product(total: Tensor, slope: Tensor, states: Tensor) -> None:
    """Add ``slope.T @ states`` to a total that is as exact or more."""
    if states.dtype == total.dtype:
        total.addmm_(slope.T, states)
    elif states.dtype != torch.float16:
        total += slope.T @ states
    else:
        # No slope is beyond 1 and, in these units, no state: a sum of so many cannot overflow.
        for left, right in zip(slope.split(SUMMANDS_IN_FP16), states.split(SUMMANDS_IN_FP16), strict=True):
            unit = right.abs().amax(dim=0).float().frexp().exponent.float().exp2()
            total += (left.T @ (right / unit).half()).float() * unit
