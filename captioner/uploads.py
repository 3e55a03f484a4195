"""Uploads of a running training's best exports: in the background, again where they fail, and never in its way."""

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
from captioner.export_folder import write_shared_copy
from captioner.hub import LOG_IN, UploadError
from captioner.settings import HubSettings

logger = logging.getLogger(__name__)

WAITS = (10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds before the next attempt, after so many failures in a row."""
FINAL_WAITS = (10.0,)
"""The same once training has ended."""
LONGEST_ATTEMPT = 3600.0  # seconds; a Hub that neither answers nor hangs up must not hold a process for ever

Attempt = Callable[[Path, str], str]
"""Uploads a folder with a message for its history; returns the address, or raises UploadError."""


@dataclass
class _Upload:
    """A best export that waits to be uploaded, as the copy that was made of it."""

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
    """Uploads the newest best export; one that a better one overtook before its turn is left out.

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
        self._changed = threading.Condition()  # guards what follows
        self._newest: _Upload | None = None  # until it is uploaded
        self._trying: _Upload | None = None
        self._finishing = self._stopped = False
        self._failure = ""
        self._thread: threading.Thread | None = None
        if self._process and not get_token():
            logger.warning("Not logged in to the Hub, uploads to %s will fail: %s", settings.repo_id, LOG_IN)
        for leftover in run.glob(".upload-*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)

    def submit(self, export: Path, message: str, *, last: bool = False) -> bool:
        """Upload this export as it is now, as soon as may be; returns whether it could be copied for that."""
        try:
            folder = Path(tempfile.mkdtemp(prefix=".upload-", dir=self._run))
            write_shared_copy(export, folder, self._settings.repo_id)
        except (OSError, CaptionerError) as error:
            self._failure = str(error)
            logger.warning("%s is not uploaded for now: %s", export, error)
            return False
        with self._changed:
            overtaken, self._newest = self._newest, _Upload(folder, message)
            self._finishing = last
            if overtaken and overtaken is not self._trying:
                shutil.rmtree(overtaken.folder, ignore_errors=True)
            self._changed.notify_all()
        if not self._thread:
            self._thread = threading.Thread(target=self._work, name="hub-uploads", daemon=True)
            self._thread.start()
        return True

    def finish(self, export: Path, message: str) -> bool:
        """Upload the last export and wait for that; returns whether it is there, and says what to do if it is not."""
        logger.info("Uploading %s to %s", export, self._settings.repo_id)
        if self.submit(export, message, last=True):
            self._thread.join()
        self.stop(export)
        return not self._failure

    def stop(self, export: Path) -> None:
        """End without waiting; what is not uploaded yet is reported, with the command to do it by hand."""
        if self._stopped:
            return
        with self._changed:
            unfinished, self._newest = self._newest, None
            if unfinished and unfinished is not self._trying:
                shutil.rmtree(unfinished.folder, ignore_errors=True)
            self._stopped = True
            self._changed.notify_all()
        if self._process:
            self._process.stop()
        if unfinished or self._failure:
            repo_id = self._settings.repo_id
            logger.warning(
                "%s; the export is safe, upload it with `captioner push %s %s%s`",
                self._failure or f"{repo_id} does not have the best model yet",
                export,
                repo_id,
                "" if self._settings.private else " --public",
            )

    def _work(self) -> None:
        """One upload after the other, until training ends."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._newest or self._finishing or self._stopped)
                upload = self._trying = self._newest
            if not upload:
                return
            self._deliver(upload)
            with self._changed:
                self._trying = None
            shutil.rmtree(upload.folder, ignore_errors=True)
            if self._finishing and self._newest is upload:
                return  # given up

    def _deliver(self, upload: _Upload) -> None:
        """Try until it is uploaded, overtaken by a newer one, or given up at the end."""
        failures = 0
        while (error := self._try(upload)) and self._newest is upload:
            failures += 1
            with self._changed:
                if self._finishing and (error.lasting or failures > len(self._final_waits)):
                    return
                waits = self._final_waits if self._finishing else self._waits
                wait = max(error.wait, waits[min(failures, len(waits)) - 1])
                wait = None if error.lasting else wait  # until there is a newer one
                self._changed.wait_for(lambda: self._newest is not upload, timeout=wait)

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
            self._failure = ""
            self._newest = None if self._newest is upload else self._newest
        logger.info("Uploaded to %s: %s", address, upload.message)
        return None
