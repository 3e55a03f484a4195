"""A captioner in small, with random weights, and pictures for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hub_stand_in import TOKEN, HubStandIn
from huggingface_hub import close_session, constants
from PIL import Image
from tiny_models import TINY_ENCODERS, make_captioner

from captioner.api import Captioner
from captioner.data.tokenizer import CaptionTokenizer
from captioner.settings import (
    DataSettings,
    DecoderSettings,
    DecodingSettings,
    EncoderSettings,
    ProjectionSettings,
    Settings,
    TokenizerSettings,
    TrainerSettings,
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Models this small lose more to threads than they gain, and sums are rounded as the threads share them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> CaptionTokenizer:
    """A tokenizer of a few words."""
    captions = ["a red dog runs on grass", "two black cats sleep", "the girl's yellow kite flies over a house"]
    return CaptionTokenizer.train(captions, TokenizerSettings(vocabulary_size=300))


@pytest.fixture
def tiny_settings() -> Settings:
    """Settings of a captioner that is built in a moment."""
    return Settings(
        data=DataSettings(
            name="photos",
            root="/home/me/private/photos",
            folder="/home/me/private/data",
            streaming="/home/me/private/shards",
        ),
        tokenizer=TokenizerSettings(file="/home/me/private/tokenizer.json", vocabulary_size=300),
        encoder=EncoderSettings(config=json.dumps(TINY_ENCODERS["resnet"]), image_size=32, trainable=True),
        projection=ProjectionSettings(positions=True),
        decoder=DecoderSettings(width=32, layers=2, heads=4, feedforward=2, max_length=12),
        trainer=TrainerSettings(run="small", folder="/home/me/private/checkpoints", seed=7),
        decoding=DecodingSettings(max_length=8, batch_size=3),
    )


@pytest.fixture
def tiny_captioner(tiny_settings: Settings, tiny_tokenizer: CaptionTokenizer) -> Captioner:
    """A captioner with random weights: its captions are nonsense, but always the same."""
    return make_captioner(tiny_settings, tiny_tokenizer)


@pytest.fixture
def tiny_export(tiny_captioner: Captioner, tmp_path: Path) -> Path:
    """The folder of a whole export."""
    tiny_captioner.metrics = {"test": {"metrics": {"CIDEr-D": 0.5}, "images": 3, "decoding": {"beams": 3}}}
    tiny_captioner.save_pretrained(tmp_path / "best")
    return tmp_path / "best"


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Five pictures of different shapes and contents."""
    noise = torch.Generator().manual_seed(0)
    blocks = [torch.randint(0, 256, (3, 4, 3), generator=noise, dtype=torch.uint8) for _ in range(5)]
    sizes = [(40 + 5 * place, 60 - 4 * place) for place in range(5)]
    return [Image.fromarray(block.numpy()).resize(size) for block, size in zip(blocks, sizes, strict=True)]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A Hub on loopback for this process and those it starts; tests that take it have the marks LOOPBACK."""
    stand_in = HubStandIn()
    cache = tmp_path / "hub-cache"
    for name, value in {
        "ENDPOINT": stand_in.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": stand_in.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_XET": True,  # Xet is a protocol of its own, that the stand-in does not speak
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    variables = {"ENDPOINT": stand_in.address, "TOKEN": TOKEN, "HUB_DISABLE_XET": "1", "HUB_OFFLINE": "0"}
    for name, value in {**variables, "HUB_CACHE": str(cache)}.items():
        monkeypatch.setenv(f"HF_{name}", value)
    close_session()
    yield stand_in
    stand_in.close()
    close_session()
