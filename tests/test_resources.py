"""The frozen encoder, which a run lets go of once the features are cached, and the export loads again."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_models import TINY_ENCODERS

from captioner.errors import CheckpointError
from captioner.models.encoders import load_encoder
from captioner.resources import AbsentEncoder
from captioner.settings import EncoderSettings, Settings, TrainerSettings


@pytest.fixture
def settings() -> Settings:
    config = json.dumps(TINY_ENCODERS["vit"] | {"image_size": 16})
    return Settings(encoder=EncoderSettings(config=config), trainer=TrainerSettings(seed=3))


def test_an_encoder_comes_back_as_it_was_and_draws_nothing(settings):
    torch.manual_seed(3)
    encoder = load_encoder(settings.encoder)
    absent, state = AbsentEncoder.of(encoder, settings), torch.get_rng_state()
    found = absent.load().state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_commit_on_the_hub_is_pinned(settings):
    encoder = load_encoder(settings.encoder)
    encoder.revision = "abc"
    assert AbsentEncoder.of(encoder, settings).settings.revision == "abc"


def test_another_encoder_is_refused(settings):
    torch.manual_seed(3)
    absent = replace(AbsentEncoder.of(load_encoder(settings.encoder), settings), seed=4)
    with pytest.raises(CheckpointError, match="has other weights than when its features were cached; bring the former"):
        absent.load()
