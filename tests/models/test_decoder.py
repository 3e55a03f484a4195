from dataclasses import replace

import pytest
import torch
from small_decoders import POSITIONS, SETTINGS, VOCABULARY, make_decoder
from torch import nn

from captioner.models.decoder import Dropout, FeedForward, TransformerDecoder, causal_segment_mask


def make_inputs(*, images=3, length=7, patches=5):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCABULARY, (images, length), generator=generator)
    return tokens, torch.randn(images, patches, SETTINGS.width, generator=generator)


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_later_token_leaves_earlier_logits_unchanged(positions):
    decoder = make_decoder(positions=positions)
    tokens, memory = make_inputs()
    before = decoder(tokens, memory)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % VOCABULARY
    after = decoder(changed, memory)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.isclose(before[:, 4:], after[:, 4:]).all(dim=-1).any()


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_order_of_earlier_tokens_matters(positions):
    decoder = make_decoder(positions=positions)
    _, memory = make_inputs(images=1)
    forth, back = (decoder(torch.tensor([tokens]), memory)[:, -1] for tokens in ([0, 1, 2, 3], [0, 2, 1, 3]))
    assert not torch.allclose(forth, back, atol=1e-3)


def test_every_image_token_reaches_every_logit():
    decoder = make_decoder()
    tokens, memory = make_inputs(images=1)
    memory.requires_grad_()
    for place in range(tokens.shape[1]):
        (gradient,) = torch.autograd.grad(decoder(tokens, memory)[0, place].sum(), memory)
        assert (gradient.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("positions", POSITIONS)
def test_packed_captions_have_the_logits_of_captions_alone(positions):
    decoder = make_decoder(positions=positions)
    tokens, memory = make_inputs(images=1, length=9)
    lengths = [4, 2, 3]
    places = torch.tensor([[place for length in lengths for place in range(length)]])
    segments = torch.tensor([[caption for caption, length in enumerate(lengths) for _ in range(length)]])
    packed = decoder(tokens, memory, positions=places, segments=segments)
    alone = [decoder(part, memory) for part in tokens.split(lengths, dim=1)]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1), rtol=0, atol=1e-6)


def test_a_token_sees_itself_and_the_earlier_ones_of_its_own_caption():
    mask = causal_segment_mask(torch.tensor([[0, 0, 1, 1, -1]]))
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    assert mask.int().tolist() == [[expected]]


def test_tied_embeddings_are_one_tensor():
    tied, free = make_decoder(), make_decoder(tie_embeddings=False)
    assert tied.output.weight is tied.token_embedding.weight
    counts = [sum(parameter.numel() for parameter in decoder.parameters()) for decoder in (tied, free)]
    assert counts[1] - counts[0] == VOCABULARY * SETTINGS.width
    tokens, memory = make_inputs()
    (gradient,) = torch.autograd.grad(tied(tokens, memory).logsumexp(-1).sum(), tied.token_embedding.weight)
    assert (gradient.abs().sum(dim=-1) > 0).all()  # through the output layer also for tokens that do not occur


def test_the_weights_of_cross_attention_are_those_it_reads_with():
    decoder = make_decoder(layers=1)
    tokens, memory = make_inputs(images=2)
    weights = decoder.cross_attention(tokens, memory)
    assert weights.shape == (1, 2, SETTINGS.heads, 7, 5)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 2, SETTINGS.heads, 7))
    seen = []
    block = decoder.blocks[0].cross_attention
    block.output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    decoder(tokens, memory)
    _, values = block.remember(memory)
    expected = (weights[0] @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(seen[-1], expected, rtol=0, atol=1e-6)


def test_dropout_works_in_training_only():
    decoder = make_decoder(dropout=0.5)
    tokens, memory = make_inputs()
    assert torch.equal(decoder(tokens, memory), decoder(tokens, memory))
    decoder.train()
    assert not torch.allclose(decoder(tokens, memory), decoder(tokens, memory))


def test_new_weights_give_nearly_even_probabilities_however_deep():
    """As section 2.3 of Radford et al. 2019 wants it: depth does not blow up the residual stream."""
    torch.manual_seed(0)
    decoder = TransformerDecoder(replace(SETTINGS, layers=24), vocabulary_size=VOCABULARY).eval()
    tokens, memory = make_inputs()
    assert decoder(tokens, memory).softmax(-1).max() < 0.2


def test_activation_that_is_computed_twice_gives_the_same_gradients():
    torch.manual_seed(0)
    layers, gradients = FeedForward(6, 24), []
    hidden = torch.randn(2, 5, 6, requires_grad=True)
    for forward in (layers, nn.Sequential(*layers)):  # the second keeps everything
        gradients.append(torch.autograd.grad(forward(hidden).square().sum(), (hidden, *layers.parameters())))
    for found, expected in zip(*gradients, strict=True):
        assert torch.equal(found, expected)


def test_dropout_scales_what_it_leaves_and_the_gradient_alike():
    torch.manual_seed(0)
    dropout, numbers = Dropout(0.25), torch.ones(100, 100, requires_grad=True)
    left = dropout(numbers)
    left.sum().backward()
    assert torch.equal(numbers.grad, left.detach())
    torch.testing.assert_close(left.unique(), torch.tensor([0.0, 4 / 3]))
    assert left.eq(0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert dropout.eval()(numbers) is numbers
