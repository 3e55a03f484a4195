"""Losses: pure functions from predictions and targets to a number."""

from torch import Tensor
from torch.nn import functional

from captioner.data.batches import IGNORED


def caption_cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the targets that are not padding.

    Args:
        logits: [images, length, vocabulary].
        targets: token ids [images, length], IGNORED where there is nothing to predict.
        label_smoothing: share of the target probability spread over the vocabulary (Szegedy et al. 2016,
            https://arxiv.org/abs/1512.00567, section 7).
    """
    return functional.cross_entropy(
        logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED, label_smoothing=label_smoothing
    )
