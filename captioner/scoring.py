"""How good a captioner is on a split of a prepared dataset: its captions, their metrics, and how they were decoded."""

import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from datasets import Dataset, DatasetDict

from captioner.api import Captioner
from captioner.data.encoded_images import EncodedImages
from captioner.errors import DataError
from captioner.evaluation.acceptance import reliability
from captioner.evaluation.caption_metrics import score_captions
from captioner.evaluation.scene_accuracy import scene_accuracy, scene_matches
from captioner.progress import Progress
from captioner.settings import DecodingSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """A captioner's captions of a split and their scores."""

    split: str
    decoding: DecodingSettings
    image_ids: list[str]
    captions: list[str]
    references: list[list[str]]
    metrics: dict[str, float]
    """Of the whole split, in natural units."""
    image_metrics: dict[str, list[float]]
    """The same names, for each image."""
    unavailable: dict[str, str]
    """Metrics that could not be had, with the reason."""

    def summary(self) -> dict[str, Any]:
        """What an export's metrics.json holds of a split."""
        return {
            "metrics": self.metrics,
            "images": len(self.captions),
            "references": sum(map(len, self.references)),
            "decoding": asdict(self.decoding),
            "unavailable": self.unavailable,
        }

    def record(self) -> dict[str, Any]:
        """All of it as JSON values: the summary, and under ``per_image`` a record of each image."""
        return {"split": self.split, **self.summary(), "per_image": list(self.per_image())}

    def per_image(self) -> Iterator[dict[str, Any]]:
        """One record an image: its name, caption, references and scores."""
        for row, image_id in enumerate(self.image_ids):
            scores = {name: values[row] for name, values in self.image_metrics.items()}
            yield {
                "image_id": image_id,
                "caption": self.captions[row],
                "references": self.references[row],
                "metrics": scores,
            }


def evaluate_captioner(
    captioner: Captioner, dataset: DatasetDict, split: str, *, decoding: DecodingSettings | None = None, limit: int = 0
) -> Evaluation:
    """Caption every image of a split and score the captions.

    Args:
        captioner: what to evaluate.
        dataset: a prepared dataset.
        split: the name of one of its splits.
        decoding: how to decode, instead of the captioner's own settings.
        limit: only the first so many images; 0 for all.

    Raises:
        DataError: there is no such split.
    """
    decoding = decoding or captioner.settings.decoding
    rows = select_rows(dataset, split, limit=limit)
    found = caption_rows(captioner, EncodedImages(rows), decoding, title=f"captioning {split}")
    captions = [caption.text for caption in found]
    references = [list(texts) for texts in rows["captions"]]
    scores = score_captions(captions, references)
    metrics, image_metrics = dict(scores.corpus), dict(scores.images)
    if captioner.calibration:
        image_metrics["confidence"] = [caption.confidence for caption in found]
        metrics |= reliability(image_metrics["confidence"], image_metrics["CIDEr-D"], references)
    if "objects" in rows.column_names:
        objects = [list(names) for names in rows["objects"]]
        metrics |= scene_accuracy(captions, objects)
        image_metrics["scene_accuracy"] = [float(match) for match in scene_matches(captions, objects)]
    return Evaluation(
        split, decoding, list(rows["image_id"]), captions, references, metrics, image_metrics, scores.unavailable
    )


def select_rows(dataset: DatasetDict, split: str, *, limit: int = 0) -> Dataset:
    """The rows of a split, or its first ones; raises DataError if there is no such split, or nothing in it."""
    if split not in dataset:
        raise DataError(f"the dataset has no split {split}; it has {', '.join(dataset)}")
    rows = dataset[split]
    if not len(rows):
        raise DataError(f"split {split} has no images; choose another split")
    return rows.select(range(min(limit, len(rows)))) if limit else rows


def caption_rows(
    captioner: Captioner, images: Any, decoding: DecodingSettings, *, title: str, candidates: int = 1
) -> list[Any]:
    """What ``Captioner.caption`` says of many images, with a progress bar."""
    captions: list[Any] = []
    with Progress(title, total=len(images), unit="images") as progress:
        for place in range(0, len(images), decoding.batch_size):
            batch = [images[row] for row in range(place, min(place + decoding.batch_size, len(images)))]
            captions += captioner.caption(batch, decoding=decoding, candidates=candidates)
            progress.advance(len(batch))
    return captions


def refuse_overlap(
    trained: Iterable[str], evaluated: Iterable[str], *, split: str, other_dataset: bool = False
) -> None:
    """Raise DataError if a split has images that the captioner was trained on.

    Args:
        trained: image ids of the training split.
        evaluated: image ids of the split to evaluate on.
        split: its name.
        other_dataset: whether the two come from different datasets; then only Flickr's photo numbers count, which
            Flickr8k (1000268201_693b08cb0e.jpg) and Flickr30k (1000268201.jpg) share; other names may be chance.
    """
    key = _flickr_number if other_dataset else str
    seen = {key(name) for name in trained} - {None}
    names = [key(name) for name in evaluated]
    shared = sum(name in seen for name in names)
    if shared:
        raise DataError(
            f"{shared:,} of the {len(names):,} images of split {split} were in the captioner's training; "
            "choose another split, or give --allow-overlap"
        )


def _flickr_number(name: str) -> str | None:
    found = re.match(r"(\d{6,})(_[0-9a-f]+)?\.\w+$", name)
    return found and found[1]
