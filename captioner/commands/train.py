"""``python train.py`` and ``captioner train``: from a preset to an evaluated export."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from captioner.commands.settings_arguments import ExtraFlags, parse_settings
from captioner.commands.shell import guard
from captioner.commands.training_run import Training
from captioner.settings import Settings

DESCRIPTION = "Train a captioner: prepares the data, trains the tokenizer, caches features, trains, evaluates, exports."
EXAMPLES = (
    "",
    "flickr8k --data.root FOLDER",
    "flickr30k-clip --trainer.epochs 20 --optim.lr 2e-4",
    "flickr30k-clip --resume checkpoints/flickr30k-clip",
    "flickr30k-clip --resume auto",
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
        type=_local_run,
        help="go on with this run, or from this step of it; auto: with the one there is; "
        "a Hub id: train on from the weights that are there",
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
    resume = Path(flags.resume) if flags.resume else None
    if flags.resume == AUTO and (resume := _find_run(settings, preset)):
        preset, settings, _ = parse(base=_resumed_settings(resume))
    if resume:  # the run's own, whatever was named
        preset, _ = read_settings(run_of(resume))
    if not settings.trainer.run:
        settings = replace(settings, trainer=replace(settings.trainer, run=preset))
    return Training(settings, preset=preset, prog=prog, automatic=flags.resume == AUTO).run(resume)


def _local_run(name: str) -> str:
    """The folder to resume, made from the Hub where the name is that of a repository."""
    from captioner.hub_run import begin_from_hub, names_repository

    return str(begin_from_hub(name)) if names_repository(name) else name


def _find_run(settings: Settings, preset: str) -> Path | None:
    """The run of these settings' name, where it has a checkpoint to go on from, whole or not."""
    from captioner.training.checkpoint import has_checkpoint

    run = Path(settings.trainer.folder) / (settings.trainer.run or preset)
    return run if has_checkpoint(run) else None


def _resumed_settings(resume: str | Path | None) -> Settings | None:
    """A resumed run's own settings, over which the command line's go."""
    from captioner.run_folder import read_settings, run_of

    if not resume or resume == AUTO:
        return None
    run = run_of(Path(resume))
    _, settings = read_settings(run)
    return replace(settings, trainer=replace(settings.trainer, run=run.name, folder=str(run.parent), overwrite=False))
