"""A text file that grows by whole lines: what cannot be written now waits in memory, and no line is ever torn."""

import os
from pathlib import Path


class GrowingFile:
    """Lines at the end of a file that no other process writes."""

    def __init__(self, path: Path) -> None:
        """Append to a file, made where it is missing; a line that a kill left torn at its end goes."""
        self._path = path
        self._size = path.read_bytes().rfind(b"\n") + 1 if path.exists() else 0
        self._waiting: list[str] = []

    @property
    def waiting(self) -> int:
        """Lines that are not in the file yet."""
        return len(self._waiting)

    def append(self, line: str) -> None:
        """Add a line and write all that wait; raises OSError, for example when the disk is full, and they wait on."""
        self._waiting.append(line)
        self.write()

    def write(self, *, to_disk: bool = False) -> None:
        """Write what waits, and see it onto the disk if asked to; raises OSError as ``append`` does."""
        if not (self._waiting or to_disk):
            return
        rest = "".join(f"{line}\n" for line in self._waiting).encode()
        size = self._size + len(rest)
        with self._path.open("ab", buffering=0) as file:
            file.truncate(self._size)  # a write that failed may have left a part of a line
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(self._size)
                raise
            self._size, self._waiting = size, []
            if to_disk:
                os.fsync(file.fileno())
