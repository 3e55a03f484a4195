"""A captioner as two ONNX graphs: the encoder, and one step of the decoder with its cache.

Every tensor has the rows first, and only their number is free: images for the encoder, beams of images for the step.
The cache has a place for every token that a caption can have, so its shape never changes.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from captioner.errors import ConfigError
from captioner.export_folder import ExportParts
from captioner.export_writing import write_description
from captioner.models.captioner import CaptionerModel
from captioner.models.decoder import TransformerDecoder

ENCODER, STEP = "encoder.onnx", "decoder_step.onnx"
PACKAGES = ("onnx", "onnxscript")
ENCODER_TENSORS = (("pixels",), ("cross_keys", "cross_values"))
"""Names of the inputs and the outputs."""
STEP_TENSORS = (
    ("tokens", "positions", "keys", "values", "cross_keys", "cross_values"),
    ("logits", "new_keys", "new_values"),
)


class EncoderGraph(nn.Module):
    """Pixels [images, 3, size, size] to what the decoder reads of the images at every step."""

    def __init__(self, model: CaptionerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for cross-attention, each [images, layers, heads, patches, head]."""
        memory = self.model.remember(pixels)
        pairs = [block.cross_attention.remember(memory) for block in self.model.decoder.blocks]
        keys, values = zip(*pairs, strict=True)
        return torch.stack(keys, dim=1), torch.stack(values, dim=1)


class StepGraph(nn.Module):
    """One step of the decoder: the logits of what follows the newest token of every row."""

    def __init__(self, decoder: TransformerDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, tokens: Tensor, positions: Tensor, keys: Tensor, values: Tensor, cross_keys: Tensor, cross_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the step.

        Args:
            tokens: newest tokens [rows].
            positions: how many tokens of its caption came before each, the start token counted [rows].
            keys: of the tokens before [rows, layers, heads, max_length, head]; what lies behind them is not read.
            values: likewise.
            cross_keys: the row's image's [rows, layers, heads, patches, head].
            cross_values: likewise.

        Returns:
            Logits [rows, vocabulary], and the newest tokens' keys and values [rows, layers, heads, head].
        """
        places = torch.arange(self.decoder.settings.max_length, device=tokens.device)
        here = (places == positions[:, None])[:, None, :, None]  # [rows, 1, max_length, 1]
        unread = (places > positions[:, None])[:, None, None]  # [rows, 1, 1, max_length]
        hidden = self.decoder.embed(tokens[:, None], positions[:, None])  # [rows, 1, width]
        new_keys, new_values = [], []
        for layer, block in enumerate(self.decoder.blocks):
            own = block.self_attention
            query, key, value = own.project(block.self_norm(hidden), positions[:, None])  # each [rows, heads, 1, head]
            scores = query @ torch.where(here, key, keys[:, layer]).transpose(2, 3) * query.shape[-1] ** -0.5
            weights = scores.masked_fill(unread, -torch.inf).softmax(dim=-1)  # [rows, heads, 1, max_length]
            attended = weights @ torch.where(here, value, values[:, layer])
            hidden = hidden + own.output(attended.transpose(1, 2).flatten(2))
            cross = block.cross_attention(block.cross_norm(hidden), cross_keys[:, layer], cross_values[:, layer])
            hidden = hidden + cross
            hidden = hidden + block.feedforward(block.feedforward_norm(hidden))
            new_keys.append(key[:, :, 0])
            new_values.append(value[:, :, 0])
        logits = self.decoder.output(self.decoder.norm(hidden))[:, 0]
        return logits, torch.stack(new_keys, dim=1), torch.stack(new_values, dim=1)


def export_onnx(parts: ExportParts, folder: Path) -> None:
    """Write both graphs and the export's JSON files into a new or empty folder; ``OnnxCaptioner`` reads it.

    Raises ConfigError where the packages that write ONNX are missing, or the folder holds something.
    """
    _check_packages()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    model, settings = parts.model.cpu().eval(), parts.model.decoder.settings
    pixels = torch.zeros(2, 3, parts.processor.image_size, parts.processor.image_size)
    encoder, step = EncoderGraph(model), StepGraph(model.decoder)
    with torch.inference_mode():
        cross_keys, cross_values = encoder(pixels)
    head = settings.width // settings.heads
    cache = torch.zeros(len(cross_keys), settings.layers, settings.heads, settings.max_length, head)
    tokens, positions = torch.tensor([1, 2]), torch.tensor([0, 1])
    _write_graph(encoder, (pixels,), folder / ENCODER, names=ENCODER_TENSORS)
    inputs = (tokens, positions, cache, cache.clone(), cross_keys.clone(), cross_values.clone())
    _write_graph(step, inputs, folder / STEP, names=STEP_TENSORS)
    write_description(parts, folder)


def _write_graph(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, names: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    rows = torch.export.Dim("rows", min=1)
    with _quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            module.eval(),
            inputs,
            str(path),
            input_names=names[0],
            output_names=names[1],
            dynamic_shapes=tuple({0: rows} for _ in inputs),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Without what the exporter says of torch's insides, and of packages that it does not need here."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)


def _check_packages() -> None:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"exporting to ONNX needs {' and '.join(missing)}; run `pip install 'captioner[onnx]'`")
