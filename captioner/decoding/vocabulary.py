"""Passes over a whole vocabulary, whose log-probabilities are the largest tensors of a step."""

import torch
from torch import Tensor

CHUNK = 64


def top_candidates(values: Tensor, bases: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest continuations of each slot's captions, best first.

    The ``count`` largest of many numbers lie in the ``count`` chunks with the largest maxima, and maxima are found in
    one fast pass, where a top-k over everything would sort.

    Args:
        values: log-probabilities of the next tokens [slots, beams, vocabulary].
        bases: what to add to each caption's, for totals that compare [slots, beams].
        count: how many; fewer come back where there are fewer.

    Returns:
        Totals, beams and tokens, each [slots, count].
    """
    slots, beams, vocabulary = values.shape
    size = CHUNK if vocabulary % CHUNK == 0 else vocabulary
    chunks = values.view(slots, beams * (vocabulary // size), size)
    shifts = bases[:, :, None].expand(-1, -1, vocabulary // size).flatten(1)  # [slots, chunks]
    best = (chunks.amax(dim=-1) + shifts).topk(min(count, chunks.shape[1]), dim=1).indices
    within = chunks.gather(1, best[:, :, None].expand(-1, -1, size)) + shifts.gather(1, best)[:, :, None]
    totals, flat = within.flatten(1).topk(min(count, within.shape[1] * size), dim=1)
    places = best.gather(1, flat // size) * size + flat % size
    return totals, places // vocabulary, places % vocabulary


def cumulative_probabilities(log_probabilities: Tensor, *, top_k: int, top_p: float) -> tuple[Tensor, Tensor | None]:
    """Cumulated probabilities of the tokens that sampling may draw.

    Args:
        log_probabilities: not necessarily normalised [rows, vocabulary].
        top_k: only so many of the likeliest tokens; 0 for all (Fan et al. 2018, https://arxiv.org/abs/1805.04833).
        top_p: only the likeliest tokens that make up this probability, and at least one (Holtzman et al. 2020,
            https://arxiv.org/abs/1904.09751).

    Returns:
        Cumulated probabilities [rows, tokens], not normalised, and which tokens they are [rows, tokens]; None for all.
    """
    vocabulary = log_probabilities.shape[1]
    if not top_k and top_p == 1:
        return log_probabilities.softmax(dim=-1).double().cumsum(dim=-1), None
    values, tokens = log_probabilities.topk(min(top_k or vocabulary, vocabulary), dim=-1)
    probabilities = values.softmax(dim=-1).double()
    before = probabilities.cumsum(dim=-1) - probabilities
    return probabilities.masked_fill(before >= top_p, 0.0).cumsum(dim=-1), tokens


def draw(cumulated: Tensor, tokens: Tensor | None, uniforms: Tensor) -> Tensor:
    """The token in whose share of the cumulated probabilities each number in [0, 1) falls [rows]."""
    places = torch.searchsorted(cumulated, uniforms[:, None] * cumulated[:, -1:], right=True)
    places = places.clamp_(max=cumulated.shape[1] - 1)
    return places[:, 0] if tokens is None else tokens.gather(1, places)[:, 0]
