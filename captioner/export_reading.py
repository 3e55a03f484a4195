"""Finds an export, on this machine or on the Hub, checks it and reads it."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from captioner.confidence import Calibration
from captioner.data.tokenizer import CaptionTokenizer
from captioner.data.training_images import TrainingImages
from captioner.decoding_checks import settings_in_effect
from captioner.errors import CheckpointError, ConfigError, DataError
from captioner.export_folder import (
    AGAIN,
    CONFIDENCE,
    CONFIG,
    EXPORT_FORMAT,
    METRICS,
    PROCESSOR,
    TOKENIZER,
    TRAINING_IMAGES,
    WEIGHTS,
    ExportParts,
    read_json,
    tied_weights,
)
from captioner.hub import TRAINING, download
from captioner.models.captioner import CaptionerModel, build_model
from captioner.models.encoder_files import in_one_line
from captioner.models.encoders import ImageEncoder, encoder_fingerprint, encoder_from_config, load_encoder
from captioner.models.image_processors import ImageProcessor
from captioner.settings import Settings
from captioner.settings_checks import check_settings
from captioner.settings_json import settings_from_dict


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
    wanted = {"allow_patterns": ["*.json", WEIGHTS], "ignore_patterns": [f"{TRAINING}/*"]}
    return download(str(name), **wanted, **options)


def newest_best(folder: Path) -> Path | None:
    """The newest export of a run under ``folder``, if there is one."""
    found = [path for path in folder.glob("*/best") if (path / CONFIG).exists()]
    return max(found, key=lambda path: (path / CONFIG).stat().st_mtime, default=None)


def read_export(folder: Path) -> ExportParts:
    """Build what an export's folder holds.

    Raises:
        CheckpointError: a file is missing, damaged, of another version, or does not fit the others.
        HubError: the encoder is on the Hub and cannot be had.
    """
    found, config = _read_description(folder)
    try:
        bundled, fingerprint = config["encoder"], config["encoder_fingerprint"]
        encoder = encoder_from_config(bundled) if bundled else None
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged or of another version ({error}); {AGAIN}") from error
    encoder = encoder or _load_known_encoder(folder, found.settings, fingerprint)
    model = build_model(found.settings, encoder=encoder, vocabulary_size=len(found.tokenizer))
    left_out = set() if bundled else {name for name in model.state_dict() if name.startswith("encoder.")}
    _load_weights(model, folder / WEIGHTS, left_out=left_out | tied_weights(found.settings))
    return replace(found, model=model.eval())


def read_description(folder: Path) -> ExportParts:
    """Read all of an export but its network.

    Raises CheckpointError if a file is missing, damaged, of another version, or does not fit the others.
    """
    return _read_description(folder)[0]


def _read_description(folder: Path) -> tuple[ExportParts, dict[str, Any]]:
    """All but the network, and config.json."""
    config = read_json(folder, CONFIG)
    if "format" not in config:
        raise CheckpointError(f"{folder} is not a captioner export: its {CONFIG} is another library's")
    if config["format"] != EXPORT_FORMAT:
        raise CheckpointError(
            f"{folder} was exported in format {config['format']} by captioner {config.get('captioner_version', '?')}, "
            f"this one reads format {EXPORT_FORMAT}; install that version or export again"
        )
    try:
        settings = settings_from_dict(config["settings"])
        settings = replace(settings, decoding=settings_in_effect(settings.decoding))
        check_settings(settings)
        vocabulary_size = config["vocabulary_size"]
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{folder / CONFIG} is damaged or of another version ({error}); {AGAIN}") from error
    try:
        processor = ImageProcessor.from_dict(read_json(folder, PROCESSOR))
        tokenizer = CaptionTokenizer.load(folder / TOKENIZER)
    except (ConfigError, DataError) as error:
        raise CheckpointError(f"{folder} is not a whole export ({error}); {AGAIN}") from error
    if len(tokenizer) != vocabulary_size:
        raise CheckpointError(
            f"{folder / TOKENIZER} has {len(tokenizer)} tokens and the model {vocabulary_size}; {AGAIN}"
        )
    metrics, calibration, trained = (
        read_json(folder, METRICS),
        _read_calibration(folder),
        read_training_images(folder),
    )
    return ExportParts(None, tokenizer, processor, settings, metrics, calibration, trained), config


def _read_calibration(folder: Path) -> Calibration | None:
    """How the confidence is computed; None for an export that was not calibrated."""
    if not (folder / CONFIDENCE).exists():
        return None
    try:
        return Calibration.from_dict(read_json(folder, CONFIDENCE))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIDENCE} is damaged or of another version ({in_one_line(error)}); "
            f"write it anew with `captioner calibrate {folder}`"
        ) from error


def read_training_images(folder: Path) -> TrainingImages | None:
    """The list of training images that an export or a run has beside it, if there is one; raises CheckpointError."""
    if not (folder / TRAINING_IMAGES).exists():
        return None
    try:
        return TrainingImages.from_dict(read_json(folder, TRAINING_IMAGES))
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
