"""A captioner whose network runs in ONNX Runtime; the search, in torch, is the same as everywhere."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from PIL.Image import Image
from torch import Tensor

from captioner.api import Captioner
from captioner.errors import CheckpointError, ConfigError
from captioner.export_reading import read_description
from captioner.onnx_export import ENCODER, ENCODER_TENSORS, STEP, STEP_TENSORS
from captioner.settings import DecodingSettings

INSTEAD = "use Captioner.from_pretrained with the export that they were made from"


class RowCache:
    """Keys and values of all slots' beams, a row each; the slots in use stand in front."""

    def __init__(self, *, slots: int, beams: int) -> None:
        self.slots, self.beams = slots, beams
        self.tensors: list[Tensor] = []
        """Keys, values, cross keys and cross values, each [slots x beams, layers, heads, places, head]."""

    def follow(self, origins: Tensor) -> None:
        """Let every beam go on from what another of its slot has seen: ``origins`` [slots in use, beams]."""
        rows = (origins + torch.arange(len(origins))[:, None] * self.beams).flatten()
        for tensor in self.tensors[:2]:
            tensor[: len(rows)] = tensor[rows]

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy slots over others."""
        for tensor in self.tensors:
            tensor[self._rows(targets)] = tensor[self._rows(sources)]

    def fill(self, slots: list[int], cross_keys: Tensor, cross_values: Tensor) -> None:
        """Put new images into slots."""
        rows = self._rows(slots)
        for tensor, new in zip(self.tensors[2:], (cross_keys, cross_values), strict=True):
            tensor[rows] = new.repeat_interleave(self.beams, dim=0)

    def _rows(self, slots: list[int]) -> Tensor:
        return (torch.tensor(slots)[:, None] * self.beams + torch.arange(self.beams)).flatten()


class OnnxDecoder:
    """The two graphs with the methods of ``PackedDecoder``; what it remembers of images are their pixels."""

    device = torch.device("cpu")

    def __init__(self, folder: Path, *, threads: int = 0) -> None:
        """Open the graphs; 0 threads are as many as ONNX Runtime thinks best."""
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError("running ONNX files needs onnxruntime; run `pip install 'captioner[onnx]'`") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        try:
            self._encoder, self._step = (
                onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
                for name in (ENCODER, STEP)
            )
        except Exception as error:  # onnxruntime's own exceptions have no common base
            raise CheckpointError(f"{folder}: its ONNX files are missing or damaged; export it again") from error

    def open(self, *, slots: int, beams: int, max_length: int, patches: int) -> RowCache:
        """An empty cache; its shape is that of the step's inputs."""
        cache = RowCache(slots=slots, beams=beams)
        shapes = {one.name: one.shape[1:] for one in self._step.get_inputs()}
        cache.tensors = [torch.zeros(slots * beams, *shapes[name]) for name in STEP_TENSORS[0][2:]]
        return cache

    def remember(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for cross-attention, each [images, layers, heads, patches, head]."""
        found = self._encoder.run(list(ENCODER_TENSORS[1]), {ENCODER_TENSORS[0][0]: pixels.numpy()})
        return torch.from_numpy(found[0]), torch.from_numpy(found[1])

    def step(self, tokens: Tensor, lengths: Tensor, cache: RowCache, *, longest: int, **_: int) -> Tensor:
        """Logits [slots x beams, vocabulary] of what follows the newest tokens [slots, beams], which join the cache."""
        rows = tokens.numel()
        positions = lengths[:, None].expand_as(tokens).flatten()
        tensors = [tokens.flatten(), positions, *(tensor[:rows] for tensor in cache.tensors)]
        inputs = {name: tensor.contiguous().numpy() for name, tensor in zip(STEP_TENSORS[0], tensors, strict=True)}
        logits, *new = self._step.run(list(STEP_TENSORS[1]), inputs)
        for tensor, values in zip(cache.tensors[:2], new, strict=True):
            tensor[torch.arange(rows), :, :, positions] = torch.from_numpy(values)
        return torch.from_numpy(logits)


class OnnxCaptioner(Captioner):
    """What ``captioner export --format onnx`` wrote: ``caption``, ``caption_each``, ``stream`` as of any captioner.

    The graphs hold the weights for one purpose: what needs the network itself, such as ``explain``, ``save_pretrained``
    or another precision than fp32, raises ConfigError and is to be had from the export that they were made from.
    """

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        """Open a folder with both graphs.

        Raises:
            CheckpointError: a file is missing or damaged.
            ConfigError: onnxruntime is missing.
        """
        folder = Path(folder)
        found = read_description(folder)
        self.tokenizer, self.processor = found.tokenizer, found.processor
        self.metrics, self.calibration, self.training_images = found.metrics, found.calibration, found.training_images
        self.settings = replace(found.settings, decoding=replace(found.settings.decoding, precision="auto"))
        self._decoder = OnnxDecoder(folder, threads=threads)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> "OnnxCaptioner":
        """Open a folder, which must be on this machine; options and errors are those of the constructor."""
        return cls(pretrained_model_name_or_path, **options)

    @property
    def device(self) -> torch.device:
        """Where the pixels go."""
        return self._decoder.device

    def to(self, device: str | torch.device) -> "OnnxCaptioner":
        """Return the captioner itself, which stays on the CPU; raises ConfigError for another device."""
        if torch.device(device).type != "cpu":
            raise ConfigError(f"ONNX files run on the CPU here, not on {device}; {INSTEAD}")
        return self

    def explain(self, *_: Any, **__: Any) -> NoReturn:
        """Raise ConfigError: the graphs do not tell where the decoder looks."""
        raise ConfigError(f"ONNX files do not tell where the decoder looks; {INSTEAD}")

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Raise ConfigError: the graphs are no export."""
        self._parts()

    def _parts(self) -> NoReturn:
        raise ConfigError(f"ONNX files cannot be saved or published as an export; copy their folder, or {INSTEAD}")

    def _remember(self, images: Sequence[Image]) -> Tensor:
        return self.processor(images)

    def _packed(self, decoding: DecodingSettings) -> Any:
        if decoding.precision not in ("auto", "fp32"):
            raise ConfigError(
                f"ONNX files are in fp32: decoding.precision={decoding.precision} is not there; {INSTEAD}"
            )
        return self._decoder
