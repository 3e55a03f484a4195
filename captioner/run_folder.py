"""A run's folder: its settings and where they came from, its checkpoints, and the export of its best model."""

import hashlib
import importlib.metadata
import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import captioner
from captioner.errors import CheckpointError, ConfigError
from captioner.settings import Settings
from captioner.settings_json import changed_settings, settings_from_dict, settings_to_dict
from captioner.training.checkpoint import SETTINGS, TOKENIZER_FILES, list_checkpoints, names_step, set_aside, step_of
from captioner.training.run_lock import LOCK
from captioner.whole_writes import remove, write_text

logger = logging.getLogger(__name__)

BEST, CHECKSUM = "best", "checksum"
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "safetensors")
WRITTEN = (
    *(*TOKENIZER_FILES, "training_images.json", "encoder", BEST, "step-[0-9]*", "evaluation-*.json", "report"),
    *("metrics.jsonl", "timings.jsonl", "not-finite-*.txt", "tensorboard", "wandb", "wandb-id.txt"),
    *(".*.writing", ".*.retired", ".*.abandoned"),
)
"""What a run writes into its folder, beside its settings and a picture."""

FIXED = ("data.name", "data.splits", "tokenizer", "encoder", "projection", "decoder", "task.name")
"""Groups and settings that make the network and its words: what was trained with others is of no use with these."""
FREE = ("encoder.gradient_checkpointing", "projection.dropout", "decoder.dropout")
"""Settings of these groups that change how a network is trained, and not what it is."""
ORDER = (
    *("data.streaming", "data.shuffle_buffer"),
    *("trainer.batch_images", "trainer.captions_per_row", "trainer.length_buckets", "trainer.seed"),
)
"""Settings that decide what is in which batch: they can change between epochs only."""


def check_resumable(before: Settings, after: Settings, *, position: int) -> None:
    """Raise ConfigError with every setting that a run cannot go on with.

    Args:
        before: the run's settings.
        after: those that it is to go on with.
        position: batches of the current epoch already used.
    """
    changed = changed_settings(before, after)
    fixed = [line for path, line in changed.items() if {path, path.split(".")[0]} & {*FIXED} and path not in FREE]
    order = [line for path, line in changed.items() if path in ORDER and position]
    problems = [
        *(f"the run cannot go on with {line}; drop that, or start another with --trainer.run" for line in fixed),
        *(f"the run cannot go on within an epoch with {line}; resume a step between epochs" for line in order),
    ]
    if problems:
        raise ConfigError(*problems)


def check_made_from(before: Mapping[str, str], now: Mapping[str, str], *, origin: Path) -> None:
    """Raise CheckpointError for everything by the same name that is another one than the run was made from.

    Args:
        before: fingerprints of the run's data and encoder by their names; a checkpoint may know of none.
        now: the same of those that it is to go on with.
        origin: the checkpoint, for the message.
    """
    changed = [
        f"{name} (fingerprint {before[name][:8]}…, here it is {now[name][:8]}…)"
        for name in now
        if before.get(name, now[name]) != now[name]
    ]
    if changed:
        raise CheckpointError(
            f"{origin} was trained with another {' and another '.join(changed)}; make it again from the same files, or "
            "name another --data.folder; or start a new run with --trainer.run"
        )


def write_settings(run: Path, settings: Settings, *, preset: str, resumed_at: int | None = None) -> None:
    """Record a run's settings, the versions, the git commit and the command line in ``settings.json``.

    With ``resumed_at``, the step that the run goes on from, its first command line stays, and this one is added to its
    ``resumed`` with what it changes in the settings.

    Raises OSError, for example when the disk is full, with an earlier settings.json untouched.
    """
    command, resumed = shlex.join(sys.argv), []
    if resumed_at is not None:
        earlier = read_description(run)
        changed = [*changed_settings(settings_from_dict(earlier["settings"]), settings).values()]
        resumed = [*earlier.get("resumed", []), {"step": resumed_at, "command": command, "changed": changed}]
        command = earlier["command"]
    content = {
        "preset": preset,
        "settings": settings_to_dict(settings),
        "captioner_version": captioner.__version__,
        "versions": {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES},
        "commit": _git_commit(),
        "command": command,
        "resumed": resumed,
    }
    run.mkdir(parents=True, exist_ok=True)
    content[CHECKSUM] = _checksum(content)
    write_text(run / SETTINGS, json.dumps(content, indent=2) + "\n")


def _checksum(content: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _git_commit() -> str | None:
    """The commit of the source tree, with "+changes" where it has uncommitted ones; None where it is not under git."""
    folder = Path(captioner.__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # fails in a virtual environment inside another repository
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def read_settings(run: Path) -> tuple[str, Settings]:
    """A run's preset and settings; raises what ``read_description`` raises."""
    content = read_description(run)
    return content["preset"], settings_from_dict(content["settings"])


def read_description(run: Path) -> dict[str, Any]:
    """All that a run's settings.json tells, without its checksum.

    Where that is damaged, the copy in the newest checkpoint that has a whole one is taken, with a warning.
    Raises CheckpointError if there is none, or it is of another version.
    """
    path = run / SETTINGS
    try:
        return _read_description(path)
    except CheckpointError as error:
        for folder in reversed(list_checkpoints(run)):
            try:
                content = _read_description(folder / SETTINGS)
            except CheckpointError:
                continue
            logger.warning("%s is damaged, edited or missing: the settings are those of %s", path, folder)
            return content
        if not path.is_file():
            message = f"{run} is not a run: it has no {SETTINGS}; name a folder like checkpoints/scenes"
            raise CheckpointError(message) from error
        raise


def _read_description(path: Path) -> dict[str, Any]:
    """The content of a settings.json; raises CheckpointError if that is missing, damaged or of another version."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if CHECKSUM in content and content[CHECKSUM] != _checksum(content):  # the first ones had none
            raise ValueError("its checksum is another")
        settings_from_dict(content["settings"])
        return {**{name: value for name, value in content.items() if name != CHECKSUM}, "preset": content["preset"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path} is damaged or of another version ({error}); train anew") from error


def exported_step(run: Path) -> int | None:
    """The step of the model that is a run's best export, None where there is none or that is damaged."""
    try:
        content = json.loads((run / BEST / "metrics.json").read_text(encoding="utf-8"))
        return int(content["validation_at_best"]["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def has_best(run: Path, step: int) -> bool:
    """Whether a run's export is that of a step, or of one that is not saved and will be taken again."""
    exported = exported_step(run)
    return exported is not None and (exported == step or exported > max(map(step_of, list_checkpoints(run)), default=0))


def give_up_future(run: Path, step: int, *, keep_best: bool = False, finished: bool = False) -> None:
    """Set aside what is of later steps, before a run goes on from this one.

    Args:
        run: its folder.
        step: where it goes on.
        keep_best: let an export of a later step stay until there is another: it is all that is left of that step.
        finished: whether no steps are left to take; otherwise the test figures are set aside too.
    """
    later = [folder for folder in list_checkpoints(run) if step_of(folder) > step]
    if (exported := exported_step(run) or 0) > step and not keep_best:
        later.append(run / BEST)
    elif exported > step:
        logger.warning("%s is of step %d, which is not saved: it stays until there is another", run / BEST, exported)
    if later:
        names = ", ".join(folder.name for folder in later)
        logger.warning("%s goes on from step %d; what is later is given up: %s", run, step, names)
    set_aside([*later, *(run.glob("evaluation-*.json") if later or not finished else ())])


def clear_run(run: Path) -> None:
    """Remove what a run wrote but its settings, which tell that the folder is a run's until new ones replace them."""
    for path in [path for pattern in WRITTEN for path in run.glob(pattern)]:
        remove(path)


def run_of(path: Path) -> Path:
    """The run that a run, a step or an export of a run names."""
    if path.name in ("", ".."):  # as in --resume .
        path = path.resolve()
    return path.parent if path.name == BEST or names_step(path) else path


def check_goes_on(origin: Path, run: Path) -> None:
    """Raise ConfigError if what a run is to go on from is of another run: it would be trained without its lock."""
    if run_of(origin).resolve() != run.resolve():
        raise ConfigError(
            f"--resume {origin} goes on in {run_of(origin)}, not in {run}: drop --trainer.run and --trainer.folder, or "
            "copy the run first and resume the copy"
        )


def check_unfinished(run: Path) -> None:
    """Raise ConfigError if a run without checkpoints has an evaluated best model, which a new one would replace."""
    try:
        metrics = json.loads((run / BEST / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        metrics = {}
    if any(run.glob("evaluation-*.json")) or any(name.startswith("test") for name in metrics):
        raise ConfigError(
            f"{run} has an evaluated best model and no checkpoint to go on from: start another with --trainer.run, or "
            "replace it with --trainer.overwrite in place of --resume auto"
        )


def check_free(run: Path, *, overwrite: bool = False) -> None:
    """Raise ConfigError if the folder holds something else than a run, or a run that is not to be overwritten."""
    is_run = any((folder / SETTINGS).is_file() for folder in (run, *list_checkpoints(run)))
    unfinished = f".{SETTINGS}.writing"  # of a run that was killed before anything else
    if run.exists() and not is_run and any(path.name not in (LOCK, unfinished) for path in run.iterdir()):
        raise ConfigError(f"{run} is there already and holds no run; name another folder with --trainer.run")
    if overwrite:
        return
    if (run / BEST).exists() or list_checkpoints(run):
        raise ConfigError(
            f"{run} holds a run already: go on with --resume {run}, start another with --trainer.run NAME, "
            "or replace it with --trainer.overwrite"
        )
