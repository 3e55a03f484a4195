"""A run's folder: its settings and where they came from, its checkpoints, and the export of its best model."""

import importlib.metadata
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import captioner
from captioner.errors import CheckpointError, ConfigError
from captioner.settings import Settings
from captioner.settings_json import changed_settings, settings_from_dict, settings_to_dict
from captioner.training.checkpoint import list_checkpoints, names_step, write_text

SETTINGS, BEST = "settings.json", "best"
DATASET = "dataset_fingerprint"
"""Of the settings.json of a run from another machine: that of the dataset there."""
RECORDED_PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "safetensors")


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


def check_dataset(run: Path, fingerprint: str) -> None:
    """Raise ConfigError if a run that came from another machine finds other data here under the same name."""
    known = json.loads((run / SETTINGS).read_text()).get(DATASET, fingerprint)
    if known != fingerprint:
        raise ConfigError(
            f"{run} cannot go on with this dataset: it is another one than it was trained on (fingerprint "
            f"{fingerprint[:8]}… and not {known[:8]}…); prepare it from the same files, or name its --data.folder"
        )


def write_settings(run: Path, settings: Settings, *, preset: str, resumed_at: int | None = None) -> None:
    """Record a run's settings, the versions, the git commit and the command line in ``settings.json``.

    With ``resumed_at``, the step that the run goes on from, its first command line stays, and this one is added to its
    ``resumed`` with what it changes in the settings.

    Raises OSError, for example when the disk is full, with an earlier settings.json untouched.
    """
    command, resumed = shlex.join(sys.argv), []
    if resumed_at is not None:
        _, before = read_settings(run)
        changed = [*changed_settings(before, settings).values()]
        earlier = json.loads((run / SETTINGS).read_text())
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
    write_text(run / SETTINGS, json.dumps(content, indent=2) + "\n")


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
    """A run's preset and settings.

    Raises CheckpointError if its settings.json is missing, torn or of another version.
    """
    path = run / SETTINGS
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        return content["preset"], settings_from_dict(content["settings"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"{run} is not a run: it has no {SETTINGS}; name a folder like checkpoints/scenes"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{path} is damaged or of another version ({error}); train anew") from error


def run_of(path: Path) -> Path:
    """The run that a run, a step or an export of a run names."""
    if path.name in ("", ".."):  # as in --resume .
        path = path.resolve()
    return path.parent if path.name == BEST or names_step(path) else path


def check_free(run: Path) -> None:
    """Raise ConfigError if a run of this name exists already."""
    if (run / BEST).exists() or list_checkpoints(run):
        raise ConfigError(
            f"{run} holds a run already: go on with --resume {run}, start another with --trainer.run NAME, "
            "or replace it with --trainer.overwrite"
        )
