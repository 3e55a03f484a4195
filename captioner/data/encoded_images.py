"""The images of a split as the bytes of their files, not decoded."""

from collections.abc import Sequence

import datasets


class EncodedImages(Sequence[bytes]):
    """Bytes of a prepared split's images by row."""

    def __init__(self, rows: datasets.Dataset) -> None:
        self._rows = rows.select_columns(["image"]).cast_column("image", datasets.Image(decode=False))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> bytes:
        return self._rows[int(row)]["image"]["bytes"]
