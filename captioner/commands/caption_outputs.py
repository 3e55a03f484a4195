"""The files that ``caption --output`` writes: one record an image, added at once, so that a stopped run goes on."""

import csv
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.errors import ConfigError

if TYPE_CHECKING:
    from captioner.api import Caption


@dataclass(frozen=True)
class Captioned:
    """One image's result."""

    path: str
    captions: "list[Caption]"
    """Best first."""

    def without_doubtful(self, least: float) -> "Captioned":
        """The same with the text of every caption whose confidence is below ``least`` left blank."""
        return replace(
            self, captions=[one if one.confidence >= least else replace(one, text="") for one in self.captions]
        )

    def record(self) -> dict[str, Any]:
        """As a JSON object."""
        record = {"path": self.path, **_describe(self.captions[0])}
        if len(self.captions) > 1:
            record["candidates"] = [_describe(one) for one in self.captions]
        return record


def _describe(caption: "Caption") -> dict[str, Any]:
    """A caption's text and confidence, and whether the maximum length cut it off."""
    told = {"caption": caption.text, "confidence": round(caption.confidence, 4)}
    return told | {"truncated": True} if caption.truncated else told


class JsonLinesOutput:
    """A .jsonl file that grows by one object an image."""

    def __init__(self, path: Path) -> None:
        """Read the paths that are in it already; raises ConfigError if it is another kind of file."""
        self.path = path
        self.done = {self._path_of(line, number) for number, line in enumerate(_whole_lines(path), start=1)}
        _cut_torn_line(path)

    def _path_of(self, line: bytes, number: int) -> str:
        try:
            return str(json.loads(line)["path"])
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self.path} line {number} is not a caption record; write to another file") from error

    def write(self, result: Captioned) -> None:
        """Add one image's captions."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result.record(), ensure_ascii=False) + "\n")


class CsvOutput:
    """A .csv file with the columns path, caption and confidence."""

    COLUMNS = ("path", "caption", "confidence")

    def __init__(self, path: Path) -> None:
        """Read the paths that are in it already; raises ConfigError if it is another kind of file."""
        self.path = path
        self.done: set[str] = set()
        lines = _whole_lines(path)
        if not lines:
            self._begin()
            return
        try:
            header, *rows = csv.reader(line.decode() for line in lines)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"{path} is not CSV in UTF-8 ({error}); write to another file") from error
        if tuple(header) != self.COLUMNS or any(row and len(row) != len(header) for row in rows):
            raise ConfigError(f"{path} has other columns than {', '.join(self.COLUMNS)}; write to another file")
        self.done = {row[0] for row in rows if row}
        _cut_torn_line(path)

    def _begin(self) -> None:
        header = ",".join(self.COLUMNS)
        present = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        if not header.startswith(present.rstrip("\r")):  # a header that was cut off may be replaced
            raise ConfigError(f"{self.path} has other columns than {', '.join(self.COLUMNS)}; write to another file")
        with self.path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(self.COLUMNS)

    def write(self, result: Captioned) -> None:
        """Add one image's best caption."""
        record = result.record()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([record[name] for name in self.COLUMNS])


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


def open_output(name: str) -> JsonLinesOutput | CsvOutput:
    """The output file of a name; raises ConfigError for another ending or a missing folder."""
    path = Path(name)
    if path.suffix not in OUTPUTS:
        raise ConfigError(f"--output {name}: the name must end in .jsonl or .csv")
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"--output {name}: there is no folder {path.parent}; make it first")
    return OUTPUTS[path.suffix](path)
