"""The fast ways to image tokens against the encoder itself."""

import json

import pytest
import torch
from small_encoders import FAMILIES, pixels, settings_for, shake
from torch import nn

from captioner.models.encoders import encoder_fingerprint, load_encoder
from captioner.models.fast_encoding import _fold, fast_encode
from captioner.settings import EncoderSettings


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("vit", {}),
        ("convnext", {}),
        ("mobilenet_v2", {}),
        ("mobilenet_v2", {"output_stride": 16}),
        ("resnet", {}),
        ("resnet", {"layer_type": "bottleneck"}),
    ],
)
def test_fast_encode_equals_the_encoder(family, changes):
    config = {"model_type": family} | FAMILIES[family][0] | changes
    encoder = shake(load_encoder(EncoderSettings(config=json.dumps(config), image_size=64)))
    images = pixels(7, 64)
    tokens = fast_encode(encoder)(images)
    expected = encoder(images)
    assert not tokens.requires_grad
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["resnet", "mobilenet_v2"])
def test_folding_leaves_no_batch_normalisation(family):
    encoder = shake(load_encoder(settings_for(family)))
    folded = _fold(encoder)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    expected = encoder(pixels())
    torch.testing.assert_close(folded(pixels()), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_fast_encode_leaves_a_trainable_encoder_in_training():
    encoder = load_encoder(settings_for("resnet", trainable=True))
    before = encoder_fingerprint(encoder)
    fast_encode(encoder)(pixels())
    assert encoder.training
    assert encoder_fingerprint(encoder) == before
