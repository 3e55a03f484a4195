"""The frozen encoder's features of a dataset: built once, kept in shards of safetensors, memory-mapped.

``features/<fingerprint>/`` holds ``index.json`` and, for every SHARD_ROWS images of a split, one shard with the tensor
``features`` [views, rows, patches, width].
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from PIL import Image
from torch import Tensor

from captioner.data.encoded_images import EncodedImages
from captioner.data.feature_shards import (
    MappedShard,
    check_space,
    map_shard,
    shard_path,
    write_atomically,
    write_shard,
)
from captioner.data.view_loading import ViewLoader
from captioner.errors import DataError
from captioner.progress import Progress

SHARD_ROWS = 256
"""Images in a shard: what an interrupted build loses at most."""
RELEASED_BYTES = 32 * 2**20
"""After so many bytes of features read, their mapped memory is given back: resident memory stays small."""
TRAIN_SPLIT = "train"
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class FeatureRecipe:
    """All that the features depend on."""

    encoder: str
    """Fingerprint of the encoder's weights."""
    processor: str
    """The image processor's settings as JSON with sorted keys."""
    dataset: str
    """Fingerprint of the prepared dataset."""
    views: int = 1
    """Views of a training image: 1 the image, 2 also its mirror image, more add random crops."""
    dtype: str = "float16"
    """Stored number type: float16, bfloat16 or float32."""

    @property
    def fingerprint(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 over all fields; the name of the cache's folder."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def views_of(self, split: str) -> int:
        """Views of an image: only the training split has several."""
        return self.views if split == TRAIN_SPLIT else 1


class FeatureCache:
    """Features of all images of some splits, read from the disk where they are asked for."""

    def __init__(self, folder: Path, index: dict[str, Any], shards: dict[str, list[MappedShard]]) -> None:
        """Use ``FeatureCache.open``; shards: for every split its mapped shards."""
        self.folder = folder
        self.patches: int = index["patches"]
        self.width: int = index["width"]
        self._splits: dict[str, dict[str, int]] = index["splits"]
        self._shards = shards
        self._dtype = DTYPES[index["recipe"]["dtype"]]
        self._bytes_read = 0

    @classmethod
    def open(cls, folder: Path, recipe: FeatureRecipe) -> "FeatureCache":
        """Open the cache of a recipe.

        Args:
            folder: the dataset's ``features`` folder, which holds a folder for every recipe.
            recipe: what the features must depend on.

        Raises DataError if there is none, it is unfinished or of another recipe, or a shard is missing or torn.
        """
        home = Path(folder) / recipe.fingerprint
        index = _read_index(home, recipe)
        if not index["splits"]:
            raise DataError(f"{home}: no finished features of this encoder and dataset; build them with build_features")
        shards = {}
        for split, entry in index["splits"].items():
            shards[split] = [
                map_shard(
                    shard_path(home, split, number), dtype=DTYPES[recipe.dtype], views=entry["views"], rows=len(rows)
                )
                for number, rows in enumerate(_cut(range(entry["rows"]), entry["shard_rows"]))
            ]
        return cls(home, index, shards)

    @property
    def splits(self) -> list[str]:
        """The splits with features."""
        return list(self._splits)

    def views(self, split: str) -> int:
        """How many views of an image the split has; raises DataError for a split that was not encoded."""
        return self._entry(split)["views"]

    def get(self, split: str, rows: Sequence[int], views: Sequence[int] | None = None) -> Tensor:
        """Features [len(rows), patches, width] in the stored number type; only these rows are read from the disk.

        Args:
            split: name of the split.
            rows: rows of the dataset, in any order.
            views: for every row the view wanted; None: the images themselves.

        Raises DataError for a split that was not encoded.
        """
        entry, shards = self._entry(split), self._shards[split]
        views = [0] * len(rows) if views is None else views
        features = torch.empty(len(rows), self.patches, self.width, dtype=self._dtype)
        for place, (row, view) in enumerate(zip(rows, views, strict=True)):
            assert 0 <= row < entry["rows"], f"row {row} of {entry['rows']}"
            assert 0 <= view < entry["views"], f"view {view} of {entry['views']}"
            shard, offset = divmod(row, entry["shard_rows"])
            features[place] = shards[shard].features[view, offset]
        self._bytes_read += features.nbytes
        if self._bytes_read > RELEASED_BYTES:
            self._release()
        return features

    def _release(self) -> None:
        """Let go of all that was read."""
        for shards in self._shards.values():
            for shard in shards:
                shard.release()
        self._bytes_read = 0

    def _entry(self, split: str) -> dict[str, int]:
        if split not in self._splits:
            raise DataError(
                f"{self.folder}: no features of the split {split}, only of {', '.join(self._splits)};"
                " build them with build_features"
            )
        return self._splits[split]


def build_features(
    dataset: DatasetDict,
    folder: Path,
    recipe: FeatureRecipe,
    *,
    encode: Callable[[Tensor], Tensor],
    process: Callable[[list[Image.Image]], Tensor],
    splits: Sequence[str],
    batch_size: int = 64,
    ahead: int = 0,
    workers: int = 0,
) -> FeatureCache:
    """Encode the images of some splits, except those whose features are there already, and open the cache.

    An interrupted build is continued by calling it again: finished shards stay.

    Args:
        dataset: splits with the columns ``image_id`` and ``image``.
        folder: the dataset's ``features`` folder, which holds a folder for every recipe.
        recipe: what the features depend on; must describe encode, process and dataset.
        encode: pixels [images, 3, height, width] -> tokens [images, patches, width], without gradients.
        process: RGB images -> pixels.
        splits: names of the splits to encode.
        batch_size: images encoded at once, each view counted.
        ahead: batches that threads open and process while others are encoded: some where a GPU encodes; none where the
            encoder itself takes all of the processor, and would wait at every turn for a thread that shares it.
        workers: processes that do so in place of threads, for a GPU; ``process`` must then be one that can be pickled,
            and a script of your own needs its ``if __name__ == "__main__":``.

    Raises ImageError if an image cannot be read; DataError if features overflow the number type, the disk is full, a
    worker process ended, or what is there already is torn or of another recipe.
    """
    home = Path(folder) / recipe.fingerprint
    index = _read_index(home, recipe)
    missing = [split for split in splits if split not in index["splits"]]
    if missing:
        home.mkdir(parents=True, exist_ok=True)
        loader = ViewLoader(process, ahead=ahead, workers=workers)
        total = sum(len(dataset[split]) for split in missing)
        with Progress("image features", total=total, unit="images") as progress:
            builder = _Builder(home, recipe, encode=encode, loader=loader, batch_size=batch_size, progress=progress)
            for split in missing:
                index["patches"], index["width"] = builder.build_split(dataset, split)
                entry = {"rows": len(dataset[split]), "views": recipe.views_of(split), "shard_rows": SHARD_ROWS}
                index["splits"][split] = entry
                data = json.dumps(index, indent=2).encode()
                write_atomically(home / "index.json", data, needed=len(data))
    return FeatureCache.open(folder, recipe)


class _Builder:
    """Encodes splits into shards."""

    def __init__(
        self,
        home: Path,
        recipe: FeatureRecipe,
        *,
        encode: Callable[[Tensor], Tensor],
        loader: ViewLoader,
        batch_size: int,
        progress: Progress,
    ) -> None:
        self.home, self.recipe, self.dtype = home, recipe, DTYPES[recipe.dtype]
        self.encode, self.loader, self.batch_size, self.progress = encode, loader, batch_size, progress

    def build_split(self, dataset: DatasetDict, split: str) -> tuple[int, int]:
        """Write the split's shards that are not there yet; return patches and width."""
        shards = _cut(range(len(dataset[split])), SHARD_ROWS)
        shape: tuple[int, int] | None = None
        todo: list[tuple[int, range]] = []
        for number, rows in enumerate(shards):
            path = shard_path(self.home, split, number)
            if path.exists():
                shard = map_shard(path, dtype=self.dtype, views=self.recipe.views_of(split), rows=len(rows))
                shape = (shard.features.shape[2], shard.features.shape[3])
                self.progress.skip(len(rows))
            else:
                todo.append((number, rows))
        with ThreadPoolExecutor(1) as writer:  # a disk takes its time, while the next shard is encoded
            written: Future[None] | None = None
            for place, (number, features) in enumerate(self._encode_shards(dataset, split, todo)):
                left = features[:, 0].nbytes * sum(len(rows) for _, rows in todo[place:])
                if written is None:
                    check_space(self.home, needed=left)
                else:
                    written.result()
                written = writer.submit(write_shard, shard_path(self.home, split, number), features, needed=left)
                shape = (features.shape[2], features.shape[3])
            if written is not None:
                written.result()
        assert shape is not None, f"split {split} has no images"
        return shape

    def _encode_shards(
        self, dataset: DatasetDict, split: str, shards: list[tuple[int, range]]
    ) -> Iterator[tuple[int, Tensor]]:
        """Numbers and features [views, rows, patches, width] of shards; images are loaded ahead across shards."""
        views = self.recipe.views_of(split)
        names = list(dataset[split]["image_id"])
        images = EncodedImages(dataset[split])
        images_at_once = max(1, self.batch_size // views)
        batches = [(number, rows, batch) for number, rows in shards for batch in _cut(rows, images_at_once)]
        loading = self.loader.load(names, images, [batch for *_, batch in batches], views=views)
        features: Tensor | None = None  # of the shard that is being filled [views, rows, patches, width]
        with contextlib.closing(loading) as loaded:
            for (number, rows, batch), pixels in zip(batches, loaded, strict=True):
                tokens = self.encode(pixels).cpu().unflatten(0, (len(batch), views))  # [images, views, patches, width]
                self._check_finite(tokens, [names[row] for row in batch])
                if features is None:
                    features = torch.empty(views, len(rows), *tokens.shape[2:], dtype=self.dtype)
                features[:, batch[0] - rows[0] : batch[-1] - rows[0] + 1] = tokens.transpose(0, 1)
                self.progress.advance(len(batch))
                if batch[-1] == rows[-1]:
                    yield number, features
                    features = None

    def _check_finite(self, tokens: Tensor, names: Sequence[str]) -> None:
        """Raise DataError if the stored number type cannot hold the tokens; one pass where it can."""
        limit = torch.finfo(self.dtype).max
        least, greatest = torch.aminmax(tokens)
        if least >= -limit and greatest <= limit:  # never true of NaN
            return
        for name, image in zip(names, tokens, strict=True):
            if not image.to(self.dtype).isfinite().all():
                raise DataError(
                    f"{name}: its features are not finite in {self.recipe.dtype}; store them as another number type"
                    " (float32), or check the encoder's weights"
                )


def _cut(rows: range, length: int) -> list[range]:
    """Consecutive parts of the rows, the last one shorter."""
    return [rows[start : start + length] for start in range(0, len(rows), length)]


def _read_index(home: Path, recipe: FeatureRecipe) -> dict[str, Any]:
    """The cache's index, or an empty one; raises DataError if it is torn or of another recipe."""
    path = home / "index.json"
    if not path.exists():
        return {"recipe": asdict(recipe), "splits": {}}
    remedy = f"delete the folder {home} and build the features again"
    try:
        index = json.loads(path.read_text())
        found = index["recipe"]
        complete = all(index[key] for key in ("patches", "width", "splits"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: torn ({error}); {remedy}") from error
    if not complete:
        raise DataError(f"{path}: torn (no splits in it); {remedy}")
    other = [name for name, value in asdict(recipe).items() if found.get(name) != value]
    if other:
        raise DataError(f"{home}: made with another {', '.join(other)} than asked for; {remedy}")
    return index
