"""What of a run may leave this machine: its export and a checkpoint, without data, tokens or paths."""

import os
import shutil
from pathlib import Path

from captioner.errors import CheckpointError
from captioner.export_folder import (
    AGAIN,
    CONFIG,
    EXPORT_FILES,
    METRICS,
    OPTIONAL_FILES,
    TRAINING_IMAGES,
    names_folder,
    portable_settings,
    publishable_metrics,
    publishable_settings,
    read_json,
    write_json,
)
from captioner.hub import TRAINING
from captioner.models.encoder_files import WANTED_FILES, find_encoder_files
from captioner.run_folder import SETTINGS, read_description
from captioner.settings import EncoderSettings
from captioner.settings_json import settings_from_dict, settings_to_dict
from captioner.training.timings import TIMINGS

GROWING_FILES = ("metrics.jsonl", TIMINGS)
WHOLE_FILES = ("tokenizer.json", "tokenizer_config.json", TRAINING_IMAGES)
ENCODER = "encoder"
"""Folder for the files of an encoder that is not on the Hub, under its name."""
STREAMED = "streamed"
"""Of a shared settings.json: whether the run trains from shards, of which only its own machine knows the place."""


def write_shared_copy(export: Path, folder: Path, repo_id: str, *, checkpoint: Path | None = None) -> None:
    """Make an existing folder a copy of an export as it may leave this machine, with its own files and no others.

    What a training does later does not change the copy; weights take no second place on the disk.

    Args:
        export: may be missing where there is a checkpoint, as before a run's first validation.
        folder: an empty one.
        repo_id: the repository that it is for.
        checkpoint: of the same run; it goes to ``training/``, with all else that a resume takes.

    Raises CheckpointError if the export is not whole, OSError if the disk is full.
    """
    if checkpoint:
        _share_checkpoint(checkpoint, folder / TRAINING, repo_id, export=export)
        if not (export / CONFIG).exists():
            return
    for name in EXPORT_FILES:
        if not (export / name).is_file():
            raise CheckpointError(f"{export} has no {name}: the export is incomplete; {AGAIN}")
    config = read_json(export, CONFIG)
    settings = publishable_settings(settings_from_dict(config["settings"]), repo_id)
    for name in (*EXPORT_FILES, *OPTIONAL_FILES):
        if (export / name).is_file() and name not in (CONFIG, METRICS):
            _link_or_copy(export / name, folder / name)
    write_json(folder / METRICS, publishable_metrics(read_json(export, METRICS)))
    write_json(folder / CONFIG, config | {"settings": settings_to_dict(settings)})


def _share_checkpoint(checkpoint: Path, folder: Path, repo_id: str, *, export: Path) -> None:
    """The checkpoint, the run's other files and, where it is none of the Hub's, the encoder."""
    run, step = checkpoint.parent, folder / checkpoint.name
    step.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.name != SETTINGS:  # it tells of this machine; the run's own below does not
            _link_or_copy(path, step / path.name)
    for name in WHOLE_FILES:
        if (run / name).exists():
            _link_or_copy(run / name, folder / name)
    for name in GROWING_FILES:
        if (run / name).exists():
            shutil.copyfile(run / name, folder / name)
    content = read_description(run)
    settings = settings_from_dict(content["settings"])
    revision = settings_from_dict(read_json(export, CONFIG)["settings"]).encoder.revision if export.exists() else ""
    shared = publishable_settings(portable_settings(settings, revision=revision), repo_id)
    resumed = [{"step": one["step"], "command": "", "changed": []} for one in content.get("resumed", [])]
    # Command lines name folders of this machine.
    changed = {"settings": settings_to_dict(shared), "command": "", "resumed": resumed}
    write_json(folder / SETTINGS, content | changed | {STREAMED: bool(settings.data.streaming)})
    _share_encoder(settings.encoder, folder / ENCODER / shared.encoder.name)


def _share_encoder(encoder: EncoderSettings, folder: Path) -> None:
    if encoder.config or not names_folder(encoder.name):
        return
    source = find_encoder_files(encoder.name).folder.resolve()
    folder.mkdir(parents=True)
    for path in {path for pattern in WANTED_FILES for path in source.glob(pattern)}:
        (folder / path.name).symlink_to(path)  # it does not change, and may lie on another disk


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # some file systems have no links
        shutil.copyfile(source, target)
