"""The files that ``caption --output`` writes: one record an image, added at once, so that a stopped run goes on."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import ConfigError

if TYPE_CHECKING:
    from captioner.api import Caption

Written = tuple[str, list[tuple[str, float]]]
"""An image's path, and texts and confidences of its captions."""


@dataclass(frozen=True)
class Captioned:
    """One image's result."""

    path: str
    captions: "list[Caption]"
    """Best first."""
    spell: "Callable[[Caption], list[str]] | None" = None
    """Gives the text of each token, where records shall have the tokens' log-probabilities."""

    def without_doubtful(self, least: float) -> "Captioned":
        """The same with the text of every caption left blank whose confidence, as it is written, is below ``least``."""
        return replace(
            self, captions=[one if _written(one) >= least else replace(one, text="") for one in self.captions]
        )

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        record = {"path": self.path, **self._describe(self.captions[0])}
        if len(self.captions) > 1:
            record["candidates"] = [self._describe(one) for one in self.captions]
        return record

    def _describe(self, caption: "Caption") -> dict[str, Any]:
        told = {
            "caption": caption.text,
            "confidence": _written(caption),
            "score": round(caption.score, 4),
            "truncated": caption.truncated,
        }
        if self.spell and caption.text:
            pairs = zip(self.spell(caption), caption.log_probabilities, strict=True)
            told["tokens"] = [{"token": text, "log_probability": round(value, 4)} for text, value in pairs]
        return told


def _written(caption: "Caption") -> float:
    """The confidence as files have it: a later run, which knows no other, must come to the same caption or blank."""
    return round(caption.confidence, 4)


class CaptionFile(ABC):
    """A file that grows by one line an image."""

    def __init__(self, path: Path, least: float | None = None) -> None:
        """Read what is in it already; raises ConfigError if it is another kind of file.

        Images are ``done``, but for those with a blank caption that this least confidence does not ask for.
        """
        self.path = path
        written = self._read(_whole_lines(path))
        _cut_torn_line(path)
        self._blank = {name for name, captions in written if _is_blank(captions, least)}
        self.done = {name for name, _ in written} - self._blank

    def forget_blank(self, paths: Collection[str]) -> None:
        """Take the lines of these images out whose captions are to be written again."""
        from captioner.whole_writes import write_text

        dropped = self._blank.intersection(paths)
        if dropped:
            kept = [line for line in _whole_lines(self.path) if self._path_of(line) not in dropped]
            write_text(self.path, b"".join(kept).decode())

    @abstractmethod
    def write(self, result: Captioned) -> None:
        """Add one image's captions."""

    @abstractmethod
    def _read(self, lines: list[bytes]) -> list[Written]:
        """The images and captions in these lines."""

    @abstractmethod
    def _path_of(self, line: bytes) -> str:
        """The image that a line is of."""


class JsonLinesOutput(CaptionFile):
    """A .jsonl file of an object an image."""

    def write(self, result: Captioned) -> None:
        """Add one image's captions."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result.record(), ensure_ascii=False) + "\n")

    def _read(self, lines: list[bytes]) -> list[Written]:
        return [self._parse(line, number) for number, line in enumerate(lines, start=1)]

    def _parse(self, line: bytes, number: int) -> Written:
        try:
            record = json.loads(line)
            captions = [record, *record.get("candidates", [])]
            return str(record["path"]), [(one.get("caption"), float(one.get("confidence", 0))) for one in captions]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self.path} line {number} is not a caption record; write to another file") from error

    def _path_of(self, line: bytes) -> str:
        return str(json.loads(line)["path"])


class CsvOutput(CaptionFile):
    """A .csv file of the best captions."""

    COLUMNS = ("path", "caption", "confidence", "score", "truncated")

    def write(self, result: Captioned) -> None:
        """Add one image's best caption."""
        record = result.record()
        record["truncated"] = json.dumps(record["truncated"])
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([record[name] for name in self.COLUMNS])

    def _read(self, lines: list[bytes]) -> list[Written]:
        if not lines:
            self._begin()
            return []
        try:
            header, *rows = csv.reader(line.decode() for line in lines)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{self.path} is not CSV in UTF-8 ({error}); write to another file") from error
        if tuple(header) != self.COLUMNS or any(row and len(row) != len(header) for row in rows):
            raise ConfigError(f"{self.path} has other columns than {', '.join(self.COLUMNS)}; write to another file")
        try:
            return [(row[0], [(row[1], float(row[2]))]) for row in rows if row]
        except ValueError as error:
            raise ConfigError(f"{self.path}: a confidence is no number ({error}); write to another file") from error

    def _path_of(self, line: bytes) -> str:
        return next(csv.reader([line.decode()]), [""])[0]

    def _begin(self) -> None:
        header = ",".join(self.COLUMNS)
        present = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        if not header.startswith(present.rstrip("\r")):  # a header that was cut off may be replaced
            raise ConfigError(f"{self.path} has other columns than {', '.join(self.COLUMNS)}; write to another file")
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(self.COLUMNS)


def _is_blank(captions: list[tuple[str, float]], least: float | None) -> bool:
    """Whether a caption was left blank that would not be with this least confidence, or with none."""
    return any(text == "" and confidence >= (least or 0) for text, confidence in captions)


def _whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that end in a newline; a last one that does not was cut off while it was written."""
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _cut_torn_line(path: Path) -> None:
    """Shorten a file to its whole lines; the image of the last one is captioned again."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(sum(map(len, _whole_lines(path))))


OUTPUTS = {".jsonl": JsonLinesOutput, ".csv": CsvOutput}


def open_output(name: str, *, least: float | None = None) -> CaptionFile:
    """The output file of a name; raises ConfigError for another ending or a missing folder.

    Arguments:
        name: the file.
        least: the least confidence below which captions are left blank now.
    """
    path = Path(name)
    if path.suffix not in OUTPUTS:
        raise ConfigError(f"--output {name}: the name must end in .jsonl or .csv")
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"--output {name}: there is no folder {path.parent}; make it first")
    return OUTPUTS[path.suffix](path, least)
