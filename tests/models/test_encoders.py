"""What every encoder does: tokens, gradients, its way to JSON and back, its size."""

import json

import pytest
import torch
import transformers
from PIL import Image
from small_encoders import CLASS_TOKEN, FAMILIES, PATCHED, TRANSFORMER, pixels, settings_for, shake
from torch import nn

from captioner.errors import ConfigError
from captioner.models.encoders import encoder_config, encoder_fingerprint, encoder_from_config, load_encoder
from captioner.models.image_processors import load_processor
from captioner.settings import EncoderSettings


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_tokens(family):
    encoder = load_encoder(settings_for(family))
    _, patches, width = FAMILIES[family]
    assert (encoder.patches, encoder.width) == (patches, width)
    assert encoder(pixels(3)).shape == (3, patches, width)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_encoder_ignores_training_mode(family):
    encoder = shake(load_encoder(settings_for(family)))
    parent = nn.Sequential(encoder, nn.Dropout(0.5))
    before, fingerprint = encoder(pixels()), encoder_fingerprint(encoder)
    parent.train()
    assert parent[1].training
    assert not any(module.training for module in encoder.modules())
    assert torch.equal(encoder(pixels()), before)
    assert encoder_fingerprint(encoder) == fingerprint
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_trainable_encoder_gets_gradients_wherever_it_asks_for_them(family):
    encoder = load_encoder(settings_for(family, trainable=True))
    assert encoder.training
    encoder(pixels(4, 32)).square().sum().backward()
    asked = {name for name, parameter in encoder.model.named_parameters() if parameter.requires_grad}
    given = {name for name, parameter in encoder.model.named_parameters() if parameter.grad is not None}
    assert asked == given
    assert encoder.unused.isdisjoint(asked)
    assert len(asked) > len(encoder.unused)


@pytest.mark.parametrize("family", FAMILIES)
def test_config_and_weights_round_trip(family):
    encoder = shake(load_encoder(settings_for(family)))
    config = json.loads(json.dumps(encoder_config(encoder)))
    twin = encoder_from_config(config)
    twin.load_state_dict(encoder.state_dict())
    assert (twin.patches, twin.width, twin.image_size) == (encoder.patches, encoder.width, encoder.image_size)
    assert torch.equal(twin(pixels()), encoder(pixels()))
    assert encoder_fingerprint(twin) == encoder_fingerprint(encoder)
    assert encoder_config(twin) == encoder_config(encoder)


def gradients_and_kept_numbers(settings):
    """The gradients of an encoder that is the same each time, and how many numbers were kept for them."""
    torch.manual_seed(1)
    encoder, sizes = load_encoder(settings), []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = encoder(pixels()).square().sum()
    loss.backward()
    return {name: each.grad for name, each in encoder.named_parameters() if each.requires_grad}, sum(sizes)


def test_gradient_checkpointing_gives_the_same_gradients_from_fewer_kept_activations():
    expected, all_kept = gradients_and_kept_numbers(settings_for("vit", trainable=True))
    gradients, kept = gradients_and_kept_numbers(settings_for("vit", trainable=True, gradient_checkpointing=True))
    torch.testing.assert_close(gradients, expected, rtol=1e-6, atol=1e-7)
    assert kept < all_kept / 2


def test_gradient_checkpointing_is_refused_where_the_model_cannot_do_it():
    with pytest.raises(ConfigError, match=r"^encoder.gradient_checkpointing: mobilenet_v2 cannot do without its"):
        load_encoder(settings_for("mobilenet_v2", trainable=True, gradient_checkpointing=True))


def test_fingerprint_depends_on_every_weight():
    encoder = load_encoder(settings_for("vit"))
    found = [encoder_fingerprint(encoder)]
    assert len(found[0]) == 16
    with torch.no_grad():
        for weights in encoder.state_dict().values():
            weights[-1] += 1e-6
            found.append(encoder_fingerprint(encoder))
    assert len(found) > 20
    assert len(set(found)) == len(found)


def test_image_tower_of_a_whole_clip_repository(clip_folder, capfd):
    encoder = load_encoder(EncoderSettings(name=str(clip_folder)))
    whole = transformers.CLIPModel.from_pretrained(clip_folder)
    capfd.readouterr()
    expected = whole.vision_model(pixel_values=pixels()).last_hidden_state
    torch.testing.assert_close(encoder(pixels()), expected)
    assert (encoder.image_size, encoder.patches, encoder.revision) == (32, 17, "")
    assert not any("text" in name for name, _ in encoder.named_parameters())


def test_pooler_of_a_vit_is_not_loaded(tmp_path):
    config = transformers.ViTConfig(**PATCHED, image_size=32)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    encoder = load_encoder(EncoderSettings(name=str(tmp_path)))
    assert encoder.model.pooler is None
    assert encoder.patches == 17


def test_positions_are_interpolated_to_another_image_size(clip_folder):
    settings = EncoderSettings(name=str(clip_folder), image_size=48)
    encoder = load_encoder(settings)
    assert encoder.patches == 36 + CLASS_TOKEN
    image = Image.new("RGB", (100, 60))
    assert encoder(load_processor(settings)([image])).shape == (1, 37, 16)
    twin = encoder_from_config(encoder_config(encoder))
    twin.load_state_dict(encoder.state_dict())
    assert torch.equal(twin(pixels(1, 48)), encoder(pixels(1, 48)))


def test_image_size_that_no_patch_fits_is_an_error(clip_folder):
    with pytest.raises(ConfigError, match=r"image_size=45 is not a multiple of .* patch size 8; use 40 or 48"):
        load_encoder(EncoderSettings(name=str(clip_folder), image_size=45))


def test_model_without_image_tokens_is_an_error():
    config = json.dumps({"model_type": "bert"} | TRANSFORMER)
    with pytest.raises(ConfigError, match=r"encoder bert: gives no image tokens .*use a vision model"):
        load_encoder(EncoderSettings(config=config))
