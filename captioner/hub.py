"""Talking with the Hugging Face Hub: an upload in one call, and every failure in one line with its remedy.

``python -m captioner.hub FOLDER OWNER/NAME`` uploads in a process of its own, which is what a running training does:
such a process can be stopped when the Hub does not answer, and it imports neither torch nor a model.
"""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_session, get_token, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library that the Hub's own one uses; which one, depends on its version
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from captioner.errors import HubError
from captioner.models.encoder_files import in_one_line

HUB_ERRORS = (HTTPError, HFValidationError, OSError, json.JSONDecodeError)
LOG_IN = "run `hf auth login` or set HF_TOKEN"
REFUSALS = {
    400: "the Hub does not take it (400); see what its name and its files are",
    401: f"the Hub does not accept the token (401); {LOG_IN} with one that may write there",
    403: f"the token may not write there (403); {LOG_IN} with one that may",
    404: "the Hub knows no such owner or repository (404); check the name",
}
TRAINING = "training"
"""Folder of a repository that holds the newest checkpoint of a run, beside the export of its best model."""
SILENCE_SECONDS = 60.0  # after so long without a byte the Hub counts as gone


class UploadError(HubError):
    """An upload failed; ``lasting`` where asking again is of no use, ``wait`` for the seconds the Hub asks for."""

    def __init__(self, message: str, *, lasting: bool = False, wait: float = 0.0) -> None:
        super().__init__(message)
        self.lasting, self.wait = lasting, wait


def hub_reason(error: BaseException) -> str:
    """Why the Hub did not do as asked, in one line, with the remedy where there is one."""
    if isinstance(error, RepositoryNotFoundError):
        return "it has no such repository; check the name, and run `hf auth login` where it is private"
    status = _status(error)
    if status in (401, 403):
        return f"it does not let this token in ({status}); {LOG_IN} with one that may"
    if status == 429:
        return "it asks for patience (429); try again in some minutes"
    if status >= 500:
        return f"it has a fault of its own ({status}); try again later"
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
        return "it cannot be reached; connect and try again"
    if isinstance(error, HTTPError) and not status:
        return f"it cannot be reached ({in_one_line(error)}); connect and try again"
    if isinstance(error, json.JSONDecodeError):
        return "it gave an answer that is no JSON, as a proxy or a Hub with a fault does; try again later"
    return in_one_line(error)


def _status(error: BaseException | None) -> int:
    """What the Hub answered, also where the library tells of a later problem instead; 0 where it gave no answer."""
    while error:
        if isinstance(error, HfHubHTTPError) and error.response is not None:
            return error.response.status_code
        error = error.__cause__ or error.__context__
    return 0


def upload(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None = True,
    token: str | None = None,
    commit_message: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
) -> str:
    """Upload a folder's files to a model repository, all in one commit; returns its address.

    Args:
        folder: all that is in it is uploaded; with ``training/`` in it, the repository's other one goes.
        repo_id: such as ``me/captioner``; created where it is missing.
        private: whether a created repository is private.
        token: instead of the one that is logged in.
        commit_message: for the repository's history.
        branch: instead of ``main``.
        create_pr: open a pull request instead of committing.

    Raises:
        UploadError: the Hub could not be reached, or refused.
    """
    if not (token or get_token()):
        raise UploadError(f"{repo_id} was not uploaded: not logged in to the Hub; {LOG_IN}", lasting=True)
    try:
        api = HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        # Not upload_folder, which makes several commits of what takes long: between two, nothing would fit together.
        made = api.create_commit(
            repo_id,
            _operations(api, folder, repo_id, branch=branch),
            commit_message=commit_message or "Upload a captioner",
            revision=branch,
            create_pr=create_pr,
        )
    # The library also raises ValueError for what it does not understand, and RuntimeError around what stopped a file.
    except (*HUB_ERRORS, ValueError, RuntimeError) as error:
        raise _upload_error(repo_id, error) from error
    return str(made.commit_url)


def download(repo_id: str, **options: Any) -> Path:
    """The files of a repository, all of the same commit; ``options`` are those of ``snapshot_download``.

    Raises HubError where the Hub cannot be reached or has no such repository.
    """
    try:
        return Path(snapshot_download(repo_id, **options))
    except HUB_ERRORS as error:
        raise HubError(
            f"{repo_id} is no folder here, and could not be had from the Hub: {hub_reason(error)}"
        ) from error


def _operations(
    api: HfApi, folder: Path, repo_id: str, *, branch: str | None
) -> list[CommitOperationAdd | CommitOperationDelete]:
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    outdated: list[str] = []
    if (folder / TRAINING).is_dir():
        there = api.list_repo_files(repo_id, revision=branch)
        outdated = [name for name in there if name.startswith(f"{TRAINING}/") and name not in files]
    return [
        *(CommitOperationAdd(name, path) for name, path in files.items()),
        *(CommitOperationDelete(name) for name in outdated),
    ]


def _upload_error(repo_id: str, error: Exception) -> UploadError:
    answer, at_fault = _refusal(error)
    reason = REFUSALS.get(answer.status_code) if answer is not None else None
    lasting = reason is not None or isinstance(error, HFValidationError | OfflineModeIsEnabled)
    asked = answer.headers.get("retry-after", "") if answer is not None else ""
    return UploadError(
        f"{repo_id} was not uploaded: {reason or hub_reason(at_fault)}",
        lasting=lasting,
        wait=float(asked) if asked.isdecimal() else 0.0,
    )


def _refusal(error: BaseException) -> tuple[Any, BaseException]:
    """The Hub's answer in the chain of errors, None where it gave none, and the error that tells most."""
    while isinstance(error, RuntimeError) and not isinstance(error, HfHubHTTPError) and error.__cause__:
        error = error.__cause__
    return (error.response if isinstance(error, HfHubHTTPError) else None), error


def main() -> None:
    """Upload a folder and print one line of JSON: the address, or what went wrong."""
    parser = argparse.ArgumentParser("python -m captioner.hub", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("repo_id")
    parser.add_argument("--public", action="store_true")
    parser.add_argument("--message")
    options = parser.parse_args()
    if hasattr(os, "nice"):
        os.nice(5)  # a training beside it goes first
    get_session().timeout = SILENCE_SECONDS
    try:
        private, message = not options.public, options.message
        answer = {"address": upload(options.folder, options.repo_id, private=private, commit_message=message)}
    except UploadError as error:
        answer = {"error": str(error), "lasting": error.lasting, "wait": error.wait}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
