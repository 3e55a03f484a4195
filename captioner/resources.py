"""What a run is made from, beside its settings: opened, or made where it is missing."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import DatasetDict

from captioner.data.dataset_tokenizer import open_dataset_tokenizer, train_dataset_tokenizer
from captioner.data.prepared import open_prepared, prepare, read_manifest
from captioner.data.shards import Shards, find_shards, read_captions
from captioner.data.sources import SOURCES, read_source
from captioner.data.tokenizer import CaptionTokenizer
from captioner.errors import DataError
from captioner.models.encoders import ImageEncoder, load_encoder
from captioner.models.image_processors import ImageProcessor, load_processor
from captioner.settings import Settings

logger = logging.getLogger(__name__)

TRAIN, VALIDATION = "train", "validation"
TOKENIZER_SAMPLES = 500_000
"""Samples of a stream that its tokenizer is trained on: BPE's merges change little beyond."""


@dataclass(frozen=True)
class Resources:
    """What a run is made from, beside its settings."""

    dataset: DatasetDict
    manifest: dict[str, Any]
    tokenizer: CaptionTokenizer
    encoder: ImageEncoder
    processor: ImageProcessor
    shards: Shards | None = None
    """What is streamed instead of the dataset's training split."""


def dataset_folder(settings: Settings) -> Path:
    """Where the settings' prepared dataset lives."""
    return Path(settings.data.folder) / settings.data.name


def gather_resources(settings: Settings, *, tokenizer_path: Path | None = None) -> Resources:
    """Open the dataset, the tokenizer and the encoder; the dataset and tokenizer are made where they are missing.

    Args:
        settings: what to open.
        tokenizer_path: a tokenizer.json, such as a resumed run's own, instead of the dataset's.
    """
    encoder, processor = load_encoder(settings.encoder), load_processor(settings.encoder)
    dataset, manifest = open_or_prepare_dataset(settings)
    shards = find_shards(settings.data.streaming) if settings.data.streaming else None
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
    folder = dataset_folder(settings) / "streams" / shards.fingerprint
    tokenizer = open_dataset_tokenizer(folder, settings.tokenizer, shards.fingerprint)
    if tokenizer is None:
        logger.info("Training the tokenizer on captions of %s", settings.data.streaming)
        captions = [[caption] for caption in read_captions(shards, most=TOKENIZER_SAMPLES)]
        dataset = {TRAIN: {"captions": captions}}
        tokenizer = train_dataset_tokenizer(dataset, folder, settings.tokenizer, shards.fingerprint)
    return tokenizer
