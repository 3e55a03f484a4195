"""METEOR 1.5 through the Java program that comes with pycocoevalcap, so that nothing it does can cost another metric.

pycocoevalcap's own wrapper waits for ever on a hanging process and never lets go of its lock after a failure; this one
has a deadline and one error type.
"""

import subprocess
import tempfile
import threading
from collections.abc import Sequence
from typing import IO

from captioner.evaluation.java_programs import MetricUnavailableError, find_bundled_file, find_java

STARTUP_SECONDS = 120.0
"""Time allowed for Java to start and read its paraphrase table (about 10 seconds on one core)."""
SECONDS_PER_IMAGE = 0.5
"""Time allowed for each image on top (about 10 milliseconds on one core)."""


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Return METEOR of the set and of each image, as COCO's evaluation asks for it (Denkowski and Lavie, 2014).

    predictions: one tokenized caption an image.
    references: the tokenized reference captions of each image.
    Raises MetricUnavailableError where Java or the jar is missing, fails or takes too long.
    """
    java, jar = find_java("METEOR"), find_bundled_file("meteor/meteor-1.5.jar", "METEOR")
    # UTF-8 whatever the locale: Java before 18 would read captions in the locale's encoding.
    command = [java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", jar.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    seconds = STARTUP_SECONDS + SECONDS_PER_IMAGE * len(predictions)
    expired = threading.Event()
    with tempfile.TemporaryFile() as complaints:
        try:
            with subprocess.Popen(
                command, cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=complaints
            ) as process:
                watchdog = threading.Timer(seconds, _stop, args=[process, expired])
                watchdog.start()
                try:
                    return _exchange(process, predictions, references)
                finally:
                    watchdog.cancel()
                    process.kill()
        except (OSError, ValueError) as error:
            if expired.is_set():
                raise MetricUnavailableError(f"Java was stopped after {seconds:.0f} seconds without METEOR") from error
            reason = _first_line(complaints) or str(error)
            raise MetricUnavailableError(f"the METEOR program failed: {reason}") from error


def _stop(process: subprocess.Popen, expired: threading.Event) -> None:
    expired.set()
    process.kill()


def _exchange(
    process: subprocess.Popen, predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[float, list[float]]:
    """Send each image's captions for its statistics, then all statistics for the images' and the set's scores."""
    statistics = []
    for prediction, group in zip(predictions, references, strict=True):
        _write(process, "SCORE", [*group, prediction])
        statistics.append(_read(process))
    _write(process, "EVAL", statistics)
    images = [float(_read(process)) for _ in statistics]
    return float(_read(process)), images


def _write(process: subprocess.Popen, verb: str, fields: list[str]) -> None:
    # The separator within a caption would make it two captions.
    line = " ||| ".join([verb, *(field.replace("|||", "") for field in fields)])
    process.stdin.write(f"{line}\n".encode())
    process.stdin.flush()


def _read(process: subprocess.Popen) -> str:
    line = process.stdout.readline()
    if not line:
        raise OSError("it ended without an answer")
    return line.decode().strip()


def _first_line(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    lines = complaints.read().decode(errors="replace").strip().splitlines()
    return lines[0].strip() if lines else ""
