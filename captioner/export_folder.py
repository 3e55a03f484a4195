"""An export's folder: all that a captioner needs, in safetensors and JSON, written, found and read again."""

import json
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.errors import (
    HFValidationError,
    HTTPError,  # of the HTTP library that the Hub's own one uses; which one, depends on its version
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import captioner
from captioner.build import build_model
from captioner.data.tokenizer import CaptionTokenizer
from captioner.data.training_images import TrainingImages
from captioner.errors import CheckpointError, ConfigError, DataError, HubError
from captioner.model_card import model_card
from captioner.models.captioner import CaptionerModel
from captioner.models.encoder_files import in_one_line
from captioner.models.encoders import (
    ImageEncoder,
    encoder_config,
    encoder_fingerprint,
    encoder_from_config,
    load_encoder,
)
from captioner.models.image_processors import ImageProcessor
from captioner.settings import DataSettings, Settings, TrainerSettings
from captioner.settings_checks import check_settings
from captioner.settings_json import settings_from_dict, settings_to_dict

EXPORT_FORMAT = 1  # raised when what an export holds changes
CONFIG, WEIGHTS, TOKENIZER, PROCESSOR, METRICS, TRAINING_IMAGES, CARD = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "preprocessor_config.json",
    "metrics.json",
    "training_images.json",
    "README.md",
)
AGAIN = "export it again, or fetch it again from where it comes"
HUB_ERRORS = (HTTPError, HFValidationError, OSError)


@dataclass(frozen=True)
class ExportParts:
    """What an export holds."""

    model: CaptionerModel
    """With its encoder."""
    tokenizer: CaptionTokenizer
    processor: ImageProcessor
    settings: Settings
    metrics: dict[str, Any]
    training_images: TrainingImages | None = None
    """What an evaluation must not be made on; None where that is not known."""

    def card(self) -> ModelCard:
        """The model card, made from the real settings and metrics."""
        return model_card(
            _portable_settings(self.settings, self.model.encoder),
            self.metrics,
            parameters=sum(parameter.numel() for parameter in self.model.parameters()),
            vocabulary_size=len(self.tokenizer),
        )


def write_export(parts: ExportParts, folder: Path) -> None:
    """Write config, weights, tokenizer, preprocessor settings, metrics, training images and card into a folder."""
    model, settings = parts.model, parts.settings
    bundled = _bundles_encoder(settings, model.encoder)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if (bundled or not name.startswith("encoder.")) and name not in _tied_weights(settings)
    }
    config = {
        "format": EXPORT_FORMAT,
        "captioner_version": captioner.__version__,
        "settings": settings_to_dict(_portable_settings(settings, model.encoder)),
        "vocabulary_size": len(parts.tokenizer),
        "encoder": encoder_config(model.encoder) if bundled else None,
        "encoder_fingerprint": encoder_fingerprint(model.encoder),
    }
    _write_json(folder / CONFIG, config)
    _write_json(folder / PROCESSOR, parts.processor.to_dict())
    _write_json(folder / METRICS, parts.metrics)
    if parts.training_images:
        _write_json(folder / TRAINING_IMAGES, parts.training_images.to_dict())
    parts.tokenizer.save(folder / TOKENIZER)
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # safetensors reports a full disk as its own error
        raise _as_os_error(error, folder / WEIGHTS) from error
    parts.card().save(folder / CARD)


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else OSError(str(error))


def publishable_settings(settings: Settings, repo_id: str) -> Settings:
    """Settings for an export that leaves this machine: the prepared dataset's folder is of no use elsewhere."""
    data, hub = replace(settings.data, folder=DataSettings.folder), replace(settings.hub, repo_id=repo_id)
    return replace(settings, data=data, hub=hub)


def _bundles_encoder(settings: Settings, encoder: ImageEncoder) -> bool:
    """Whether an export holds the encoder's weights; one that is on the Hub as it is needs only its name."""
    return settings.export.bundle_encoder or settings.encoder.trainable or not encoder.revision


def _portable_settings(settings: Settings, encoder: ImageEncoder) -> Settings:
    """Settings for an export: with the encoder's Hub commit, and without paths but that of the prepared datasets."""
    name = settings.encoder.name
    is_path = Path(name).is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1
    return replace(
        settings,
        encoder=replace(
            settings.encoder,
            name=Path(name).resolve().name if is_path else name,
            revision=encoder.revision or settings.encoder.revision,
        ),
        data=replace(settings.data, root=""),
        trainer=replace(settings.trainer, folder=TrainerSettings.folder),
    )


def _tied_weights(settings: Settings) -> set[str]:
    return {"decoder.output.weight"} if settings.decoder.tie_embeddings else set()


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def find_export(name: str | Path, **options: Any) -> Path:
    """The folder of an export, downloaded where it is a Hub id.

    Args:
        name: an export, a run whose ``best/`` is one, or a Hub id such as ``me/captioner``.
        options: those of ``huggingface_hub.snapshot_download``.

    Raises:
        CheckpointError: the name can be neither.
        HubError: the Hub could not be reached or has no such repository.
    """
    folder = Path(os.path.expanduser(name))  # Path's own raises for a user who does not exist
    if folder.is_dir():
        best = folder / "best"
        return best if not (folder / CONFIG).exists() and (best / CONFIG).exists() else folder
    if folder.exists():
        raise CheckpointError(f"{name} is a file; name the folder of an export, like checkpoints/scenes/best")
    if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        raise CheckpointError(f"{name} is neither a folder with an export nor a Hub id like me/captioner")
    try:
        return Path(snapshot_download(str(name), allow_patterns=["*.json", WEIGHTS], **options))
    except HUB_ERRORS as error:
        raise HubError(f"{name} is no folder here, and could not be had from the Hub: {hub_reason(error)}") from error


def hub_reason(error: Exception) -> str:
    """Why the Hub did not do as asked, in one line, with the remedy where there is one."""
    if isinstance(error, RepositoryNotFoundError):
        return "it has no such repository; check the name, and run `hf auth login` where it is private"
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return "it cannot be reached; connect and try again"
    return in_one_line(error)


def read_export(folder: Path) -> ExportParts:
    """Build what an export's folder holds.

    Raises:
        CheckpointError: a file is missing, damaged, of another version, or does not fit the others.
        HubError: the encoder is on the Hub and cannot be had.
    """
    config = _read_json(folder, CONFIG)
    if "format" not in config:
        raise CheckpointError(f"{folder} is not a captioner export: its {CONFIG} is another library's")
    if config["format"] != EXPORT_FORMAT:
        raise CheckpointError(
            f"{folder} was exported in format {config['format']} by captioner {config.get('captioner_version', '?')}, "
            f"this one reads format {EXPORT_FORMAT}; install that version or export again"
        )
    try:
        settings = settings_from_dict(config["settings"])
        check_settings(settings)
        bundled, fingerprint, vocabulary_size = (
            config[key] for key in ("encoder", "encoder_fingerprint", "vocabulary_size")
        )
        encoder = encoder_from_config(bundled) if bundled else None
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged or of another version ({error}); {AGAIN}") from error
    try:
        processor = ImageProcessor.from_dict(_read_json(folder, PROCESSOR))
        tokenizer = CaptionTokenizer.load(folder / TOKENIZER)
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"{folder} is not a whole export ({error}); {AGAIN}") from error
    if len(tokenizer) != vocabulary_size:
        raise CheckpointError(
            f"{folder / TOKENIZER} has {len(tokenizer)} tokens and the model {vocabulary_size}; {AGAIN}"
        )
    encoder = encoder or _load_known_encoder(folder, settings, fingerprint)
    model = build_model(settings, encoder=encoder, vocabulary_size=vocabulary_size)
    left_out = set() if bundled else {name for name in model.state_dict() if name.startswith("encoder.")}
    _load_weights(model, folder / WEIGHTS, left_out=left_out | _tied_weights(settings))
    trained = _read_training_images(folder)
    return ExportParts(model.eval(), tokenizer, processor, settings, _read_json(folder, METRICS), trained)


def _read_training_images(folder: Path) -> TrainingImages | None:
    if not (folder / TRAINING_IMAGES).exists():
        return None
    try:
        return TrainingImages.from_dict(_read_json(folder, TRAINING_IMAGES))
    except DataError as error:
        raise CheckpointError(f"{folder / TRAINING_IMAGES}: {error}; {AGAIN}") from error


def _load_known_encoder(folder: Path, settings: Settings, fingerprint: str) -> ImageEncoder:
    """The Hub's encoder that an export names, its weights compared with those of the training."""
    encoder = load_encoder(settings.encoder)
    if encoder_fingerprint(encoder) != fingerprint:
        raise CheckpointError(
            f"{folder}: the weights of the encoder {settings.encoder.name} are not those it was trained with; "
            "set the revision it was trained with, or export with --export.bundle-encoder"
        )
    return encoder


def _load_weights(model: CaptionerModel, path: Path, *, left_out: set[str]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}: the export is incomplete; {AGAIN}")
    try:
        missing, unexpected = model.load_state_dict(load_file(path), strict=False)
    except (SafetensorError, RuntimeError) as error:
        reason = in_one_line(error)
        raise CheckpointError(f"{path} is damaged or does not fit its {CONFIG} ({reason}); {AGAIN}") from error
    wrong = [*(name for name in missing if name not in left_out), *unexpected]
    if wrong:
        raise CheckpointError(f"{path} does not fit its {CONFIG} (first: {wrong[0]}); {AGAIN}")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
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
