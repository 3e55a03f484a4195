"""An export's folder: all that a captioner needs, in safetensors and JSON, written, found and read again."""

import json
import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import captioner
from captioner.confidence import Calibration
from captioner.data.tokenizer import CaptionTokenizer
from captioner.data.training_images import TrainingImages
from captioner.errors import CheckpointError, ConfigError, DataError, HubError
from captioner.hub import HUB_ERRORS, hub_reason
from captioner.models.captioner import CaptionerModel, build_model
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
    write_description(parts, folder)
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # safetensors reports a full disk as its own error
        raise _as_os_error(error, folder / WEIGHTS) from error
    parts.card().save(folder / CARD)


def write_description(parts: ExportParts, folder: Path) -> None:
    """Write all of an export but its network and its card into an existing folder."""
    encoder, settings = parts.model.encoder, parts.settings
    config = {
        "format": EXPORT_FORMAT,
        "captioner_version": captioner.__version__,
        "settings": settings_to_dict(_portable_settings(settings, encoder)),
        "vocabulary_size": len(parts.tokenizer),
        "encoder": encoder_config(encoder) if _bundles_encoder(settings, encoder) else None,
        "encoder_fingerprint": encoder_fingerprint(encoder),
    }
    _write_json(folder / CONFIG, config)
    _write_json(folder / PROCESSOR, parts.processor.to_dict())
    _write_json(folder / METRICS, parts.metrics)
    if parts.calibration:
        write_calibration(parts.calibration, folder)
    if parts.training_images:
        _write_json(folder / TRAINING_IMAGES, parts.training_images.to_dict())
    parts.tokenizer.save(folder / TOKENIZER)


def write_calibration(calibration: Calibration, folder: Path) -> None:
    """Write how an export's confidence is computed into its folder, over what may be there."""
    _write_json(folder / CONFIDENCE, calibration.to_dict())


def _as_os_error(error: SafetensorError, path: Path) -> OSError:
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else OSError(str(error))


def publishable_settings(settings: Settings, repo_id: str) -> Settings:
    """Settings for an export that leaves this machine: the prepared dataset's folder is of no use elsewhere."""
    data, hub = replace(settings.data, folder=DataSettings.folder), replace(settings.hub, repo_id=repo_id)
    return replace(settings, data=data, hub=hub)


def write_shared_copy(export: Path, folder: Path, repo_id: str) -> None:
    """Make an existing folder a copy of an export as it may leave this machine, with its own files and no others.

    A later export over the same folder does not change the copy; the weights take no second place on the disk.

    Raises CheckpointError if the export is not whole, OSError if the disk is full.
    """
    config = _read_json(export, CONFIG)
    settings = publishable_settings(settings_from_dict(config["settings"]), repo_id)
    for name in EXPORT_FILES:
        if not (export / name).is_file():
            raise CheckpointError(f"{export} has no {name}: the export is incomplete; {AGAIN}")
        _link_or_copy(export / name, folder / name)
    for name in OPTIONAL_FILES:
        if (export / name).is_file():
            _link_or_copy(export / name, folder / name)
    (folder / CONFIG).unlink()  # a link: written over, the export's own would change
    _write_json(folder / CONFIG, config | {"settings": settings_to_dict(settings)})


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems have no links
        shutil.copyfile(source, target)


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
        data=replace(settings.data, root="", streaming=""),
        tokenizer=replace(settings.tokenizer, file=""),
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
    _load_weights(model, folder / WEIGHTS, left_out=left_out | _tied_weights(found.settings))
    return replace(found, model=model.eval())


def read_description(folder: Path) -> ExportParts:
    """Read all of an export but its network.

    Raises CheckpointError if a file is missing, damaged, of another version, or does not fit the others.
    """
    return _read_description(folder)[0]


def _read_description(folder: Path) -> tuple[ExportParts, dict[str, Any]]:
    """All but the network, and config.json."""
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
        vocabulary_size = config["vocabulary_size"]
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
    metrics, calibration, trained = (
        _read_json(folder, METRICS),
        _read_calibration(folder),
        _read_training_images(folder),
    )
    return ExportParts(None, tokenizer, processor, settings, metrics, calibration, trained), config


def _read_calibration(folder: Path) -> Calibration | None:
    """How the confidence is computed; None for an export that was not calibrated."""
    if not (folder / CONFIDENCE).exists():
        return None
    try:
        return Calibration.from_dict(_read_json(folder, CONFIDENCE))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder / CONFIDENCE} is damaged or of another version ({in_one_line(error)}); "
            f"write it anew with `captioner calibrate {folder}`"
        ) from error


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
