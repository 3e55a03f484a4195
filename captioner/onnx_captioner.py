"""A captioner whose network runs in ONNX Runtime; the search is the same as everywhere."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from captioner.api import Captioner
from captioner.errors import CheckpointError, ConfigError
from captioner.export_reading import read_description
from captioner.onnx_export import ENCODER, ENCODER_TENSORS, STEP, STEP_TENSORS
from captioner.settings import DecodingSettings


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
    """What ``captioner export --format onnx`` wrote, used as any captioner: ``caption``, ``stream``."""

    def __init__(self, folder: str | Path, *, threads: int = 0) -> None:
        """Open a folder with both graphs.

        Raises:
            CheckpointError: a file is missing or damaged.
            ConfigError: onnxruntime is missing.
        """
        folder = Path(folder)
        found = read_description(folder)
        self.tokenizer, self.processor = found.tokenizer, found.processor
        self.settings, self.metrics, self.calibration = found.settings, found.metrics, found.calibration
        self._decoder = OnnxDecoder(folder, threads=threads)

    @property
    def device(self) -> torch.device:
        """Where the pixels go."""
        return self._decoder.device

    def _remember(self, images: Sequence[Image]) -> Tensor:
        return self.processor(images)

    def _packed(self, decoding: DecodingSettings) -> Any:
        return self._decoder
