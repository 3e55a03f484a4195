"""Image encoders of transformers as one shape: pixels [images, 3, size, size] -> tokens [images, patches, width]."""

import difflib
import hashlib
import inspect
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoConfig, PretrainedConfig, PreTrainedModel

from captioner.errors import ConfigError
from captioner.models.encoder_files import SCRATCH_SIZE, find_encoder_files, in_one_line, parse_encoder_config
from captioner.models.image_processors import load_processor
from captioner.settings import EncoderSettings

LOADING_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError)


class ImageEncoder(nn.Module):
    """A vision model of transformers that gives all its patch tokens, or the cells of its last feature map.

    A frozen encoder stays in evaluation mode whatever ``train()`` says, so batch statistics and dropout stay still.
    """

    def __init__(self, model: PreTrainedModel, *, image_size: int, trainable: bool = False, revision: str = "") -> None:
        """Wrap a vision model and find out its ``patches`` and ``width``.

        Args:
            model: vision model whose output has a ``last_hidden_state``.
            image_size: side of the square input in pixels; positions are interpolated where the model can do it.
            trainable: train the model too; parameters that the tokens do not depend on stay frozen.
            revision: Hub commit of the weights, for the record.

        Raises ConfigError if the model gives no tokens for images of this size.
        """
        super().__init__()
        self.model = model
        self.image_size = image_size
        self.trainable = trainable
        self.revision = revision
        self._patch_size = _patch_size(model.config)
        self._options = _forward_options(model, image_size)
        self.patches, self.width, self.unused = self._measure()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trainable and name not in self.unused)
        if any(isinstance(module, nn.Conv2d) for module in model.modules()):
            self.to(memory_format=torch.channels_last)  # a fifth less time for a training step of a CNN on a CPU
        self.train(trainable)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels [images, 3, size, size] to tokens [images, patches, width]."""
        if self.model.config.model_type == "siglip2_vision_model":
            tokens = self._encode_patches(pixels)
        else:
            tokens = self.model(pixel_values=pixels, **self._options).last_hidden_state
        if tokens.dim() == 4:  # a feature map [images, width, height, width of the map]
            tokens = tokens.flatten(2).transpose(1, 2)
        return tokens

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches; tokens before them, such as a class token and registers, are none."""
        side = self.image_size // (self._patch_size or self.image_size)
        if side == 1 or side**2 > self.patches:  # a feature map, or patches that were merged on the way
            side = math.isqrt(self.patches)
        return side, side

    def train(self, mode: bool = True) -> "ImageEncoder":
        """Set training mode, unless the encoder is frozen."""
        return super().train(mode and self.trainable)

    def checkpoint_gradients(self) -> None:
        """Keep only each block's input for the backward pass, which computes the rest again: less memory, more time.

        Chen et al. 2016, https://arxiv.org/abs/1604.06174. Raises ConfigError if the model cannot do it.
        """
        # The second is its older name, deprecated where there is the first; both take torch's options first.
        names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
        enable = next(getattr(self.model, name) for name in names if hasattr(self.model, name))
        try:
            enable({"use_reentrant": False})
        except ValueError as error:
            name = self.model.config.model_type
            raise ConfigError(
                f"encoder.gradient_checkpointing: {name} cannot do without its activations; leave it out"
            ) from error

    def _encode_patches(self, pixels: Tensor) -> Tensor:
        """Siglip2's own layout: patches as rows, any grid of them (https://arxiv.org/abs/2502.14786, section 2.4)."""
        images, channels, height, width = pixels.shape
        side = self._patch_size
        grid = pixels.reshape(images, channels, height // side, side, width // side, side)
        patches = grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # [images, patches, side * side * channels]
        shapes = torch.tensor([[height // side, width // side]] * images, device=pixels.device)
        mask = torch.ones(patches.shape[:2], dtype=torch.long, device=pixels.device)
        return self.model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes).last_hidden_state

    def _measure(self) -> tuple[int, int, frozenset[str]]:
        """Patches, width, and the parameters that the tokens do not depend on (a pooler's norm, a mask token)."""
        name, size = self.model.config.model_type, self.image_size
        if self._patch_size and size % self._patch_size:
            below = max(size // self._patch_size, 1) * self._patch_size
            raise ConfigError(
                f"encoder.image_size={size} is not a multiple of {name}'s patch size {self._patch_size};"
                f" use {below} or {below + self._patch_size}"
            )
        self.model.eval()
        try:
            with torch.enable_grad():
                tokens = self(torch.zeros(1, 3, size, size))
        except LOADING_ERRORS as error:
            native = _native_size(self.model.config)
            remedy = f"set encoder.image_size to {native}" if native not in (0, size) else "use a vision model"
            raise ConfigError(
                f"encoder {name}: gives no image tokens for {size} x {size} pixels ({in_one_line(error)}); {remedy}"
            ) from error
        used = _leaves(tokens)
        unused = frozenset(name for name, parameter in self.model.named_parameters() if id(parameter) not in used)
        return tokens.shape[1], tokens.shape[2], unused


def _leaves(result: Tensor) -> set[int]:
    """Ids of the parameters that a tensor was computed from; their gradients would take as much memory as they do."""
    waiting, seen, leaves = [result.grad_fn], set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting += [before for before, _ in node.next_functions]
    return leaves


def load_encoder(settings: EncoderSettings) -> ImageEncoder:
    """Load the encoder's weights, or build it with random weights from settings.config.

    Raises ConfigError if files are missing, damaged, pickled or of no vision model; HubError if the Hub fails.
    """
    if settings.config:
        encoder = encoder_from_config(parse_encoder_config(settings), trainable=settings.trainable)
    else:
        encoder = _load_pretrained(settings)
    if settings.gradient_checkpointing:
        encoder.checkpoint_gradients()
    return encoder


def _load_pretrained(settings: EncoderSettings) -> ImageEncoder:
    name = settings.name
    files = find_encoder_files(name, settings.revision)
    try:
        config = _vision_config(AutoConfig.from_pretrained(files.folder))
    except (*LOADING_ERRORS, StrictDataclassError) as error:
        raise ConfigError(
            f"encoder.name={name}: config.json cannot be used ({in_one_line(error)}); fetch it again"
        ) from error
    image_size = settings.image_size or load_processor(settings).image_size
    model, missing = _load_model(files.folder, config=config, name=name)
    encoder = ImageEncoder(model, image_size=image_size, trainable=settings.trainable, revision=files.revision)
    missing = sorted(key for key in missing if key not in encoder.unused and not key.endswith("num_batches_tracked"))
    if missing:
        raise ConfigError(
            f"encoder.name={name}: its weights lack {len(missing)} tensors of {config.model_type}, {missing[0]} among"
            " them; fetch weights and config.json of the same model"
        )
    return encoder


def encoder_from_config(config: dict[str, Any], *, trainable: bool = False) -> ImageEncoder:
    """Build an encoder with random weights from a transformers config, as ``encoder_config`` gives it.

    Args:
        config: values with ``model_type``, and ``input_size``, the side of the input in pixels (else ``image_size``).
        trainable: train the encoder.

    Raises ConfigError if it is no config of a vision model.
    """
    values = dict(config)
    input_size = values.pop("input_size", 0)
    kind = values.pop("model_type", "")
    if kind not in CONFIG_MAPPING:
        nearest = difflib.get_close_matches(str(kind), list(CONFIG_MAPPING), n=1, cutoff=0.0)[0]
        raise ConfigError(f"encoder.config: model_type={kind!r} is unknown to transformers; did you mean {nearest!r}?")
    try:
        parsed = _vision_config(AutoConfig.for_model(kind, **values))
        model_class = _model_class(parsed)
        model = model_class._from_config(parsed, **_model_options(model_class))
    except (*LOADING_ERRORS, StrictDataclassError) as error:
        raise ConfigError(
            f"encoder.config: transformers cannot build {kind} from it ({in_one_line(error)}); correct that value"
        ) from error
    return ImageEncoder(model, image_size=input_size or _native_size(parsed) or SCRATCH_SIZE, trainable=trainable)


def encoder_config(encoder: ImageEncoder) -> dict[str, Any]:
    """The encoder's transformers config as plain JSON values, with ``input_size``, for ``encoder_from_config``."""
    config = json.loads(encoder.model.config.to_json_string(use_diff=False))
    config.pop("_name_or_path", None)  # a folder of the machine it was made on
    return config | {"input_size": encoder.image_size}


def encoder_fingerprint(encoder: ImageEncoder) -> str:
    """First 16 hexadecimal digits of the SHA-256 over the weights' names, shapes, types and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _load_model(folder: Path, *, config: PretrainedConfig, name: str) -> tuple[PreTrainedModel, set[str]]:
    """The model with its weights in fp32, and the names of those that the files lack."""
    try:
        model_class = _model_class(config)
        with _quiet_transformers():
            model, report = model_class.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                **_model_options(model_class),
            )
    except (*LOADING_ERRORS, SafetensorError) as error:
        raise ConfigError(
            f"encoder.name={name}: its weights cannot be loaded ({in_one_line(error)}); fetch them again"
        ) from error
    return model, set(report["missing_keys"])


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No report of the text tower's unexpected weights; missing ones are checked by the caller."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _vision_config(config: PretrainedConfig) -> PretrainedConfig:
    """The image part of a text-image model's config, without the pooling head that no token passes through."""
    config = getattr(config, "vision_config", config)
    if hasattr(config, "vision_use_head"):
        config.vision_use_head = False
    return config


def _model_class(config: PretrainedConfig) -> type[PreTrainedModel]:
    model_class = MODEL_MAPPING.get(type(config), None)
    if model_class is None:
        raise ValueError(f"{config.model_type} has no model without a head")
    return model_class


def _model_options(model_class: type[PreTrainedModel]) -> dict[str, bool]:
    takes = inspect.signature(model_class.__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in takes else {}


def _forward_options(model: PreTrainedModel, image_size: int) -> dict[str, bool]:
    takes = inspect.signature(model.forward).parameters
    interpolates = "interpolate_pos_encoding" in takes and _native_size(model.config) not in (0, image_size)
    return {"interpolate_pos_encoding": True} if interpolates else {}


def _native_size(config: PretrainedConfig) -> int:
    size = getattr(config, "image_size", 0) or 0
    return size if isinstance(size, int) else int(size[0])


def _patch_size(config: PretrainedConfig) -> int:
    size = getattr(config, "patch_size", 0) or 0
    return size if isinstance(size, int) else int(size[0])
