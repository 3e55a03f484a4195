"""From settings to objects: the only place where the parts are put together."""

import itertools
import json
from array import array
from collections.abc import Callable, Sequence

import torch
from datasets import DatasetDict
from PIL.Image import Image
from torch import Tensor

from captioner.data.batches import CaptionBatches, ImageLoader
from captioner.data.encoded_images import EncodedImages
from captioner.data.features import FeatureCache, FeatureRecipe, build_features
from captioner.data.images import open_image
from captioner.data.streaming import StreamBatches
from captioner.data.tokenizer import CaptionTokenizer
from captioner.data.view_loading import count_workers
from captioner.errors import DataError
from captioner.models.captioner import build_model
from captioner.models.encoders import ImageEncoder, encoder_fingerprint
from captioner.models.fast_encoding import fast_encode
from captioner.models.image_processors import ImageProcessor
from captioner.resources import TRAIN, VALIDATION, Resources, dataset_folder
from captioner.settings import Settings
from captioner.tasks.captioning import SAMPLES, CaptioningTask

BATCHES_AHEAD_OF_GPU = 2
ENCODED_IMAGES = 64
"""Images of a batch that the frozen encoder encodes for the feature cache."""
ENCODED_TOGETHER = 8192
"""Captions tokenized at once: the tokenizer keeps a kilobyte or two of each until all are done."""
SAMPLE_SIZE = 384  # longest side in pixels


def build_task(settings: Settings, resources: Resources, *, rank: int = 0, processes: int = 1) -> CaptioningTask:
    """The captioning task over cached features, over pixels where the encoder is trained, or over a stream of either.

    Args:
        settings: what to build.
        resources: what to build it from.
        rank: number of this process.
        processes: number of processes, which share every batch out.
    """
    dataset, shards = resources.dataset, resources.shards
    splits = (VALIDATION,) if shards else (TRAIN, VALIDATION)
    empty = [split for split in splits if not len(dataset[split])]
    if empty:
        raise DataError(
            f"{dataset_folder(settings)} has no images in split {' and '.join(empty)}; "
            "give some images that split and prepare it again with --overwrite"
        )
    loaders, views = build_loaders(settings, resources, splits)
    share = {"rank": rank, "processes": processes}
    if shards:
        train = build_stream(settings, resources, **share)
    else:
        train = CaptionBatches(
            encode_captions(resources.tokenizer, dataset[TRAIN]["captions"]),
            loaders[TRAIN],
            batch_images=settings.trainer.batch_images,
            captions_per_row=settings.trainer.captions_per_row,
            length_buckets=settings.trainer.length_buckets,
            views=views,
            seed=settings.trainer.seed,
            **_captions_as(settings, resources.tokenizer),
            **share,
        )
    validation = dataset[VALIDATION]
    if settings.trainer.validation_images:
        validation = validation.select(range(min(settings.trainer.validation_images, len(validation))))
    model = build_model(
        settings,
        encoder=resources.encoder,
        vocabulary_size=len(resources.tokenizer),
        cached=not settings.encoder.trainable,
    )
    return CaptioningTask(
        model,
        train=train,
        validation=CaptionBatches(
            encode_captions(resources.tokenizer, validation["captions"]),
            loaders[VALIDATION],
            batch_images=settings.decoding.batch_size * processes,
            shuffle=False,
            **_captions_as(settings, resources.tokenizer),
            **share,
        ),
        references=list(validation["captions"]),
        image_ids=None if shards else list(dataset[TRAIN]["image_id"]),
        tokenizer=resources.tokenizer,
        settings=settings.task,
        decoding=settings.decoding,
    )


def _captions_as(settings: Settings, tokenizer: CaptionTokenizer) -> dict[str, int]:
    """How captions stand in a batch."""
    return {"start": tokenizer.start_id, "end": tokenizer.end_id, "max_length": settings.decoder.max_length}


def build_loaders(
    settings: Settings, resources: Resources, splits: Sequence[str]
) -> tuple[dict[str, ImageLoader], int]:
    """What reads the images of these splits, and how many views of a training image there are."""
    if settings.encoder.trainable:
        return {split: PixelLoader(resources.dataset, split, resources.processor) for split in splits}, 1
    cache = open_features(settings, resources, splits)
    return {split: feature_loader(cache, split) for split in splits}, settings.encoder.views


def build_stream(settings: Settings, resources: Resources, *, rank: int, processes: int) -> StreamBatches:
    """The training batches of shards: pixels where the encoder is trained, else features, made as the images come."""
    encode = None if settings.encoder.trainable else frozen_encode(settings, resources.encoder)
    return StreamBatches(
        resources.shards,
        resources.tokenizer,
        resources.processor,
        # Training cannot use a tensor of inference mode itself.
        encode=encode and (lambda pixels: encode(pixels).float().clone()),
        max_length=settings.decoder.max_length,
        batch_images=settings.trainer.batch_images,
        captions_per_row=settings.trainer.captions_per_row,
        length_buckets=settings.trainer.length_buckets,
        shuffle_buffer=settings.data.shuffle_buffer,
        views=settings.encoder.views,
        seed=settings.trainer.seed,
        rank=rank,
        processes=processes,
    )


def sample_pictures(resources: Resources) -> list[Image]:
    """The images whose captions a validation gives as samples, small enough to be looked at."""
    images = EncodedImages(resources.dataset[VALIDATION])
    pictures = [open_image(images[row]) for row in range(min(SAMPLES, len(resources.dataset[VALIDATION])))]
    for picture in pictures:
        picture.thumbnail((SAMPLE_SIZE, SAMPLE_SIZE))
    return pictures


def encode_captions(tokenizer: CaptionTokenizer, captions: Sequence[Sequence[str]]) -> list[list[Sequence[int]]]:
    """Token ids of every caption of every image, in arrays, which take a quarter of a list's memory."""
    captions = list(captions)
    texts = [caption for image in captions for caption in image]
    parts = (texts[place : place + ENCODED_TOGETHER] for place in range(0, len(texts), ENCODED_TOGETHER))
    flat = itertools.chain.from_iterable(map(tokenizer.encode_batch, parts))
    return [[array("i", next(flat)) for _ in image] for image in captions]


def frozen_encode(settings: Settings, encoder: ImageEncoder) -> Callable[[Tensor], Tensor]:
    """A function from pixels to the features of the frozen encoder, both on the CPU, for any thread."""
    # By its number: another thread's current GPU is the first one, whichever this process has.
    device = torch.device("cuda", torch.cuda.current_device()) if _encodes_on_gpu(settings) else torch.device("cpu")
    encoder.to(device)
    fast = fast_encode(encoder)

    def encode(pixels: Tensor) -> Tensor:
        return fast(pixels.to(device, non_blocking=True)).cpu()  # at once where the pixels are pinned

    return encode


def _encodes_on_gpu(settings: Settings) -> bool:
    return torch.cuda.is_available() and settings.trainer.device != "cpu"


def feature_recipe(settings: Settings, resources: Resources) -> FeatureRecipe:
    """What the features of the settings' encoder depend on."""
    return FeatureRecipe(
        encoder=encoder_fingerprint(resources.encoder),
        processor=json.dumps(resources.processor.to_dict(), sort_keys=True),
        dataset=resources.manifest["fingerprint"],
        views=settings.encoder.views,
    )


def open_features(settings: Settings, resources: Resources, splits: Sequence[str]) -> FeatureCache:
    """The feature cache of the frozen encoder, built or completed where these splits are not whole in it."""
    return build_features(
        resources.dataset,
        dataset_folder(settings) / "features",
        feature_recipe(settings, resources),
        encode=frozen_encode(settings, resources.encoder),
        process=resources.processor,
        splits=splits,
        **loading_options(settings, resources.processor),
    )


def loading_options(settings: Settings, processor: ImageProcessor) -> dict[str, int]:
    """How ``build_features`` loads images: ahead of a GPU, in processes where there are the cores for it."""
    if not _encodes_on_gpu(settings):
        return {"batch_size": ENCODED_IMAGES, "ahead": 0, "workers": 0}
    batch_bytes = ENCODED_IMAGES * 3 * processor.image_size**2 * 4
    return {"batch_size": ENCODED_IMAGES, "ahead": BATCHES_AHEAD_OF_GPU, "workers": count_workers(batch_bytes)}


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
