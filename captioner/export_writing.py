"""Writes an export's folder, in safetensors and JSON."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

import captioner
from captioner.confidence import Calibration
from captioner.export_folder import (
    CARD,
    CONFIDENCE,
    CONFIG,
    EXPORT_FORMAT,
    METRICS,
    PROCESSOR,
    TOKENIZER,
    TRAINING_IMAGES,
    WEIGHTS,
    ExportParts,
    portable_settings,
    tied_weights,
    write_json,
)
from captioner.models.encoders import ImageEncoder, encoder_config, encoder_fingerprint
from captioner.models.image_processors import ImageProcessor
from captioner.settings import Settings
from captioner.settings_json import settings_to_dict
from captioner.whole_writes import as_os_error


def write_export(parts: ExportParts, folder: Path) -> None:
    """Write config, weights, tokenizer, preprocessor settings, metrics, training images and card into a folder."""
    model, settings = parts.model, parts.settings
    bundled = _bundles_encoder(settings, model.encoder)
    tensors = {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if (bundled or not name.startswith("encoder.")) and name not in tied_weights(settings)
    }
    write_description(parts, folder)
    try:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    except SafetensorError as error:  # safetensors reports a full disk as its own error
        raise as_os_error(error, folder / WEIGHTS) from error
    parts.card().save(folder / CARD)


def write_description(parts: ExportParts, folder: Path) -> None:
    """Write all of an export but its network and its card into an existing folder."""
    encoder, settings = parts.model.encoder, parts.settings
    config = {
        "format": EXPORT_FORMAT,
        "captioner_version": captioner.__version__,
        "settings": settings_to_dict(portable_settings(settings, revision=encoder.revision)),
        "vocabulary_size": len(parts.tokenizer),
        "encoder": encoder_config(encoder) if _bundles_encoder(settings, encoder) else None,
        "encoder_fingerprint": encoder_fingerprint(encoder),
    }
    write_json(folder / CONFIG, config)
    write_json(folder / PROCESSOR, parts.processor.to_dict())
    write_json(folder / METRICS, parts.metrics)
    if parts.calibration:
        write_calibration(parts.calibration, folder)
    if parts.training_images:
        write_json(folder / TRAINING_IMAGES, parts.training_images.to_dict())
    parts.tokenizer.save(folder / TOKENIZER)


def write_calibration(calibration: Calibration, folder: Path) -> None:
    """Write how an export's confidence is computed into its folder, over what may be there."""
    write_json(folder / CONFIDENCE, calibration.to_dict())


def write_encoder(encoder: ImageEncoder, processor: ImageProcessor, folder: Path) -> None:
    """Write an encoder out of an export into a folder of its own, which ``encoder.name`` can then name."""
    folder.mkdir(parents=True)
    config = encoder_config(encoder)
    del config["input_size"]
    write_json(folder / CONFIG, config)
    write_json(folder / PROCESSOR, processor.to_dict())
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _bundles_encoder(settings: Settings, encoder: ImageEncoder) -> bool:
    """Whether an export holds the encoder's weights; one that is on the Hub as it is needs only its name."""
    return settings.export.bundle_encoder or settings.encoder.trainable or not encoder.revision
