"""A whole captioning run in small: an encoder with batch norm, dropout, three views of an image, two batches a step."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from captioner.build import encode_captions
from captioner.data.batches import CaptionBatches
from captioner.data.tokenizer import CaptionTokenizer
from captioner.models.captioner import build_model
from captioner.run_folder import give_up_future
from captioner.settings import (
    DecoderSettings,
    DecodingSettings,
    OptimSettings,
    ProjectionSettings,
    Settings,
    TokenizerSettings,
    TrainerSettings,
)
from captioner.tasks.captioning import CaptioningTask
from captioner.training.checkpoint import find_checkpoint
from captioner.training.device import build_accelerator
from captioner.training.loop import RunState, fit
from captioner.training.tracking import Trackers, open_trackers

COLOURS = ("red", "green", "blue", "white", "black", "grey", "pink")
IMAGES = [f"a {colour} {thing}" for thing in ("dog", "cat") for colour in COLOURS]  # 14: 5 batches of 3, 3 steps of 2

TINY = Settings(
    projection=ProjectionSettings(dropout=0.1, positions=True),
    decoder=DecoderSettings(width=16, layers=1, heads=2, feedforward=2, dropout=0.2, max_length=12),
    optim=OptimSettings(lr=3e-3, encoder_lr=1e-3),
    trainer=TrainerSettings(
        epochs=3, batch_images=3, gradient_accumulation=2, precision="fp32", device="cpu", log_every=2
    ),
    decoding=DecodingSettings(max_length=5, batch_size=5),
)


class TinyEncoder(nn.Module):
    """Pixels [images, 3, 8, 8] to tokens [images, 4, 6]."""

    patches, width = 4, 6

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, self.width, kernel_size=4, stride=4)
        self.norm = nn.BatchNorm2d(self.width)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.norm(self.convolution(pixels)).flatten(2).transpose(1, 2)


def load_pixels(rows: list[int], views: list[int]) -> Tensor:
    """Pixels [rows, 3, 8, 8] that depend on the row and on the view."""
    generators = [torch.Generator().manual_seed(10 * row + view) for row, view in zip(rows, views, strict=True)]
    return torch.stack([torch.randn(3, 8, 8, generator=generator) for generator in generators])


@pytest.fixture(scope="session")
def tokenizer() -> CaptionTokenizer:
    return CaptionTokenizer.train(IMAGES, TokenizerSettings(vocabulary_size=270))


@dataclass
class TinyRun:
    """A run's folder, and how to train in it."""

    folder: Path
    tokenizer: CaptionTokenizer

    def task(self, settings: Settings = TINY) -> CaptioningTask:
        captions = [[text, f"{text} here"] for text in IMAGES]
        shared = {"start": self.tokenizer.start_id, "end": self.tokenizer.end_id, "max_length": 12}
        tokens = encode_captions(self.tokenizer, captions)
        return CaptioningTask(
            build_model(settings, encoder=TinyEncoder(), vocabulary_size=len(self.tokenizer)),
            train=CaptionBatches(tokens, load_pixels, batch_images=3, views=3, **shared),
            validation=CaptionBatches(tokens[:5], load_pixels, batch_images=5, shuffle=False, **shared),
            references=captions[:5],
            image_ids=[f"{number}.jpg" for number in range(len(IMAGES))],
            tokenizer=self.tokenizer,
            settings=settings.task,
            decoding=settings.decoding,
        )

    def train(
        self,
        *,
        settings: Settings = TINY,
        seed: int = 0,
        resume: Path | None = None,
        alter: Callable[[CaptioningTask], Any] = lambda task: None,
        on_best: Callable[[dict[str, Any]], Any] = lambda metrics: None,
        has_best: Callable[[int], bool] = lambda step: True,
        accelerator: Callable[[Settings], Accelerator] = build_accelerator,
    ) -> RunState:
        """Train as the command does.

        Args:
            settings: the run's.
            seed: of new weights and of dropout, neither of which a resumed run may depend on.
            resume: a run or a step.
            alter: changes the task before it is trained.
            on_best: as in ``fit``.
            has_best: as in ``fit``.
            accelerator: makes the run's device and precision.
        """
        torch.manual_seed(seed)
        task = self.task(settings)
        alter(task)
        found = find_checkpoint(resume) if resume else None
        step = found[1]["step"] if found else 0

        with contextlib.ExitStack() as opened:

            def begin() -> Trackers:
                give_up_future(self.folder, step)
                trackers = open_trackers(settings.tracking, run=self.folder, config={}, resume_step=step)
                return opened.enter_context(contextlib.closing(trackers))

            return fit(
                task,
                settings,
                accelerator=accelerator(settings),
                run=self.folder,
                begin=begin,
                on_best=on_best,
                has_best=has_best,
                resume=found,
            )

    def files(self) -> dict[str, bytes]:
        """Contents of the newest checkpoint's files and of metrics.jsonl."""
        newest, _ = find_checkpoint(self.folder)
        paths = [*newest.iterdir(), self.folder / "metrics.jsonl"]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


@pytest.fixture
def tiny_run(tmp_path: Path, tokenizer: CaptionTokenizer) -> TinyRun:
    return TinyRun(tmp_path / "run", tokenizer)


@pytest.fixture
def make_run(tmp_path: Path, tokenizer: CaptionTokenizer) -> Callable[[str], TinyRun]:
    """More runs beside ``tiny_run``, by name."""
    return lambda name: TinyRun(tmp_path / name, tokenizer)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory, tokenizer: CaptionTokenizer) -> TinyRun:
    """A run that nothing interrupted."""
    run = TinyRun(tmp_path_factory.mktemp("whole") / "run", tokenizer)
    run.train()
    return run


@pytest.fixture
def change():
    """Trainer settings other than TINY's."""
    return lambda **trainer: replace(TINY, trainer=replace(TINY.trainer, **trainer))
