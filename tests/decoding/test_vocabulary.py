import pytest
import torch

from captioner.decoding.vocabulary import (
    CHUNK,
    cumulative_probabilities,
    draw,
    top_candidates,
)


@pytest.mark.parametrize("vocabulary", [7, CHUNK, 5 * CHUNK])
@pytest.mark.parametrize("count", [1, 4, 12, 50])
def test_candidates_are_the_top_of_everything(vocabulary, count):
    logits = torch.randn(3, 5, vocabulary, generator=torch.Generator().manual_seed(count))
    logits[0, :, ::2] = -torch.inf
    logits[1, 1:] = -torch.inf
    bases = torch.randn(3, 5)
    everything = logits + bases[:, :, None]
    totals, beams, tokens = top_candidates(logits, bases, count)
    expected = everything.flatten(1).topk(min(count, 5 * vocabulary), dim=1).values
    assert torch.equal(totals, expected)
    found = everything[torch.arange(3)[:, None], beams, tokens]
    assert torch.equal(found, totals)
    for row in range(3):
        real = totals[row].isfinite()
        pairs = set(zip(beams[row, real].tolist(), tokens[row, real].tolist(), strict=True))
        assert len(pairs) == int(real.sum())


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (3, 1.0), (0, 0.6), (4, 0.7), (0, 1e-9)])
def test_tokens_are_drawn_as_often_as_they_are_likely(top_k, top_p):
    probabilities = torch.tensor([0.05, 0.4, 0.0, 0.1, 0.3, 0.15])
    order = probabilities.argsort(descending=True).tolist()
    kept, total = [], 0.0
    for token in order[: top_k or None]:
        if total / sum(probabilities[order[: top_k or None]]) < top_p:
            kept.append(token)
            total += float(probabilities[token])
    expected = torch.zeros(6)
    expected[kept] = probabilities[kept] / probabilities[kept].sum()
    cumulated, tokens = cumulative_probabilities(probabilities.log()[None], top_k=top_k, top_p=top_p)
    uniforms = (torch.arange(10_000, dtype=torch.double) + 0.5) / 10_000
    if tokens is not None:
        tokens = tokens.expand(10_000, -1)
    drawn = draw(cumulated.expand(10_000, -1).contiguous(), tokens, uniforms)
    shares = torch.bincount(drawn, minlength=6) / 10_000
    torch.testing.assert_close(shares, expected, rtol=0, atol=2e-4)
