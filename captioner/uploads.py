"""Uploads of a running training's best exports and checkpoints: in the background, again where they fail, and never in
its way.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import get_token

import captioner
from captioner.errors import CaptionerError
from captioner.hub import LOG_IN, UploadError
from captioner.settings import HubSettings
from captioner.sharing import write_shared_copy

logger = logging.getLogger(__name__)

WAITS = (10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds before the next attempt, after so many failures in a row."""
FINAL_WAITS = (10.0,)
"""The same once training has ended."""
LONGEST_FINAL_WAIT = 300.0  # seconds; a Hub that asks for more patience is left alone once training has ended
LONGEST_ATTEMPT = 3600.0  # seconds; a Hub that neither answers nor hangs up must not hold a process for ever

Attempt = Callable[[Path, str], str]
"""Uploads a folder with a message for its history; returns the address, or raises UploadError."""


@dataclass
class _Upload:
    """What waits to be uploaded, as the copy that was made of it."""

    folder: Path
    message: str


class UploadProcess:
    """One attempt at a time, each in a process of its own, so that one that hangs can be stopped."""

    def __init__(self, settings: HubSettings) -> None:
        self._settings, self._stopped = settings, False
        self._child: subprocess.Popen[str] | None = None

    def __call__(self, folder: Path, message: str) -> str:
        """Upload a folder; returns the address of its commit, raises UploadError."""
        repo_id = self._settings.repo_id
        try:
            self._child = self._begin(folder, message)
        except OSError as error:
            raise UploadError(f"{repo_id} was not uploaded: no process for it ({error})") from error
        if self._stopped:
            self._child.kill()
        try:
            output, errors = self._child.communicate(timeout=LONGEST_ATTEMPT)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.communicate()
            raise UploadError(f"{repo_id} was not uploaded: no end after {LONGEST_ATTEMPT:.0f} seconds") from None
        answer = _last_json(output)
        if "address" in answer:
            return answer["address"]
        if "error" in answer:
            raise UploadError(answer["error"], lasting=answer["lasting"], wait=answer["wait"])
        said = (errors.strip().splitlines() or [f"its process ended with status {self._child.returncode}"])[-1]
        raise UploadError(f"{repo_id} was not uploaded: {said}")

    def _begin(self, folder: Path, message: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "captioner.hub", str(folder), self._settings.repo_id, "--message", message]
        words += [] if self._settings.private else ["--public"]
        home = str(Path(captioner.__file__).parents[1])
        path = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the training
            env={**os.environ, "PYTHONPATH": path, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )

    def stop(self) -> None:
        """End the attempt that is under way, and let no other one begin."""
        self._stopped = True
        if self._child:
            self._child.kill()


def _last_json(output: str) -> dict[str, Any]:
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        return {}


class BackgroundUploads:
    """Uploads the newest best export and checkpoint; what newer ones overtook before its turn is left out.

    Whatever the Hub does, nothing here raises, and nothing waits for it but ``finish``, which is for the end.
    """

    def __init__(
        self,
        settings: HubSettings,
        run: Path,
        *,
        attempt: Attempt | None = None,
        waits: Sequence[float] = WAITS,
        final_waits: Sequence[float] = FINAL_WAITS,
    ) -> None:
        """Uploads to ``settings.repo_id``, from copies within the run's folder.

        Args:
            settings: the repository, and whether it is made private.
            run: the run's folder.
            attempt: how one upload is done, instead of by an UploadProcess.
            waits: seconds after so many failures in a row; the last one for all further ones.
            final_waits: the same for ``finish``, which gives up after the last one.
        """
        self._settings, self._run, self._waits, self._final_waits = settings, run, waits, final_waits
        self._process = None if attempt else UploadProcess(settings)
        self._attempt: Attempt = attempt or self._process
        self._checkpoint: Path | None = None
        self._changed = threading.Condition()  # guards what follows
        self._newest: _Upload | None = None  # until it is uploaded
        self._trying: _Upload | None = None
        self._finishing = self._stopped = False
        self._failure, self._failures = "", 0
        self._thread: threading.Thread | None = None
        if self._process and not get_token():
            logger.warning("Not logged in to the Hub, uploads to %s will fail: %s", settings.repo_id, LOG_IN)
        for leftover in run.glob(".upload-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)

    def submit(self, export: Path, message: str, *, checkpoint: Path | None = None, last: bool = False) -> bool:
        """Upload this export as it is now, as soon as may be; returns whether it could be copied for that.

        The newest checkpoint that was given goes with every upload: what is on the Hub at any time fits together.
        """
        if checkpoint or (self._checkpoint and not self._checkpoint.exists()):  # it may have been pruned
            self._checkpoint = checkpoint
        folder = None
        try:
            folder = Path(tempfile.mkdtemp(prefix=".upload-", dir=self._run))
            write_shared_copy(export, folder, self._settings.repo_id, checkpoint=self._checkpoint)
        except (OSError, CaptionerError) as error:
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
            self._failure = str(error)
            logger.warning("%s is not uploaded for now: %s", checkpoint or export, error)
            return False
        with self._changed:
            overtaken, self._newest = self._newest, _Upload(folder, message)
            if last:
                self._finishing, self._failures = True, 0
            if overtaken and overtaken is not self._trying:
                shutil.rmtree(overtaken.folder, ignore_errors=True)
            self._changed.notify_all()
        if not self._thread:
            self._thread = threading.Thread(target=self._work, name="hub-uploads", daemon=True)
            self._thread.start()
        return True

    def finish(self, export: Path, message: str, *, within: float | None = None) -> bool:
        """Upload the last export and wait for that; returns whether it is there, and says what to do if it is not.

        With ``within``, the wait is at most so many seconds.
        """
        logger.info("Uploading %s to %s", self._checkpoint or export, self._settings.repo_id)
        if self.submit(export, message, last=True):
            self._thread.join(within)
        return self.stop(export)

    def stop(self, export: Path) -> bool:
        """End without waiting; returns whether all is uploaded, and reports the command to do it by hand if not."""
        if self._stopped:
            return True
        with self._changed:
            unfinished, self._newest = self._newest, None
            if unfinished and unfinished is not self._trying:
                shutil.rmtree(unfinished.folder, ignore_errors=True)
            self._stopped = True
            self._changed.notify_all()
        if self._process:
            self._process.stop()
        if unfinished or self._failure:
            self._report(export)
        return not (unfinished or self._failure)

    def _report(self, export: Path) -> None:
        repo_id = self._settings.repo_id
        what, missing, folder = "the export", "the best model", export
        if self._checkpoint:
            what, missing, folder = "the run", "the newest checkpoint", self._run
        words = f"captioner push {folder} {repo_id}"
        words += "" if self._settings.private else " --public"
        words += " --checkpoint" if self._checkpoint else ""
        failure = self._failure or f"{repo_id} does not have {missing} yet"
        logger.warning("%s; %s is safe, upload it with `%s`", failure, what, words)

    def _work(self) -> None:
        """One upload after the other, until training ends."""
        while upload := self._take():
            error = self._try(upload)
            with self._changed:
                self._trying = None
                newest = self._newest is upload
                given_up = newest and self._finishing and self._fails_for_good(error)
                if given_up or not newest:  # or it is uploaded, or overtaken
                    shutil.rmtree(upload.folder, ignore_errors=True)
                if given_up:
                    return
                if error and (newest or not self._finishing):
                    self._pause(error, upload)

    def _take(self) -> _Upload | None:
        """The newest upload as soon as there is one, None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._finishing or self._stopped)
            self._trying = self._newest
            return self._trying

    def _fails_for_good(self, error: UploadError) -> bool:
        """Whether there is no use in another attempt once training has ended."""
        return error.lasting or self._failures >= len(self._final_waits) or error.wait > LONGEST_FINAL_WAIT

    def _pause(self, error: UploadError, upload: _Upload) -> None:
        """Leave the Hub alone for a while, whatever is submitted meanwhile, but for the last upload of all."""
        finishing = self._finishing

        def is_over() -> bool:
            return self._stopped or self._finishing is not finishing

        self._failures += 1
        waits = self._final_waits if finishing else self._waits
        self._changed.wait_for(is_over, timeout=max(error.wait, waits[min(self._failures, len(waits)) - 1]))
        if error.lasting:
            self._changed.wait_for(lambda: is_over() or self._newest is not upload)

    def _try(self, upload: _Upload) -> UploadError | None:
        """One attempt; returns what went wrong."""
        try:
            address = self._attempt(upload.folder, upload.message)
        except UploadError as error:
            if str(error) != self._failure and not self._stopped and not self._finishing:
                logger.warning("%s; training goes on, and it is tried again later", error)
            self._failure = str(error)
            return error
        with self._changed:
            self._failure, self._failures = "", 0
            self._newest = None if self._newest is upload else self._newest
        logger.info("Uploaded to %s: %s", address, upload.message)
        return None
