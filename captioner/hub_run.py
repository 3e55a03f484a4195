"""A run that begins where an export on the Hub ended: its weights, settings and tokenizer, at step 0.

The Hub holds no optimizer's state, so this is a new training from old weights, and not the exact continuation that a
run's own checkpoint gives.
"""

import logging
import os
import random
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from captioner.errors import ConfigError
from captioner.export_folder import find_export, read_export
from captioner.models.captioner import CaptionerModel
from captioner.run_folder import check_free, write_settings
from captioner.settings import HubSettings, TrainerSettings
from captioner.training import states
from captioner.training.checkpoint import save_checkpoint
from captioner.training.loop import RunState

logger = logging.getLogger(__name__)

PRESET = "scenes"  # every installation has it; the run's own settings replace all of it


def names_repository(name: str) -> bool:
    """Whether this means a repository on the Hub, and no folder of a run that is here or was mistyped."""
    return bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)) and not Path(name).parent.is_dir()


def begin_from_hub(name: str, folder: Path = Path(TrainerSettings.folder)) -> Path:
    """Make a run from an export on the Hub; returns its folder, which holds a checkpoint of step 0.

    Args:
        name: such as ``me/captioner``.
        folder: where the run goes, under the repository's name.

    Raises:
        ConfigError: there is a run of that name, or this is one of several processes.
        CheckpointError: the repository holds no captioner.
        HubError: the Hub could not be reached or has no such repository.
    """
    run = folder / name.split("/")[1]
    check_free(run)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            f"--resume {name} makes a run, which is work for one process; "
            f"begin with one, stop it, and go on with several by --resume {run}"
        )
    export = find_export(name)
    parts = read_export(export)
    trainer = replace(parts.settings.trainer, run=run.name, folder=str(folder))
    settings = replace(parts.settings, trainer=trainer, hub=HubSettings())  # uploads go where the user says
    model = parts.model
    if not settings.encoder.trainable:  # a frozen encoder's features are cached, it is no part of what is trained
        model = CaptionerModel(None, model.projection, model.decoder)
    write_settings(run, settings, preset=PRESET)
    parts.tokenizer.save(run / "tokenizer.json")
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
    logger.info("%s gives its weights and settings; the optimizer and the schedule begin anew in %s", name, run)
    return run
