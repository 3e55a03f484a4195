import json
import logging
import shutil
import types
import warnings

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image
from torch import nn

from captioner.errors import ConfigError, HubError
from captioner.models import encoder_files
from captioner.models.encoders import (
    encoder_config,
    encoder_fingerprint,
    encoder_from_config,
    load_encoder,
)
from captioner.models.fast_encoding import _fold, fast_encode
from captioner.models.image_processors import ImageProcessor, load_processor
from captioner.settings import EncoderSettings

TRANSFORMER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHED = TRANSFORMER | {"patch_size": 8}
CLASS_TOKEN, REGISTERS = 1, 2
# For images of 32 pixels: config, patches, width
FAMILIES = {
    "clip": ({"model_type": "clip", "vision_config": PATCHED | {"image_size": 32}}, 16 + CLASS_TOKEN, 16),
    "clip_vision_model": (PATCHED, 16 + CLASS_TOKEN, 16),
    "siglip": ({"model_type": "siglip", "vision_config": PATCHED | {"image_size": 32}}, 16, 16),
    "siglip_vision_model": (PATCHED, 16, 16),
    "siglip2_vision_model": (PATCHED | {"num_patches": 16}, 16, 16),
    "vit": (PATCHED, 16 + CLASS_TOKEN, 16),
    "dinov2": (PATCHED, 16 + CLASS_TOKEN, 16),
    "dinov2_with_registers": (PATCHED | {"num_register_tokens": REGISTERS}, 16 + CLASS_TOKEN + REGISTERS, 16),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"}, 16, 12),
    "mobilenet_v2": ({"depth_multiplier": 0.35, "finegrained_output": False}, 1, 448),
    "convnext": ({"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2}, 16, 12),
}


def settings_for(family, **changes):
    config = {"model_type": family} | FAMILIES[family][0]
    return EncoderSettings(**({"config": json.dumps(config), "image_size": 32} | changes))


def pixels(images=2, size=32):
    return torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))


def shake(encoder):
    """Weights and batch statistics as training leaves them, not as initialisation does."""
    generator = torch.Generator().manual_seed(0)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return encoder


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A whole CLIP repository, text tower included, as openai/clip-vit-base-patch32 ships."""
    folder = tmp_path_factory.mktemp("clip")
    config = transformers.CLIPConfig(
        vision_config=PATCHED | {"image_size": 32}, text_config=TRANSFORMER | {"vocab_size": 50}, projection_dim=8
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": 32}
    processor = transformers.CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_tokens(family):
    encoder = load_encoder(settings_for(family))
    _, patches, width = FAMILIES[family]
    assert (encoder.patches, encoder.width) == (patches, width)
    assert encoder(pixels(3)).shape == (3, patches, width)


@pytest.mark.parametrize("family", FAMILIES)
def test_frozen_encoder_ignores_training_mode(family):
    encoder = shake(load_encoder(settings_for(family)))
    parent = nn.Sequential(encoder, nn.Dropout(0.5))
    before, fingerprint = encoder(pixels()), encoder_fingerprint(encoder)
    parent.train()
    assert parent[1].training
    assert not any(module.training for module in encoder.modules())
    assert torch.equal(encoder(pixels()), before)
    assert encoder_fingerprint(encoder) == fingerprint
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_trainable_encoder_gets_gradients_wherever_it_asks_for_them(family):
    encoder = load_encoder(settings_for(family, trainable=True))
    assert encoder.training
    encoder(pixels(4, 32)).square().sum().backward()
    asked = {name for name, parameter in encoder.model.named_parameters() if parameter.requires_grad}
    given = {name for name, parameter in encoder.model.named_parameters() if parameter.grad is not None}
    assert asked == given
    assert encoder.unused.isdisjoint(asked)
    assert len(asked) > len(encoder.unused)


@pytest.mark.parametrize("family", FAMILIES)
def test_config_and_weights_round_trip(family):
    encoder = shake(load_encoder(settings_for(family)))
    config = json.loads(json.dumps(encoder_config(encoder)))
    twin = encoder_from_config(config)
    twin.load_state_dict(encoder.state_dict())
    assert (twin.patches, twin.width, twin.image_size) == (encoder.patches, encoder.width, encoder.image_size)
    assert torch.equal(twin(pixels()), encoder(pixels()))
    assert encoder_fingerprint(twin) == encoder_fingerprint(encoder)
    assert encoder_config(twin) == encoder_config(encoder)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("vit", {}),
        ("convnext", {}),
        ("mobilenet_v2", {}),
        ("mobilenet_v2", {"output_stride": 16}),
        ("resnet", {}),
        ("resnet", {"layer_type": "bottleneck"}),
    ],
)
def test_fast_encode_equals_the_encoder(family, changes):
    config = {"model_type": family} | FAMILIES[family][0] | changes
    encoder = shake(load_encoder(EncoderSettings(config=json.dumps(config), image_size=64)))
    images = pixels(7, 64)
    tokens = fast_encode(encoder)(images)
    expected = encoder(images)
    assert not tokens.requires_grad
    torch.testing.assert_close(tokens, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["resnet", "mobilenet_v2"])
def test_folding_leaves_no_batch_normalisation(family):
    encoder = shake(load_encoder(settings_for(family)))
    folded = _fold(encoder)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    expected = encoder(pixels())
    torch.testing.assert_close(folded(pixels()), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_fast_encode_leaves_a_trainable_encoder_in_training():
    encoder = load_encoder(settings_for("resnet", trainable=True))
    before = encoder_fingerprint(encoder)
    fast_encode(encoder)(pixels())
    assert encoder.training
    assert encoder_fingerprint(encoder) == before


def gradients_and_kept_numbers(settings):
    """The gradients of an encoder that is the same each time, and how many numbers were kept for them."""
    torch.manual_seed(1)
    encoder, sizes = load_encoder(settings), []

    def keep(tensor):
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = encoder(pixels()).square().sum()
    loss.backward()
    return {name: each.grad for name, each in encoder.named_parameters() if each.requires_grad}, sum(sizes)


def test_gradient_checkpointing_gives_the_same_gradients_from_fewer_kept_activations():
    expected, all_kept = gradients_and_kept_numbers(settings_for("vit", trainable=True))
    gradients, kept = gradients_and_kept_numbers(settings_for("vit", trainable=True, gradient_checkpointing=True))
    torch.testing.assert_close(gradients, expected, rtol=1e-6, atol=1e-7)
    assert kept < all_kept / 2


def test_gradient_checkpointing_is_refused_where_the_model_cannot_do_it():
    with pytest.raises(ConfigError, match=r"^encoder.gradient_checkpointing: mobilenet_v2 cannot do without its"):
        load_encoder(settings_for("mobilenet_v2", trainable=True, gradient_checkpointing=True))


def test_fingerprint_depends_on_every_weight():
    encoder = load_encoder(settings_for("vit"))
    before = encoder_fingerprint(encoder)
    assert len(before) == 16
    with torch.no_grad():
        encoder.model.layernorm.bias[3] += 1e-6
    assert encoder_fingerprint(encoder) != before


def test_image_tower_of_a_whole_clip_repository(clip_folder, capfd):
    encoder = load_encoder(EncoderSettings(name=str(clip_folder)))
    whole = transformers.CLIPModel.from_pretrained(clip_folder)
    capfd.readouterr()
    expected = whole.vision_model(pixel_values=pixels()).last_hidden_state
    torch.testing.assert_close(encoder(pixels()), expected)
    assert (encoder.image_size, encoder.patches, encoder.revision) == (32, 17, "")
    assert not any("text" in name for name, _ in encoder.named_parameters())


def test_loading_is_silent_and_restores_the_library_settings(clip_folder, capfd):
    verbosity = transformers.utils.logging.get_verbosity()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    with warnings.catch_warnings(record=True) as caught:
        load_encoder(EncoderSettings(name=str(clip_folder)))
    assert capfd.readouterr() == ("", "")
    assert caught == []
    assert transformers.utils.logging.get_verbosity() == verbosity
    assert transformers.utils.logging.is_progress_bar_enabled() == bars


def test_pooler_of_a_vit_is_not_loaded(tmp_path):
    config = transformers.ViTConfig(**PATCHED, image_size=32)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    encoder = load_encoder(EncoderSettings(name=str(tmp_path)))
    assert encoder.model.pooler is None
    assert encoder.patches == 17


def test_positions_are_interpolated_to_another_image_size(clip_folder):
    settings = EncoderSettings(name=str(clip_folder), image_size=48)
    encoder = load_encoder(settings)
    assert encoder.patches == 36 + CLASS_TOKEN
    image = Image.new("RGB", (100, 60))
    assert encoder(load_processor(settings)([image])).shape == (1, 37, 16)
    twin = encoder_from_config(encoder_config(encoder))
    twin.load_state_dict(encoder.state_dict())
    assert torch.equal(twin(pixels(1, 48)), encoder(pixels(1, 48)))


def test_image_size_that_no_patch_fits_is_an_error(clip_folder):
    with pytest.raises(ConfigError, match=r"image_size=45 is not a multiple of .* patch size 8; use 40 or 48"):
        load_encoder(EncoderSettings(name=str(clip_folder), image_size=45))


def test_model_without_image_tokens_is_an_error():
    config = json.dumps({"model_type": "bert"} | TRANSFORMER)
    with pytest.raises(ConfigError, match=r"encoder bert: gives no image tokens .*use a vision model"):
        load_encoder(EncoderSettings(config=config))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "encoder.config is no JSON"),
        ("[]", "encoder.config has no model_type"),
        ('{"model_type": "vitt"}', "model_type='vitt' is unknown to transformers; did you mean 'vit'"),
        ('{"model_type": "vit", "hidden_size": "wide"}', "cannot build vit from it .*hidden_size"),
    ],
)
def test_wrong_config_is_an_error(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_encoder(EncoderSettings(config=config))
    assert "\n" not in str(caught.value)


def copy_without(folder, target, *names):
    shutil.copytree(folder, target, dirs_exist_ok=True)
    for name in names:
        (target / name).unlink()
    return EncoderSettings(name=str(target))


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no such folder; give a folder with config.json, or a Hub id"):
        load_encoder(EncoderSettings(name=str(tmp_path / "nothing")))


def test_folder_without_config_is_an_error(clip_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"no config.json in it"):
        load_encoder(copy_without(clip_folder, tmp_path, "config.json"))


def test_folder_without_weights_is_an_error(clip_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"no model.safetensors in it; fetch the weights"):
        load_encoder(copy_without(clip_folder, tmp_path, "model.safetensors"))


def test_pickled_weights_are_refused(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path, "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ConfigError, match=r"weights are in pytorch_model.bin and only safetensors.*save_pretrained"):
        load_encoder(settings)


def test_folder_without_preprocessing_is_an_error(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path, "preprocessor_config.json")
    with pytest.raises(ConfigError, match=r"no usable preprocessor_config.json in it") as caught:
        load_encoder(settings)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_an_error(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"its weights cannot be loaded .*fetch them again"):
        load_encoder(settings)


def test_damaged_config_is_an_error(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path)
    (tmp_path / "config.json").write_text("{,}")
    with pytest.raises(ConfigError, match=r"config.json cannot be used"):
        load_encoder(settings)


def test_weights_of_another_model_are_an_error(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path)
    transformers.ViTConfig(**PATCHED, image_size=32).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"its weights lack \d+ tensors of vit.*fetch weights and config.json"):
        load_encoder(settings)


def hub_error(kind):
    response = types.SimpleNamespace(status_code=404, headers={}, request=None)
    return kind("refused\nby the Hub", response=response)


@pytest.mark.parametrize(
    ("error", "type_", "message"),
    [
        (hub_error(RepositoryNotFoundError), HubError, "no such folder here and no such repository on the Hub"),
        (hub_error(GatedRepoError), HubError, "access is granted on its Hub page"),
        (hub_error(RevisionNotFoundError), HubError, "the Hub knows no revision v9; correct encoder.revision"),
        (LocalEntryNotFoundError("offline"), HubError, "the Hub cannot be reached; connect and run again"),
        (HFValidationError("bad"), ConfigError, "no Hub id either"),
        (HTTPError("slow\nline"), HubError, r"download failed \(slow line\); run again"),
    ],
)
def test_hub_errors_are_one_line(monkeypatch, error, type_, message):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(encoder_files, "snapshot_download", refuse)
    with pytest.raises(type_, match=message) as caught:
        load_encoder(EncoderSettings(name="someone/encoder", revision="v9"))
    assert "\n" not in str(caught.value)


def test_hub_revision_is_pinned_and_recorded(clip_folder, tmp_path, monkeypatch):
    snapshot = tmp_path / ("a" * 40)
    copy_without(clip_folder, snapshot)
    asked = []

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        return str(snapshot)

    monkeypatch.setattr(encoder_files, "snapshot_download", download)
    encoder = load_encoder(EncoderSettings(name="someone/encoder", revision="v1"))
    assert encoder.revision == "a" * 40
    assert set(asked) == {("someone/encoder", "v1")}


def test_converted_weights_are_taken_where_the_default_branch_has_none(clip_folder, tmp_path, monkeypatch, caplog):
    pickled, converted = tmp_path / "pickled", tmp_path / ("b" * 40)
    copy_without(clip_folder, pickled, "model.safetensors")
    copy_without(clip_folder, converted)
    monkeypatch.setattr(
        encoder_files,
        "snapshot_download",
        lambda name, *, revision, allow_patterns: str(converted if revision == "refs/pr/15" else pickled),
    )

    def discussion(title, status, reference):
        return types.SimpleNamespace(title=title, status=status, git_reference=reference)

    requests = [
        discussion("Something else", "open", "refs/pr/3"),
        discussion(encoder_files.CONVERSION_TITLE, "closed", "refs/pr/4"),
        discussion(encoder_files.CONVERSION_TITLE, "open", "refs/pr/15"),
    ]
    api = types.SimpleNamespace(get_repo_discussions=lambda name, *, author, discussion_type: iter(requests))
    monkeypatch.setattr(encoder_files, "HfApi", lambda: api)
    with caplog.at_level(logging.WARNING, logger="captioner"):
        encoder = load_encoder(EncoderSettings(name="someone/encoder"))
    assert encoder.revision == "b" * 40
    assert "refs/pr/15 (pin it with encoder.revision)" in caplog.text
    requests.clear()
    with pytest.raises(ConfigError, match=r"no model.safetensors in it.*refs/pr/NUMBER"):
        load_encoder(EncoderSettings(name="someone/encoder"))


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
