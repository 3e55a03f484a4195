"""From a run to the world: the export of its best model, and the push to the Hugging Face Hub."""

import json
from pathlib import Path

from captioner.api import Captioner
from captioner.errors import CheckpointError, HubError
from captioner.export_folder import CARD, METRICS, find_export
from captioner.training.checkpoint import write_folder, write_text


def export(captioner: Captioner, folder: Path) -> None:
    """Write a captioner's export to ``folder``, whole or not at all; an older one is replaced."""
    write_folder(folder, captioner.save_pretrained)


def save_scores(captioner: Captioner, folder: str | Path) -> None:
    """Write a captioner's metrics into its export, and the model card that shows them.

    Raises CheckpointError where the export is not on this machine.
    """
    if not Path(folder).is_dir():
        raise CheckpointError(f"{folder} is on the Hub: its card is updated by captioner push of an export of yours")
    found = find_export(folder)
    write_text(found / METRICS, json.dumps(captioner.metrics, indent=2, ensure_ascii=False) + "\n")
    write_text(found / CARD, str(captioner.generate_model_card()) + "\n")


def push(folder: Path, repo_id: str, *, private: bool = True) -> str:
    """Upload an export to the Hub; returns the address of its commit.

    Args:
        folder: an export, or a run whose ``best/`` is one.
        repo_id: a repository such as ``me/captioner``; created where it is missing.
        private: whether a created repository is private.

    Raises:
        CheckpointError: there is no whole export.
        HubError: the Hub could not be reached, or refused the token or the name; the message says how to try again.
    """
    captioner = Captioner.from_pretrained(folder)
    try:
        return captioner.push_to_hub(repo_id, private=private)
    except HubError as error:
        public = "" if private else " --public"
        again = f"captioner push {folder} {repo_id}{public}"
        raise HubError(f"{error}; the export is safe, try again with `{again}`") from error
