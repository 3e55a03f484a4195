"""What an export's folder holds: its files, their parts in memory, and the settings as they may leave this machine."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from captioner.confidence import Calibration
from captioner.data.tokenizer import CaptionTokenizer
from captioner.data.training_images import TrainingImages
from captioner.errors import CheckpointError
from captioner.models.captioner import CaptionerModel
from captioner.models.image_processors import ImageProcessor
from captioner.settings import DataSettings, Settings, TrainerSettings

EXPORT_FORMAT = 1  # raised when what an export holds changes
CONFIG, WEIGHTS, TOKENIZER, PROCESSOR, METRICS, CONFIDENCE, TRAINING_IMAGES, CARD = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "preprocessor_config.json",
    "metrics.json",
    "confidence.json",
    "training_images.json",
    "README.md",
)
EXPORT_FILES = (CONFIG, WEIGHTS, TOKENIZER, "tokenizer_config.json", PROCESSOR, METRICS, CARD)
OPTIONAL_FILES = (CONFIDENCE, TRAINING_IMAGES)
AGAIN = "export it again, or fetch it again from where it comes"


@dataclass(frozen=True)
class ExportParts:
    """What an export holds."""

    model: CaptionerModel | None
    """With its encoder; None where the network is not in the folder's safetensors."""
    tokenizer: CaptionTokenizer
    processor: ImageProcessor
    settings: Settings
    metrics: dict[str, Any]
    calibration: Calibration | None = None
    training_images: TrainingImages | None = None
    """What an evaluation must not be made on; None where that is not known."""

    def card(self) -> ModelCard:
        """The model card, made from the real settings and metrics."""
        from captioner.model_card import model_card  # only written exports need it

        return model_card(
            portable_settings(self.settings, revision=self.model.encoder.revision),
            self.metrics,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            vocabulary_size=len(self.tokenizer),
        )


def portable_settings(settings: Settings, *, revision: str = "") -> Settings:
    """Settings for an export: with the encoder's Hub commit, and without paths but that of the prepared datasets.

    Args:
        settings: those of the run.
        revision: the encoder's commit on the Hub; empty where it is not known, or the encoder is not from there.
    """
    encoder = settings.encoder
    name = Path(encoder.name).resolve().name if names_folder(encoder.name) else encoder.name
    return replace(
        settings,
        encoder=replace(encoder, name=name, revision=revision or encoder.revision),
        data=replace(settings.data, root="", streaming=""),
        tokenizer=replace(settings.tokenizer, file=""),
        trainer=replace(settings.trainer, folder=TrainerSettings.folder),
    )


def names_folder(encoder: str) -> bool:
    """Whether an encoder's name is that of a folder on this machine, and not one on the Hub."""
    return Path(encoder).is_dir() or encoder.startswith((".", "/", "~")) or encoder.count("/") > 1


def publishable_settings(settings: Settings, repo_id: str) -> Settings:
    """Settings for an export that leaves this machine: the prepared dataset's folder is of no use elsewhere."""
    data, hub = replace(settings.data, folder=DataSettings.folder), replace(settings.hub, repo_id=repo_id)
    return replace(settings, data=data, hub=hub)


def publishable_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics for an export that leaves this machine: without the name that the evaluated model had on it."""
    return {
        split: {name: value for name, value in found.items() if name != "model"} if isinstance(found, dict) else found
        for split, found in metrics.items()
    }


def tied_weights(settings: Settings) -> set[str]:
    """Names of weights that are stored once under another name."""
    return {"decoder.output.weight"} if settings.decoder.tie_embeddings else set()


def write_json(path: Path, content: Any) -> None:
    """Write one of the folder's JSON files."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one of them; raises CheckpointError if it is missing or damaged."""
    try:
        content = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} has no {name}: it is not a whole captioner export; name a folder like checkpoints/scenes/best"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / name} is not valid JSON ({error}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{folder / name} holds no JSON object; {AGAIN}")
    return content
