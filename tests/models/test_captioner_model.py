import pytest
import torch
from torch import nn

from captioner.data.batches import pack_captions
from captioner.models.captioner import CaptionerModel, build_model
from captioner.models.encoders import load_encoder

START, END = 1, 2
CAPTIONS = [[[5, 6, 7], [8, 9, 10, 11, 12], [6]], [[13, 14], [15, 5, 5, 9], [20, 21, 22]]]


@pytest.fixture
def model(tiny_settings):
    torch.manual_seed(0)
    model = build_model(tiny_settings, encoder=load_encoder(tiny_settings.encoder), vocabulary_size=30)
    return model.eval().double()


def pixels(images=2):
    return torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def pack(captions):
    return pack_captions(captions, start=START, end=END, max_length=12)


def loss_and_gradients(model, images, packed):
    tokens, positions, segments, targets = packed
    model.zero_grad()
    loss = model(images, tokens, positions=positions, segments=segments, targets=targets, label_smoothing=0.1)
    loss.backward()
    return loss.item(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_an_image_with_all_its_captions_trains_as_one_row_a_caption_does(model):
    """Image-once rows and image-caption pairs have the same loss and gradients, of the encoder's weights too."""
    once_loss, once = loss_and_gradients(model, pixels(), pack(CAPTIONS))
    pairs = [[caption] for image in CAPTIONS for caption in image]
    pair_images = pixels().repeat_interleave(3, dim=0)
    pair_loss, each = loss_and_gradients(model, pair_images, pack(pairs))
    assert once_loss == pytest.approx(pair_loss, abs=1e-6)
    assert {name for name, gradient in once.items() if gradient is not None} >= {
        "projection.projection.1.weight",
        "decoder.token_embedding.weight",
        "encoder.model.embedder.embedder.convolution.weight",
    }
    for name, gradient in once.items():
        torch.testing.assert_close(gradient, each[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize("filler", [0, 29])
def test_padding_never_changes_the_loss_or_the_gradient(model, filler):
    tokens, positions, segments, targets = pack(CAPTIONS)
    padded = (
        nn.functional.pad(tokens, (0, 4), value=filler),
        nn.functional.pad(positions, (0, 4)),
        nn.functional.pad(segments, (0, 4), value=-1),
        nn.functional.pad(targets, (0, 4), value=-100),
    )
    expected_loss, expected = loss_and_gradients(model, pixels(), (tokens, positions, segments, targets))
    loss, gradients = loss_and_gradients(model, pixels(), padded)
    assert loss == pytest.approx(expected_loss, abs=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-6, msg=name)


def test_cached_features_stand_in_for_the_encoder(model):
    without = CaptionerModel(None, model.projection, model.decoder)
    features = model.encoder(pixels())
    torch.testing.assert_close(without.remember(features), model.remember(pixels()))
    half = without.remember(features.half())  # as caches hold them
    torch.testing.assert_close(half, model.remember(pixels()), rtol=0, atol=1e-2)
    assert "encoder" not in dict(without.named_children())


def test_an_image_token_says_where_it_is(model):
    features = torch.ones(1, model.encoder.patches, model.encoder.width, dtype=torch.float64)
    memory = CaptionerModel(None, model.projection, model.decoder).remember(features)[0]
    assert len(torch.unique(memory, dim=0)) == model.encoder.patches
