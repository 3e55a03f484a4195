"""From settings to objects: the only place where the parts are put together."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from torch import Tensor

from captioner.data.batches import CaptionBatches, ImageLoader
from captioner.data.encoded_images import EncodedImages
from captioner.data.features import FeatureCache, FeatureRecipe, build_features
from captioner.data.images import open_image
from captioner.data.prepared import open_prepared, prepare, read_manifest
from captioner.data.sources import SOURCES, read_source
from captioner.data.tokenizer import CaptionTokenizer, open_dataset_tokenizer, train_dataset_tokenizer
from captioner.errors import DataError
from captioner.models.captioner import build_model
from captioner.models.encoders import ImageEncoder, encoder_fingerprint, load_encoder
from captioner.models.fast_encoding import fast_encode
from captioner.models.image_processors import ImageProcessor, load_processor
from captioner.settings import Settings
from captioner.tasks.captioning import CaptioningTask

logger = logging.getLogger(__name__)

TRAIN, VALIDATION = "train", "validation"


@dataclass(frozen=True)
class Resources:
    """What a run is made from, beside its settings."""

    dataset: DatasetDict
    manifest: dict[str, Any]
    tokenizer: CaptionTokenizer
    encoder: ImageEncoder
    processor: ImageProcessor


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
    if tokenizer_path:
        tokenizer = CaptionTokenizer.load(tokenizer_path)
    else:
        tokenizer = open_or_train_tokenizer(settings, dataset, manifest)
    return Resources(dataset, manifest, tokenizer, encoder, processor)


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


def build_task(settings: Settings, resources: Resources, *, rank: int = 0, processes: int = 1) -> CaptioningTask:
    """The captioning task over cached features, or over pixels where the encoder is trained."""
    encoder, tokenizer, dataset = resources.encoder, resources.tokenizer, resources.dataset
    empty = [split for split in (TRAIN, VALIDATION) if not len(dataset[split])]
    if empty:
        raise DataError(
            f"{dataset_folder(settings)} has no images in split {' and '.join(empty)}; "
            "give some images that split and prepare it again with --overwrite"
        )
    if settings.encoder.trainable:
        loaders = {split: PixelLoader(dataset, split, resources.processor) for split in (TRAIN, VALIDATION)}
        views = 1
    else:
        cache = open_features(settings, resources)
        loaders = {split: feature_loader(cache, split) for split in (TRAIN, VALIDATION)}
        views = cache.views(TRAIN)
    shared = {
        "start": tokenizer.start_id,
        "end": tokenizer.end_id,
        "max_length": settings.decoder.max_length,
        "rank": rank,
        "processes": processes,
    }
    train, validation = dataset[TRAIN], dataset[VALIDATION]
    if settings.trainer.validation_images:
        validation = validation.select(range(min(settings.trainer.validation_images, len(validation))))
    model = build_model(
        settings, encoder=encoder, vocabulary_size=len(tokenizer), cached=not settings.encoder.trainable
    )
    return CaptioningTask(
        model,
        train=CaptionBatches(
            encode_captions(tokenizer, train["captions"]),
            loaders[TRAIN],
            batch_images=settings.trainer.batch_images,
            captions_per_row=settings.trainer.captions_per_row,
            length_buckets=settings.trainer.length_buckets,
            views=views,
            seed=settings.trainer.seed,
            **shared,
        ),
        validation=CaptionBatches(
            encode_captions(tokenizer, validation["captions"]),
            loaders[VALIDATION],
            batch_images=settings.decoding.batch_size,
            shuffle=False,
            **{**shared, "rank": 0, "processes": 1},
        ),
        references=list(validation["captions"]),
        image_ids=list(train["image_id"]),
        tokenizer=tokenizer,
        settings=settings.task,
        decoding=settings.decoding,
    )


def encode_captions(tokenizer: CaptionTokenizer, captions: Sequence[Sequence[str]]) -> list[list[list[int]]]:
    """Token ids of every caption of every image."""
    captions = list(captions)
    flat = iter(tokenizer.encode_batch([caption for image in captions for caption in image]))
    return [[next(flat) for _ in image] for image in captions]


def open_features(settings: Settings, resources: Resources) -> FeatureCache:
    """The feature cache of the frozen encoder, built or completed where it is not whole."""
    encoder = resources.encoder
    recipe = FeatureRecipe(
        encoder=encoder_fingerprint(encoder),
        processor=json.dumps(resources.processor.to_dict(), sort_keys=True),
        dataset=resources.manifest["fingerprint"],
        views=settings.encoder.views,
    )
    device = torch.device("cuda" if torch.cuda.is_available() and settings.trainer.device != "cpu" else "cpu")
    encoder.to(device)

    fast = fast_encode(encoder)

    def encode(pixels: Tensor) -> Tensor:
        return fast(pixels.to(device)).cpu()

    return build_features(
        resources.dataset,
        dataset_folder(settings) / "features",
        recipe,
        encode=encode,
        process=resources.processor,
        splits=(TRAIN, VALIDATION),
    )


def feature_loader(cache: FeatureCache, split: str) -> ImageLoader:
    """Reads a split's cached features."""

    def load(rows: Sequence[int], views: Sequence[int]) -> Tensor:
        return cache.get(split, rows, views).float()

    return load


class PixelLoader:
    """Reads a split's images as pixels; each is decoded once and kept, as far as memory allows."""

    LARGEST = 4 * 1024**3  # bytes of pixels kept

    def __init__(self, dataset: DatasetDict, split: str, processor: ImageProcessor) -> None:
        self._images = EncodedImages(dataset[split])
        self._processor = processor
        self._kept: dict[int, Tensor] = {}
        self._room = self.LARGEST

    def __call__(self, rows: Sequence[int], views: Sequence[int]) -> Tensor:
        """Pixels [rows, 3, height, width]; a trained encoder sees every image as it is, view 0."""
        missing = [row for row in rows if row not in self._kept]
        read = {}
        if missing:
            pixels = self._processor([open_image(self._images[row]) for row in missing])
            read = dict(zip(missing, pixels, strict=True))
            for row, image in read.items():
                size = image.numel() * image.element_size()
                if size <= self._room:
                    self._kept[row], self._room = image, self._room - size
        return torch.stack([self._kept.get(row, read.get(row)) for row in rows])
