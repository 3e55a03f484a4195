"""SPICE through the Java program of pycocoevalcap (Anderson et al., 2016, https://arxiv.org/abs/1607.08822).

The program needs Stanford CoreNLP 3.6.0, which pycocoevalcap would download; here nothing is downloaded, and SPICE is
unavailable until someone has put the two files where the reason says.
"""

import json
import math
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from captioner.evaluation.java_programs import MetricUnavailableError, find_bundled_file, find_java

PARSER_FILES = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")
PARSER_SOURCE = "http://nlp.stanford.edu/software/stanford-corenlp-full-2015-12-09.zip"
STARTUP_SECONDS = 600.0
"""Time allowed for Java to start and read the parser's models."""
SECONDS_PER_IMAGE = 10.0
"""Time allowed for each image on top."""


def score(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, list[float]]:
    """Return SPICE of the set and of each image, for tokenized captions.

    Raises MetricUnavailableError where Java or one of its files is missing, fails or takes too long.
    """
    java, jar = find_java("SPICE"), find_bundled_file("spice/spice-1.0.jar", "SPICE")
    missing = [name for name in PARSER_FILES if not (jar.parent / "lib" / name).is_file()]
    if missing:
        raise MetricUnavailableError(
            f"{' and '.join(missing)} are not in {jar.parent / 'lib'}; put them there, out of {PARSER_SOURCE}"
        )
    cases = [
        {"image_id": image, "test": prediction, "refs": list(group)}
        for image, (prediction, group) in enumerate(zip(predictions, references, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder) / "captions.json", Path(folder) / "scores.json"
        given.write_text(json.dumps(cases), encoding="utf-8")
        _run([java, "-Xmx8G", "-jar", jar.name, str(given), "-out", str(found), "-silent"], jar.parent, len(cases))
        scores = _read(found)
    images = [scores[image] for image in range(len(cases))]
    counted = [value for value in images if not math.isnan(value)]
    return sum(counted) / len(counted) if counted else 0.0, [0.0 if math.isnan(value) else value for value in images]


def _run(command: list[str], folder: Path, images: int) -> None:
    seconds = STARTUP_SECONDS + SECONDS_PER_IMAGE * images
    try:
        subprocess.run(command, cwd=folder, capture_output=True, timeout=seconds, check=True)
    except subprocess.TimeoutExpired as error:
        raise MetricUnavailableError(f"Java was stopped after {seconds:.0f} seconds without SPICE") from error
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()
        reason = lines[0].strip() if lines else f"exit status {error.returncode}"
        raise MetricUnavailableError(f"the SPICE program failed: {reason}") from error
    except OSError as error:
        raise MetricUnavailableError(f"the SPICE program failed: {error}") from error


def _read(path: Path) -> dict[int, float]:
    """The F-score of each image; NaN where the program had nothing to compare."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        return {item["image_id"]: float(item["scores"]["All"]["f"]) for item in results}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MetricUnavailableError(f"the SPICE program left no scores ({error!r})") from error
