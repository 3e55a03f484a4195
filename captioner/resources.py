"""What a run is made from, beside its settings: opened, or made where it is missing."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict

from captioner.data.dataset_tokenizer import open_dataset_tokenizer, train_dataset_tokenizer
from captioner.data.prepared import open_prepared, prepare, read_manifest
from captioner.data.shards import Shards, find_shards, read_captions
from captioner.data.sources import SOURCES, read_source
from captioner.data.tokenizer import CaptionTokenizer
from captioner.errors import CheckpointError, DataError
from captioner.models.encoders import ImageEncoder, encoder_fingerprint, load_encoder
from captioner.models.image_processors import ImageProcessor, load_processor
from captioner.settings import EncoderSettings, Settings

logger = logging.getLogger(__name__)

TRAIN, VALIDATION = "train", "validation"
STREAMS = "streams"
"""Folder beside a prepared dataset for what is known of streams."""
TOKENIZER_SAMPLES = 500_000
"""Samples of a stream that its tokenizer is trained on: BPE's merges change little beyond."""


@dataclass(frozen=True)
class Resources:
    """What a run is made from, beside its settings."""

    dataset: DatasetDict
    manifest: dict[str, Any]
    tokenizer: CaptionTokenizer
    encoder: ImageEncoder | None
    """None once nothing is encoded any more."""
    processor: ImageProcessor
    shards: Shards | None = None
    """What is streamed instead of the dataset's training split."""


@dataclass(frozen=True)
class AbsentEncoder:
    """A frozen encoder that is let go of while nothing is encoded, and comes back as it was."""

    settings: EncoderSettings
    """With the Hub's commit, where it is from there."""
    seed: int
    """Of its weights, where they are random."""
    fingerprint: str

    @classmethod
    def of(cls, encoder: ImageEncoder, settings: Settings) -> "AbsentEncoder":
        """What brings back an encoder that was loaded with these settings, first of all after their seed was set."""
        pinned = replace(settings.encoder, revision=encoder.revision or settings.encoder.revision)
        return cls(pinned, settings.trainer.seed, encoder_fingerprint(encoder))

    def load(self) -> ImageEncoder:
        """The encoder; no generator of random numbers goes on by it.

        Raises CheckpointError if its files have others' weights by now, and what ``load_encoder`` raises.
        """
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            encoder = load_encoder(self.settings)
        if encoder_fingerprint(encoder) != self.fingerprint:
            raise CheckpointError(
                f"{self.settings.name} has other weights than when its features were cached; bring the former ones back"
            )
        return encoder


def fingerprints(resources: Resources, settings: Settings) -> dict[str, str]:
    """What a run that is resumed must find again, by its name: the dataset, and an encoder that is not trained."""
    found = {f"dataset of the name {settings.data.name}": resources.manifest["fingerprint"]}
    return found if settings.encoder.trainable else {**found, "encoder": encoder_fingerprint(resources.encoder)}


def dataset_folder(settings: Settings) -> Path:
    """Where the settings' prepared dataset lives."""
    return Path(settings.data.folder) / settings.data.name


def find_stream(settings: Settings) -> Shards | None:
    """The shards that the settings train from, None where they name none; their counts are kept beside the dataset."""
    if not settings.data.streaming:
        return None
    return find_shards(settings.data.streaming, memory=dataset_folder(settings) / STREAMS / "counts.jsonl")


def gather_resources(
    settings: Settings, *, tokenizer_path: Path | None = None, shards: Shards | None = None
) -> Resources:
    """Open the dataset, the tokenizer and the encoder; the dataset and tokenizer are made where they are missing.

    Args:
        settings: what to open.
        tokenizer_path: a tokenizer.json, such as a resumed run's own, instead of the dataset's.
        shards: what ``find_stream`` found.
    """
    encoder, processor = load_encoder(settings.encoder), load_processor(settings.encoder)
    dataset, manifest = open_or_prepare_dataset(settings)
    if tokenizer_path or settings.tokenizer.file:
        tokenizer = CaptionTokenizer.load(tokenizer_path or settings.tokenizer.file)
    elif shards:
        tokenizer = open_or_train_stream_tokenizer(settings, shards)
    else:
        tokenizer = open_or_train_tokenizer(settings, dataset, manifest)
    return Resources(dataset, manifest, tokenizer, encoder, processor, shards)


def open_or_prepare_dataset(settings: Settings) -> tuple[DatasetDict, dict[str, Any]]:
    """The prepared dataset and its manifest.

    Raises DataError where it is missing and nothing says what to prepare it from.
    """
    folder, data = dataset_folder(settings), settings.data
    if not (folder / "manifest.json").exists():
        source = data.source or data.name
        if source not in SOURCES:
            raise DataError(
                f"{folder} is not a prepared dataset; "
                f"run `python prepare_dataset.py folder --root FOLDER --name {data.name}`"
            )
        logger.info("Preparing %s from %s", folder, data.root or source)
        prepare(read_source(source, data.root or None), folder, splits=data.splits)
    return open_prepared(folder), read_manifest(folder)


def open_or_train_tokenizer(settings: Settings, dataset: DatasetDict, manifest: dict[str, Any]) -> CaptionTokenizer:
    """The dataset's tokenizer, trained anew where it is missing or was made with other settings."""
    folder, fingerprint = dataset_folder(settings), manifest["fingerprint"]
    tokenizer = open_dataset_tokenizer(folder, settings.tokenizer, fingerprint)
    if tokenizer is None:
        logger.info("Training the tokenizer on the %d training images' captions", len(dataset[TRAIN]))
        tokenizer = train_dataset_tokenizer(dataset, folder, settings.tokenizer, fingerprint)
    return tokenizer


def open_or_train_stream_tokenizer(settings: Settings, shards: Shards) -> CaptionTokenizer:
    """The tokenizer of these shards, trained on the captions of their first samples where it is missing."""
    folder = dataset_folder(settings) / STREAMS / shards.fingerprint
    tokenizer = open_dataset_tokenizer(folder, settings.tokenizer, shards.fingerprint)
    if tokenizer is None:
        logger.info("Training the tokenizer on captions of %s", settings.data.streaming)
        captions = [[caption] for caption in read_captions(shards, most=TOKENIZER_SAMPLES)]
        dataset = {TRAIN: {"captions": captions}}
        tokenizer = train_dataset_tokenizer(dataset, folder, settings.tokenizer, shards.fingerprint)
    return tokenizer
