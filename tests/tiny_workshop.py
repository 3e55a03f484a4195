"""A dataset of a few photos and the settings of a run that takes a moment."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from captioner.commands import train
from captioner.evaluation.java_programs import MetricUnavailableError
from captioner.evaluation.meteor import scoring as meteor
from captioner.settings import (
    DataSettings,
    DecoderSettings,
    DecodingSettings,
    EncoderSettings,
    OptimSettings,
    Settings,
    TokenizerSettings,
    TrainerSettings,
)

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic"}
SPLITS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 3
COLOURS = ["red", "green", "blue"]


@contextmanager
def without_meteor() -> Iterator[None]:
    """METEOR reads its paraphrase table for every evaluation, which takes seconds; it has tests of its own."""

    def missing(name: str, metric: str) -> Path:
        raise MetricUnavailableError("no METEOR in these tests")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meteor, "find_bundled_file", missing)
        yield


def write_photos(folder: Path) -> None:
    """A folder of captioned images, as ``prepare_dataset.py folder`` reads it."""
    folder.mkdir(parents=True)
    rows = []
    for number, split in enumerate(SPLITS):
        name, colour = f"{number}.png", COLOURS[number % 3]
        Image.new("RGB", (20, 16), (25 * number, 0, 90)).save(folder / name)
        captions = [f"a {colour} square on a wall", f"the {colour} picture number {number}"]
        rows.append({"image": name, "captions": captions, "split": split})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))


class Workshop:
    """A folder to work in, with a prepared dataset, and the commands as they are typed in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data, self.checkpoints = folder / "data", folder / "checkpoints"
        self.settings = Settings(
            data=DataSettings(name="photos", folder=str(self.data)),
            tokenizer=TokenizerSettings(vocabulary_size=280),
            encoder=EncoderSettings(config=json.dumps(RESNET), image_size=16, trainable=True),
            decoder=DecoderSettings(width=16, layers=1, heads=2, feedforward=1, max_length=12),
            optim=OptimSettings(lr=1e-2),
            trainer=TrainerSettings(folder=str(self.checkpoints), max_steps=2, batch_images=2, log_every=1),
            decoding=DecodingSettings(beams=2, max_length=6, batch_size=4, no_repeat_ngram=0),
        )

    def train(self, *words: str) -> int:
        """``captioner train tiny …``"""
        return train.main(["tiny", *words], presets={"tiny": self.settings})

    def preset(self, **groups) -> Settings:
        """The tiny settings with some groups' values changed."""
        changed = {name: replace(getattr(self.settings, name), **values) for name, values in groups.items()}
        return replace(self.settings, **changed)
