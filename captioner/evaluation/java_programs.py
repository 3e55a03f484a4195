"""Java, and the files of pycocoevalcap: found, or the reason why a metric is unavailable."""

import shutil
from importlib import util
from pathlib import Path


class MetricUnavailableError(Exception):
    """A metric cannot be computed on this machine; the message is the reason, which the scores report."""


def find_java(metric: str) -> str:
    """Return the path of Java; raises MetricUnavailableError where there is none."""
    java = shutil.which("java")
    if java is None:
        raise MetricUnavailableError(f"Java is not on the PATH; install Java 8 or newer for {metric}")
    return java


def find_bundled_file(name: str, metric: str) -> Path:
    """Return the path of a file of the installed pycocoevalcap; raises MetricUnavailableError where it is missing."""
    # Found without importing the package, some modules of which download or wait for ever.
    package = util.find_spec("pycocoevalcap")
    for folder in (package.submodule_search_locations or []) if package else []:
        if (Path(folder) / name).is_file():
            return Path(folder) / name
    raise MetricUnavailableError(
        f"{name.rpartition('/')[2]} is missing from the installed pycocoevalcap; reinstall it for {metric}"
    )
