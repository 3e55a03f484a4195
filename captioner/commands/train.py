"""``python train.py`` and ``captioner train``: from a preset to an evaluated export."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.settings_arguments import ExtraFlags, parse_settings
from captioner.commands.shell import guard
from captioner.commands.training_run import Training
from captioner.settings import Settings

if TYPE_CHECKING:
    from captioner.hub_run import SharedRun, SharedWeights

DESCRIPTION = "Train a captioner: prepares the data, trains the tokenizer, caches features, trains, evaluates, exports."
EXAMPLES = (
    "",
    "flickr8k --data.root FOLDER",
    "flickr30k-clip --trainer.epochs 20 --optim.lr 2e-4",
    "flickr30k-clip --resume checkpoints/flickr30k-clip",
    "flickr30k-clip --resume auto",
    "flickr30k-clip --hub.repo-id me/captioner --hub.checkpoints",
    "--resume me/captioner",
)
AUTO = "auto"


def main(
    argv: Sequence[str] | None = None,
    *,
    presets: Mapping[str, Settings] | None = None,
    prog: str = "captioner train",
) -> int:
    """Train from the command line; returns the exit status."""
    return guard(lambda arguments: _train(arguments, presets, prog), argv)


def _train(argv: Sequence[str], presets: Mapping[str, Settings] | None, prog: str) -> int:
    from captioner.presets import PRESETS
    from captioner.run_folder import read_settings, run_of

    extra = ExtraFlags()
    extra.add_argument(
        "--resume",
        metavar="PATH",
        type=cache(_origin),  # the command line is read twice
        help="go on with this run, or from this step of it; auto: with the one there is; "
        "a Hub id: with the checkpoint that is there, or a new run from the weights that are",
    )
    parse = partial(
        parse_settings,
        argv,
        presets=presets or PRESETS,
        prog=prog,
        description=DESCRIPTION,
        examples=EXAMPLES,
        extra=extra,
    )
    preset, settings, flags = parse(base=lambda flags: _resumed_settings(flags.resume))
    resume = _find_resumed(flags.resume, settings, preset)
    if resume:  # the run's own, whatever was named
        preset, settings, _ = parse(base=_resumed_settings(resume))
        preset, _ = read_settings(run_of(resume))
    if not settings.trainer.run:
        settings = replace(settings, trainer=replace(settings.trainer, run=preset))
    shared = not isinstance(flags.resume, str | None)
    return Training(settings, preset=preset, prog=prog, automatic=flags.resume == AUTO, shared=shared).run(resume)


def _origin(name: str) -> "str | SharedRun | SharedWeights":
    """What to go on from: a path as it is, or what the repository of that name holds."""
    from captioner.hub_run import names_repository, open_repository

    return open_repository(name) if names_repository(name) else name


def _find_resumed(origin: "str | SharedRun | SharedWeights | None", settings: Settings, preset: str) -> Path | None:
    """The run or step to go on from, made here where it is on the Hub."""
    if origin == AUTO:
        return _find_run(settings, preset)
    if not origin or isinstance(origin, str):
        return Path(origin) if origin else None
    return origin.begin(settings)


def _find_run(settings: Settings, preset: str) -> Path | None:
    """The run of these settings' name, where it has a checkpoint to go on from, whole or not."""
    from captioner.training.checkpoint import has_checkpoint

    run = Path(settings.trainer.folder) / (settings.trainer.run or preset)
    return run if has_checkpoint(run) else None


def _resumed_settings(origin: "str | Path | SharedRun | SharedWeights | None") -> Settings | None:
    """A resumed run's own settings, over which the command line's go."""
    from captioner.run_folder import read_settings, run_of

    if not origin or origin == AUTO:
        return None
    if not isinstance(origin, str | Path):
        return origin.settings
    run = run_of(Path(origin))
    _, settings = read_settings(run)
    return replace(settings, trainer=replace(settings.trainer, run=run.name, folder=str(run.parent), overwrite=False))
