"""Captioners in small, with random weights."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from captioner.api import Captioner
from captioner.confidence import Calibration
from captioner.data.tokenizer import CaptionTokenizer
from captioner.models.captioner import build_model
from captioner.models.encoders import load_encoder
from captioner.models.image_processors import load_processor
from captioner.settings import Settings

TINY_ENCODERS = {
    "resnet": {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 12],
        "depths": [1, 1],
        "layer_type": "basic",
    },
    "vit": {
        "model_type": "vit",
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "patch_size": 8,
    },
}


def make_captioner(settings: Settings, tokenizer: CaptionTokenizer, *, seed: int = 0) -> Captioner:
    """A captioner with random weights that are the same for the same seed."""
    torch.manual_seed(seed)
    encoder, processor = load_encoder(settings.encoder), load_processor(settings.encoder)
    model = build_model(settings, encoder=encoder, vocabulary_size=len(tokenizer))
    return Captioner(model, tokenizer, processor, settings)


def make_calibration(captioner: Captioner, pictures: Sequence[Image.Image]) -> Calibration:
    """A confidence fitted to five pictures, of which three count as well captioned."""
    return Calibration.fit(captioner.caption(pictures, candidates=3), [True, False, True, True, False], {"split": "x"})


def end_captions(captioner: Captioner, *, words: int = 3) -> Captioner:
    """Let the captioner wish to end, so that its captions of so many tokens are not cut off by the maximum length."""
    decoder = captioner.model.decoder
    weight = decoder.output.weight[captioner.tokenizer.end_id].detach()
    with torch.no_grad():
        decoder.norm.bias += 8 * weight / weight.square().sum()
    settings = captioner.settings
    captioner.settings = replace(settings, decoding=replace(settings.decoding, min_length=words))
    return captioner
