"""The work of ``benchmarks.training``: shapes, and a folder with captions, a tokenizer and image features."""

import argparse
import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from datasets import DatasetDict

from captioner.data.prepared import open_prepared, prepare, read_manifest
from captioner.data.records import Record, Source
from captioner.data.scenes import generate_scenes
from captioner.data.tokenizer import CaptionTokenizer
from captioner.models.encoders import load_encoder
from captioner.models.image_processors import load_processor
from captioner.resources import TRAIN, VALIDATION, Resources
from captioner.settings import (
    DataSettings,
    DecoderSettings,
    EncoderSettings,
    OptimSettings,
    ScheduleSettings,
    Settings,
    TaskSettings,
    TokenizerSettings,
    TrainerSettings,
)

VIT_BASE_32 = {
    "model_type": "vit",
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 32,
    "image_size": 224,
}
TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 16,
    "image_size": 32,
}
TINY_DECODER = DecoderSettings(width=16, layers=1, heads=2, feedforward=2, max_length=64)
TINY_VOCABULARY = 300


@dataclass(frozen=True)
class Work:
    """What every system trains on."""

    folder: str
    """Where the tokenizer and the features are."""
    dataset: str
    """A prepared dataset."""
    images: int
    """So many of its training images are used."""
    vocabulary: int
    """Rows of the embedding, whatever the tokenizer uses of them."""
    settings: Settings
    """Of this project with a frozen encoder; the peer has the same shapes."""

    @property
    def batch_pairs(self) -> int:
        """Pairs of a batch with five captions an image."""
        return 5 * self.settings.trainer.batch_images


def prepare_asked(options: argparse.Namespace, folder: str, *, precision: str = "fp32") -> Work:
    """``prepare_work`` as the benchmarks' flags ask for it."""
    return prepare_work(
        Path(folder),
        data=options.data,
        images=options.images,
        batch_images=options.batch_images,
        precision=precision,
        device=options.device,
        tiny=options.tiny,
    )


def prepare_work(
    folder: Path, *, data: str | None, images: int, batch_images: int, precision: str, device: str, tiny: bool = False
) -> Work:
    """Write what the systems share into a folder; without a prepared dataset, the embedded scenes are drawn."""
    dataset = data or str(_draw_scenes(folder / "scenes", images))
    # Label smoothing is off because the peer has none.
    settings = Settings(
        data=DataSettings(name="work", folder=str(folder)),
        tokenizer=TokenizerSettings(vocabulary_size=TINY_VOCABULARY if tiny else 8192),
        encoder=EncoderSettings(
            config=json.dumps(TINY_VIT if tiny else VIT_BASE_32), image_size=32 if tiny else 224, name="random"
        ),
        decoder=TINY_DECODER if tiny else DecoderSettings(),
        task=TaskSettings(label_smoothing=0.0),
        optim=OptimSettings(lr=1e-4),
        schedule=ScheduleSettings(kind="constant"),
        trainer=TrainerSettings(
            folder=str(folder / "runs"),
            batch_images=batch_images,
            precision=precision,
            device=device,
            epochs=1_000_000,
            save_every=0,
            threads=torch.get_num_threads(),
        ),
    )
    captions = open_prepared(dataset)[TRAIN]["captions"]
    tokenizer = CaptionTokenizer.train((text for image in captions for text in image), settings.tokenizer)
    tokenizer.save(folder / "tokenizer.json")
    images = min(images, len(captions))
    return Work(str(folder), dataset, images, settings.tokenizer.vocabulary_size, settings)


def open_work(work: Work, *, trainable: bool = False) -> Resources:
    """Open the captions, the tokenizer and an encoder with the same random weights everywhere."""
    settings = replace(work.settings.encoder, trainable=trainable)
    full = open_prepared(work.dataset)
    dataset = DatasetDict(
        {TRAIN: full[TRAIN].select(range(work.images)), VALIDATION: full[VALIDATION].select(range(2))}
    )
    torch.manual_seed(0)
    return Resources(
        dataset,
        read_manifest(work.dataset),
        CaptionTokenizer.load(Path(work.folder, "tokenizer.json")),
        load_encoder(settings),
        load_processor(settings),
    )


def describe_encoder(work: Work) -> str:
    """The encoder's shapes."""
    config = json.loads(work.settings.encoder.config)
    return (
        f"{config['model_type']}, {config['hidden_size']} wide, {config['num_hidden_layers']} layers,"
        f" patches of {config['patch_size']}"
    )


def _draw_scenes(folder: Path, images: int) -> Path:
    pictures = generate_scenes(split_sizes={TRAIN: images, VALIDATION: 2})
    records = [
        Record(picture.image_id, picture.split, picture.captions, functools.partial(bytes, picture.image))
        for picture in pictures
    ]
    prepare(Source("scenes", records), folder)
    return folder
