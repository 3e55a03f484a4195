"""Preprocessing against that of transformers and against arithmetic by hand."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from small_encoders import PATCHED, copy_without, settings_for

from captioner.errors import ConfigError
from captioner.models.encoders import load_encoder
from captioner.models.image_processors import ImageProcessor, load_processor
from captioner.settings import EncoderSettings


def noise(width, height):
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    "processor",
    [
        transformers.CLIPImageProcessorPil(),
        transformers.ViTImageProcessorPil(),
        transformers.SiglipImageProcessorPil(),
        transformers.BitImageProcessorPil(size={"shortest_edge": 256}),
        transformers.ConvNextImageProcessorPil(size={"shortest_edge": 224}),
        transformers.MobileNetV2ImageProcessorPil(),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_processor_equals_that_of_transformers(processor):
    images = [noise(300, 200), noise(150, 260)]
    ours = ImageProcessor(processor)
    expected = processor(images, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(ours(images), expected, atol=1e-5, rtol=0)
    assert ours(images).shape == (2, 3, ours.image_size, ours.image_size)
    twin = ImageProcessor.from_dict(json.loads(json.dumps(ours.to_dict())))
    assert torch.equal(twin(images), ours(images))
    assert twin.to_dict() == ours.to_dict()


@pytest.mark.parametrize(
    ("processor", "crop"),
    [
        (transformers.CLIPImageProcessorPil(), 1.0),
        (transformers.MobileNetV2ImageProcessorPil(), 256 / 224),
        (transformers.ConvNextImageProcessorPil(size={"shortest_edge": 224}), 256 / 224),
        (transformers.ViTImageProcessorPil(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_image_size_overrides_the_processors_and_keeps_its_crop(processor, crop, clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path, "preprocessor_config.json")
    processor.save_pretrained(tmp_path)
    resized = load_processor(EncoderSettings(name=settings.name, image_size=64))
    assert resized.image_size == 64
    half = noise(640, 640).resize((round(64 * (crop or 1)),) * 2, processor.resample)
    margin = (half.width - 64) // 2
    middle = np.asarray(half.crop((margin, margin, margin + 64, margin + 64)), dtype=np.float32) / 255
    expected = (middle - np.asarray(processor.image_mean)) / np.asarray(processor.image_std)
    got = resized([noise(640, 640)])[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_scratch_encoder_has_a_plain_processor():
    processor = load_processor(settings_for("resnet", image_size=40))
    image = noise(80, 60)
    expected = np.asarray(image.resize((40, 40), Image.Resampling.BILINEAR), dtype=np.float32) / 127.5 - 1
    np.testing.assert_allclose(processor([image])[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_scratch_size_comes_from_the_settings_then_the_config():
    config = json.dumps({"model_type": "vit", "image_size": 48} | PATCHED)
    assert load_encoder(EncoderSettings(config=config)).image_size == 48
    assert load_processor(EncoderSettings(config=config)).image_size == 48
    assert load_encoder(EncoderSettings(config=config, image_size=32)).patches == 17


def test_processor_of_an_unknown_type_is_an_error():
    with pytest.raises(ConfigError, match=r"image_processor_type='Nothing' is no Pillow image processor"):
        ImageProcessor.from_dict({"image_processor_type": "Nothing"})


def test_processor_without_a_fixed_size_is_an_error():
    processor = transformers.ViTImageProcessorPil(size={"shortest_edge": 32})
    with pytest.raises(ConfigError, match=r"not squares of one size; set encoder.image_size"):
        ImageProcessor(processor)
