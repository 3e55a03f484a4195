"""Encoders of every family with random weights, and copies of a repository that lack a file."""

import json
import shutil

import torch
from torch import nn

from captioner.settings import EncoderSettings

TRANSFORMER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHED = TRANSFORMER | {"patch_size": 8}
CLASS_TOKEN, REGISTERS = 1, 2
# For images of 32 pixels: config, patches, width
FAMILIES = {
    "clip": ({"model_type": "clip", "vision_config": PATCHED | {"image_size": 32}}, 16 + CLASS_TOKEN, 16),
    "clip_vision_model": (PATCHED, 16 + CLASS_TOKEN, 16),
    "siglip": ({"model_type": "siglip", "vision_config": PATCHED | {"image_size": 32}}, 16, 16),
    "siglip_vision_model": (PATCHED, 16, 16),
    "siglip2_vision_model": (PATCHED | {"num_patches": 16}, 16, 16),
    "vit": (PATCHED, 16 + CLASS_TOKEN, 16),
    "dinov2": (PATCHED, 16 + CLASS_TOKEN, 16),
    "dinov2_with_registers": (PATCHED | {"num_register_tokens": REGISTERS}, 16 + CLASS_TOKEN + REGISTERS, 16),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}, 16, 12),
    "mobilenet_v2": ({"depth_multiplier": 0.35, "finegrained_output": False}, 1, 448),
    "convnext": ({"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2}, 16, 12),
}


def settings_for(family, **changes):
    """An encoder of that family with random weights, for images of 32 pixels."""
    config = {"model_type": family} | FAMILIES[family][0]
    return EncoderSettings(**({"config": json.dumps(config), "image_size": 32} | changes))


def pixels(images=2, size=32):
    """Noise in place of images."""
    return torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))


def shake(encoder):
    """Weights and batch statistics as training leaves them, not as initialisation does."""
    generator = torch.Generator().manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return encoder


def copy_without(folder, target, *names):
    """A copy of a repository that lacks some of its files, as the settings of an encoder."""
    shutil.copytree(folder, target, dirs_exist_ok=True)
    for name in names:
        (target / name).unlink()
    return EncoderSettings(name=str(target))
