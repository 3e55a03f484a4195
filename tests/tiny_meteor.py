"""METEOR's data in small: a jar and a paraphrase table with a handful of words."""

import gzip
import zipfile
from collections.abc import Sequence
from pathlib import Path

FILES = {
    "function/english.words": ["a", "the", "on", "of", "'"],
    "nonbreaking/english.prefixes": ["# comment", "", "Mr", "vs", "No #NUMERIC_ONLY# "],
    # Each word with its synsets, each base with its forms.
    "synonym/english.synsets": ["dog", "1", "hound", "1 2", "sofa", "3", "couch", "3 4", "box", "5", "crate", "5"],
    "synonym/english.exceptions": ["mouse", "mice", "dog", "doggies mice"],
}
PARAPHRASES = [("next to", "beside"), ("beside", "next to"), ("next", "near the"), ("next to", "close to the")]


def write_jar(folder: Path) -> Path:
    """A jar with what the Python METEOR reads out of it."""
    path = folder / "meteor" / "meteor-1.5.jar"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as jar:
        for name, lines in FILES.items():
            jar.writestr(name, "".join(f"{line}\n" for line in lines))
    return path


def write_table(folder: Path, pairs: Sequence[tuple[str, str]] = PARAPHRASES) -> Path:
    """A paraphrase table."""
    path = folder / "meteor" / "data" / "paraphrase-en.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(f"0.5\n{phrase}\n{other}\n" for phrase, other in pairs).encode()))
    return path


def write_meteor(folder: Path) -> Path:
    """Both, laid out as pycocoevalcap has them."""
    write_jar(folder)
    write_table(folder)
    return folder
