"""A run that goes on from a repository on the Hub: exactly, from a checkpoint there, or as a new one with its weights.

A repository that a training uploaded to with ``hub.checkpoints`` holds a run's newest checkpoint. Any other holds an
export, and no optimizer's state: with that begins a new training from old weights, also on other data.
"""

import logging
import os
import random
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from captioner.errors import CheckpointError, ConfigError
from captioner.export_folder import CONFIG, EXPORT_FILES, OPTIONAL_FILES, TRAINING_IMAGES, write_json
from captioner.export_reading import read_export
from captioner.export_writing import write_encoder
from captioner.hub import TRAINING, download
from captioner.models.captioner import CaptionerModel
from captioner.run_folder import (
    BEST,
    SETTINGS,
    check_free,
    check_resumable,
    read_description,
    read_settings,
    write_settings,
)
from captioner.settings import HubSettings, Settings, TrainerSettings
from captioner.settings_json import settings_to_dict
from captioner.sharing import ENCODER, STREAMED
from captioner.training import states
from captioner.training.checkpoint import list_checkpoints, read_state, save_checkpoint
from captioner.training.run_state import RunState
from captioner.whole_writes import write_folder

logger = logging.getLogger(__name__)

PRESET = "scenes"  # every installation has it; the run's own settings replace all of it
WANTED = ["*.json", "*.jsonl", "*.safetensors", "README.md"]


def names_repository(name: str) -> bool:
    """Whether this means a repository on the Hub, and no folder of a run that is here, is missing or was mistyped."""
    owner = Path(name).parent
    matches = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None
    return matches and owner != Path(TrainerSettings.folder) and not owner.is_dir()


def open_repository(name: str) -> "SharedRun | SharedWeights":
    """Download what a run can go on from, such as that of ``me/captioner``.

    Raises:
        ConfigError: this is one of several processes.
        CheckpointError: the repository holds no captioner, or its checkpoint is damaged.
        HubError: the Hub could not be reached or has no such repository.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            f"--resume {name} makes a run, which is work for one process; begin with one, stop it, and go on with "
            f"several by --resume {TrainerSettings.folder}/{name.split('/')[1]}"
        )
    folder = download(name, allow_patterns=WANTED)
    kind = SharedRun if (folder / TRAINING / SETTINGS).exists() else SharedWeights
    return kind(name, folder)


@dataclass(frozen=True)
class SharedRun:
    """A run whose newest checkpoint is on the Hub."""

    name: str
    folder: Path
    """Where it was downloaded to."""

    @property
    def settings(self) -> Settings:
        """The run's own, without what only its machine knew."""
        _, settings = read_settings(self.folder / TRAINING)
        return _named_after(self.name, settings)

    def begin(self, wanted: Settings) -> Path:
        """Make a run that goes on exactly; returns its folder.

        Raises:
            ConfigError: there is a run of that name, or the checkpoint cannot go on with the wanted settings.
            CheckpointError: the checkpoint is damaged.
        """
        training = self.folder / TRAINING
        checkpoint, state = self._find_checkpoint()
        content = read_description(training)
        if content.pop(STREAMED, False) and not wanted.data.streaming:
            raise ConfigError(
                f"{self.name} was trained from shards, which are not on the Hub; name them with --data.streaming"
            )
        places = {name: getattr(wanted.data, name) for name in ("root", "folder", "streaming")}
        settings = replace(self.settings, data=replace(self.settings.data, **places))
        try:
            check_resumable(settings, wanted, position=state["position"])
        except ConfigError as error:
            raise ConfigError(
                *error.problems,
                f"{self.name} holds a run, which goes on as it is or not at all: to begin another with its weights, "
                "push its export alone to a repository of its own, and resume that",
            ) from error
        run = _place(wanted)
        settings = replace(settings, trainer=replace(settings.trainer, run=run.name, folder=str(run.parent)))
        encoder = Path(ENCODER) / Path(settings.encoder.name).name
        if (training / encoder).is_dir():
            settings = _with_encoder(settings, run / encoder)

        def fill(folder: Path) -> None:
            shutil.copytree(training, folder, dirs_exist_ok=True)
            write_json(folder / SETTINGS, content | {"settings": settings_to_dict(settings)})
            if (self.folder / CONFIG).exists():
                (folder / BEST).mkdir()
                for name in (*EXPORT_FILES, *OPTIONAL_FILES):
                    if (self.folder / name).exists():
                        shutil.copyfile(self.folder / name, folder / BEST / name)

        write_folder(run, fill)
        logger.info(
            "%s gives %s; the run goes on exactly from it in %s, and its uploads go to %s",
            *(self.name, checkpoint.name, run, wanted.hub.repo_id or "no repository"),
        )
        return run

    def _find_checkpoint(self) -> tuple[Path, dict[str, Any]]:
        """The checkpoint, verified, and its state."""
        try:
            checkpoint = list_checkpoints(self.folder / TRAINING)[-1]
            return checkpoint, read_state(checkpoint)
        except (IndexError, CheckpointError) as error:
            raise CheckpointError(
                f"{self.name} has no checkpoint to go on from ({error}); upload one with "
                f"`captioner push RUN {self.name} --checkpoint`"
            ) from error


class SharedWeights:
    """An export on the Hub: the weights, tokenizer and settings of a new run."""

    def __init__(self, name: str, folder: Path) -> None:
        """Read what was downloaded; raises CheckpointError where it is no whole export."""
        self.name, self._parts = name, read_export(folder)
        # Uploads go where the user says.
        self.settings = replace(_named_after(name, self._parts.settings), hub=HubSettings())

    def begin(self, wanted: Settings) -> Path:
        """Make a run that begins with these weights at step 0; returns its folder.

        Raises ConfigError if there is a run of that name, or the wanted settings are of another network or tokenizer.
        """
        # Other data are what weights are shared for; all that makes the network and its words stays.
        check_resumable(replace(self.settings, data=wanted.data), wanted, position=0)
        run, parts, settings = _place(wanted), self._parts, wanted
        # One of a folder of another machine; it is in the export, and the run gets a folder of its own for it.
        carried = not (settings.encoder.config or settings.encoder.revision)
        encoder = Path(ENCODER) / Path(settings.encoder.name).name
        if carried:
            settings = _with_encoder(settings, run / encoder)

        def fill(folder: Path) -> None:
            write_settings(folder, settings, preset=PRESET)
            parts.tokenizer.save(folder / "tokenizer.json")
            if parts.training_images:
                write_json(folder / TRAINING_IMAGES, parts.training_images.to_dict())
            if carried:
                write_encoder(parts.model.encoder, parts.processor, folder / encoder)
            _save_first(folder, parts.model, settings)

        write_folder(run, fill)
        before, now = self.settings.data.name, settings.data.name
        logger.info(
            "%s gives its weights, tokenizer and settings to a new run on %s%s; the optimizer and the schedule begin "
            "anew in %s",
            *(self.name, now, "" if now == before else f" (it was trained on {before})", run),
        )
        if not parts.training_images:
            logger.warning("%s has no list of its training images: evaluations cannot tell what it saw", self.name)
        return run


def _named_after(repository: str, settings: Settings) -> Settings:
    """Settings of a run that is called like its repository, and whose uploads go there."""
    trainer = replace(
        settings.trainer,
        run=repository.split("/")[1],
        folder=TrainerSettings.folder,
        overwrite=TrainerSettings.overwrite,
    )
    return replace(settings, trainer=trainer, hub=replace(settings.hub, repo_id=repository))


def _with_encoder(settings: Settings, folder: Path) -> Settings:
    return replace(settings, encoder=replace(settings.encoder, name=str(folder)))


def _place(settings: Settings) -> Path:
    """The folder for the run; raises ConfigError if something is there that must not be overwritten."""
    if not settings.trainer.run:
        raise ConfigError("trainer.run is empty; name the run")
    run = Path(settings.trainer.folder) / settings.trainer.run
    check_free(run, overwrite=settings.trainer.overwrite)
    if not settings.trainer.overwrite and run.exists() and any(run.iterdir()):
        raise ConfigError(f"{run} is there already and holds no run; name another folder with --trainer.run")
    return run


def _save_first(run: Path, model: CaptionerModel, settings: Settings) -> None:
    """The checkpoint of step 0."""
    if not settings.encoder.trainable:  # a frozen encoder's features are cached, it is no part of what is trained
        model = CaptionerModel(None, model.projection, model.decoder)
    with states.preserved_random_state():
        random.seed(settings.trainer.seed)
        np.random.seed(settings.trainer.seed % 2**32)
        torch.manual_seed(settings.trainer.seed)
        save_checkpoint(
            run,
            step=0,
            model=states.module_state(model),
            optimizer={},
            state={**asdict(RunState()), "random": states.random_state(), "scaler": None},
        )
