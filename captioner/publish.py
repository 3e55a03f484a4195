"""From a run to the world: the export of its best model, and the push to the Hugging Face Hub."""

import json
import tempfile
from functools import partial
from pathlib import Path

from captioner.api import Captioner
from captioner.errors import CheckpointError, HubError
from captioner.export_folder import CARD, METRICS
from captioner.export_reading import find_export
from captioner.hub import upload
from captioner.run_folder import BEST, run_of
from captioner.sharing import write_shared_copy
from captioner.training.checkpoint import find_checkpoint
from captioner.whole_writes import write_folder, write_text


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


def push(folder: Path, repo_id: str, *, private: bool = True, checkpoint: bool = False) -> str:
    """Upload an export to the Hub; returns the address of its commit.

    Args:
        folder: an export, or a run whose ``best/`` is one.
        repo_id: a repository such as ``me/captioner``; created where it is missing.
        private: whether a created repository is private.
        checkpoint: upload the run's newest whole checkpoint with it, for ``--resume``.

    Raises:
        CheckpointError: there is no whole export, or no whole checkpoint.
        HubError: the Hub could not be reached, or refused the token or the name; the message says how to try again.
    """
    if checkpoint:
        share = partial(_push_run, run_of(folder), repo_id, private=private)
    else:
        share = partial(Captioner.from_pretrained(folder).push_to_hub, repo_id, private=private)
    try:
        return share()
    except HubError as error:
        flags = ("" if private else " --public") + (" --checkpoint" if checkpoint else "")
        again = f"captioner push {folder} {repo_id}{flags}"
        what = "the run" if checkpoint else "the export"
        raise HubError(f"{error}; {what} is safe, try again with `{again}`") from error


def _push_run(run: Path, repo_id: str, *, private: bool) -> str:
    newest, _ = find_checkpoint(run)
    with tempfile.TemporaryDirectory(prefix=".upload-", dir=run) as folder:  # beside it, where links can be made
        write_shared_copy(run / BEST, Path(folder), repo_id, checkpoint=newest)
        return upload(Path(folder), repo_id, private=private, commit_message=f"The run's state: {newest.name}")
