"""SPICE through the Java program of pycocoevalcap (Anderson et al., 2016, https://arxiv.org/abs/1607.08822).

The program needs Stanford CoreNLP 3.6.0, which pycocoevalcap would download; here nothing is downloaded, and SPICE is
unavailable until someone has put the two files where the reason says. It writes its scores with the JavaScript engine
that Java had up to version 14 (https://openjdk.org/jeps/372); with a later one, that engine's jars are needed too.
"""

import json
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from captioner.evaluation.java_programs import MetricUnavailableError, find_bundled_file, find_java

PARSER_FILES = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
PARSER_SOURCE = "http://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
LAST_JAVASCRIPT = 14
"""The last version of Java with a JavaScript engine of its own."""
STARTUP_SECONDS = 600.0
"""Time allowed for Java to start and read the parser's models."""
SECONDS_PER_IMAGE = 10.0
"""Time allowed for each image on top."""


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Return SPICE of the set and of each image, for tokenized captions.

    Raises MetricUnavailableError where Java or one of its files is missing, fails or takes too long.
    """
    java, jar = find_java("SPICE"), find_bundled_file("spice/spice-1.0.jar", "SPICE")
    _check(java, jar.parent / "lib")
    cases = [
        {"image_id": image, "test": prediction, "refs": list(group)}
        for image, (prediction, group) in enumerate(zip(predictions, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "captions.json", Path(folder) / "scores.json"
        given.write_text(json.dumps(cases), encoding="utf-8")
        # The jar names its libraries itself; "lib/*" adds a JavaScript engine that someone has put there.
        command = [java, "-Xmx8G", "-cp", f"{jar.name}{os.pathsep}lib/*", "edu.anu.spice.SpiceScorer"]
        _run([*command, str(given), "-out", str(found), "-silent"], jar.parent, images=len(cases))
        scores = _read(found)
    images = [scores[image] for image in range(len(cases))]
    counted = [value for value in images if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else 0.0, [0.0 if math.isnan(value) else value for value in images]


def _check(java: str, library: Path) -> None:
    """Raise MetricUnavailableError for what is missing, before the program runs for minutes in vain."""
    missing = [name for name in PARSER_FILES if not (library / name).is_file()]
    if missing:
        raise MetricUnavailableError(
            f"{' and '.join(missing)} are not in {library}; put them there, out of {PARSER_SOURCE}, and use Java 8 to "
            f"{LAST_JAVASCRIPT}"
        )
    version = re.search(r'version "(?:1\.)?(\d+)', _run([java, "-version"], library))
    if version and int(version[1]) > LAST_JAVASCRIPT and not list(library.glob("nashorn*.jar")):
        raise MetricUnavailableError(
            f"Java {version[1]} has no JavaScript engine, which SPICE needs; use Java 8 to {LAST_JAVASCRIPT}"
        )


def _run(command: list[str], folder: Path, *, images: int = 0) -> str:
    """What the program says on standard error."""
    seconds = STARTUP_SECONDS + SECONDS_PER_IMAGE * images
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=seconds, check=True)
        return done.stderr.decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailableError(f"Java was stopped after {seconds:.0f} seconds without SPICE") from error
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()
        lines = [line for line in lines if "Error" in line or "Exception" in line] or lines
        reason = " ".join(map(str.strip, lines[:2])) if lines else f"exit status {error.returncode}"
        raise MetricUnavailableError(f"the SPICE program failed: {reason}") from error
    except OSError as error:
        raise MetricUnavailableError(f"the SPICE program failed: {error}") from error


def _read(path: Path) -> dict[int, float]:
    """The F-score of each image; NaN where the program had nothing to compare, which it writes as null."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return {item["image_id"]: _number(item["scores"]["All"]["f"]) for item in results}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetricUnavailableError(f"the SPICE program left no scores ({error!r})") from error


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
