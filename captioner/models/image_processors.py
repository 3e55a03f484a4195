"""From PIL images to an encoder's pixels, by the Pillow image processors of transformers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor
from transformers import ViTImageProcessorPil
from transformers.image_processing_backends import PilBackend

from captioner.errors import ConfigError
from captioner.models.encoder_files import find_encoder_files, in_one_line, parse_encoder_config
from captioner.settings import EncoderSettings

# Siglip2's own processor cuts patches of any aspect ratio; the encoder here takes square images as all others do.
PLAIN_PROCESSORS = {"Siglip2ImageProcessor"}


class ImageProcessor:
    """RGB images to pixels [images, 3, size, size]: resize and crop as the encoder was trained, scale, normalise."""

    def __init__(self, processor: PilBackend) -> None:
        """Raises ConfigError if images of different shapes do not come out as squares of one size."""
        self._processor = processor
        self._scale, self._shift = _affine(processor)
        self.image_size = self._measure()

    @classmethod
    def plain(cls, image_size: int) -> "ImageProcessor":
        """Resize to a square and scale to mean 0.5 and deviation 0.5: for encoders trained from scratch."""
        size = {"height": image_size, "width": image_size}
        return cls(ViTImageProcessorPil(size=size, resample=Image.Resampling.BILINEAR))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ImageProcessor":
        """Make the processor of a preprocessor_config.json; raises ConfigError for a type that is not known."""
        kind = str(values.get("image_processor_type", ""))
        processor_class = getattr(transformers, kind.removesuffix("Fast").removesuffix("Pil") + "Pil", None)
        if not kind or processor_class is None:
            raise ConfigError(
                f"preprocessor_config.json: image_processor_type={kind!r} is no Pillow image processor of transformers"
                f" {transformers.__version__}; use one such as CLIPImageProcessor, or another transformers version"
            )
        return cls(processor_class.from_dict(values))

    def to_dict(self) -> dict[str, Any]:
        """The contents of preprocessor_config.json."""
        return self._processor.to_dict()

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn RGB images into pixels [images, 3, size, size], float32."""
        # Resizing and cropping stay in bytes; scaling one image after the other stays in the processor's cache.
        squares = self._processor(list(images), do_rescale=False, do_normalize=False)["pixel_values"]
        pixels = np.empty((len(squares), *squares[0].shape), np.float32)  # [images, 3, size, size]
        for square, scaled in zip(squares, pixels, strict=True):
            np.multiply(square, self._scale, out=scaled, dtype=np.float32)
            scaled += self._shift
        return torch.from_numpy(pixels)

    def covered_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, in pixels, of what the pixels show of an image of this size.

        It is found by processing a picture whose red grows from left to right and whose green grows downward.
        """
        ramps = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        picture = Image.fromarray(np.stack([*ramps, np.zeros((height, width))], axis=2).round().astype(np.uint8))
        red, green, _ = self._processor([picture], do_rescale=False, do_normalize=False)["pixel_values"][0]
        left, right = _ends(red.mean(axis=0) / 255 * (width - 1) + 0.5)
        top, bottom = _ends(green.mean(axis=1) / 255 * (height - 1) + 0.5)
        return max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))

    def _measure(self) -> int:
        shapes = set()
        for width, height in ((64, 48), (48, 64)):
            image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
            expected = self._processor(image, return_tensors="pt")["pixel_values"][0]  # [3, height, width]
            shapes.add(tuple(expected.shape))
            if not torch.allclose(self([image])[0], expected, atol=1e-5):
                raise ConfigError(f"image processor {type(self._processor).__name__}: more than scaling, not supported")
        sides = {side for shape in shapes for side in shape[1:]}
        if len(sides) != 1:
            raise ConfigError(
                f"image processor {type(self._processor).__name__}: its images are not squares of one size;"
                " set encoder.image_size, for example to 224"
            )
        return sides.pop()


def load_processor(settings: EncoderSettings) -> ImageProcessor:
    """Load the encoder's preprocessing, at settings.image_size where that is set.

    Raises ConfigError or HubError as ``find_encoder_files`` does, also if there is no preprocessor_config.json.
    """
    if settings.config:
        return ImageProcessor.plain(parse_encoder_config(settings)["image_size"])
    from transformers import AutoImageProcessor  # an export names its processor's class, and needs no mapping of all

    folder = find_encoder_files(settings.name, settings.revision).folder
    try:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"encoder.name={settings.name}: no usable preprocessor_config.json in it"
            f" ({in_one_line(error)}); add the one of the model's image processor"
        ) from error
    values = processor.to_dict()
    if values["image_processor_type"] in PLAIN_PROCESSORS:
        side = settings.image_size or int(values["patch_size"] * values["max_num_patches"] ** 0.5)
        return ImageProcessor.plain(side)
    if settings.image_size:
        processor = type(processor).from_dict(values | _resized(values, settings.image_size))
    return ImageProcessor(processor)


def _ends(places: np.ndarray) -> tuple[float, float]:
    """Where a line of pixels begins and ends, from where the middle of each pixel is."""
    step, first = np.polyfit(np.arange(len(places)), places, 1)
    return float(first - step / 2), float(first + step * (len(places) - 0.5))


def _affine(processor: PilBackend) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift [3, 1, 1] that take bytes to normalised pixels."""
    scale = np.full(3, processor.rescale_factor if processor.do_rescale else 1.0)
    shift = np.zeros(3)
    if processor.do_normalize:
        mean, deviation = np.asarray(processor.image_mean), np.asarray(processor.image_std)
        scale, shift = scale / deviation, -mean / deviation
    return scale.astype(np.float32).reshape(3, 1, 1), shift.astype(np.float32).reshape(3, 1, 1)


def _resized(values: dict[str, Any], side: int) -> dict[str, Any]:
    """The entries of a preprocessor_config.json that make images of another size, with the same share cropped away."""
    square = {"height": side, "width": side}
    size = values.get("size") or {}
    if not size.get("shortest_edge"):
        return {"size": square, "crop_size": square}
    if values.get("crop_pct"):  # ConvNext: the shortest edge is that of the crop
        return {"size": {"shortest_edge": side}}
    if not values.get("do_center_crop"):
        return {"size": square}
    shortest_edge = round(size["shortest_edge"] * side / values["crop_size"]["height"])
    return {"size": {"shortest_edge": max(shortest_edge, side)}, "crop_size": square}
