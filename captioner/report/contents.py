"""What a report tells of a run, read from the run's folder."""

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open

from captioner.data.encoded_images import EncodedImages
from captioner.data.images import open_image
from captioner.data.prepared import open_prepared
from captioner.decoding.describe import describe_run
from captioner.errors import CheckpointError, DataError
from captioner.evaluation.example_sheet import Example, make_examples
from captioner.report.charts import Chart, Line
from captioner.run_folder import BEST, SETTINGS, read_settings
from captioner.settings import Settings
from captioner.training.timings import read_timings
from captioner.training.tracking import read_metrics

logger = logging.getLogger(__name__)

TOKENS, PADDING = "train/tokens", "train/padding"
COUNTS = ("epoch", "train/pairs", TOKENS, PADDING)
"""Numbers of metrics.jsonl that make no curve worth a look."""
EXAMPLES_PER_GROUP = 4
LARGEST = 1e100
_MISSING = Image.new("RGB", (320, 240), "#e9ecf0")


@dataclass(frozen=True)
class Figures:
    """What the evaluation of a split found."""

    metrics: Mapping[str, float]
    images: int
    decoding: str
    """In words."""
    unavailable: Mapping[str, str]
    """Metrics that could not be computed, and why."""


@dataclass(frozen=True)
class Report:
    """A run, as far as it has come."""

    run: Path
    settings: Settings
    origin: Mapping[str, Any]
    """What settings.json tells beside the settings: ``captioner_version``, ``versions``, ``commit``, ``command``."""
    charts: Sequence[Chart]
    best: Mapping[str, float]
    """Validation metrics of the exported checkpoint, and its ``step``; empty where nothing is known of it."""
    splits: Mapping[str, Figures]
    """Of each evaluated split."""
    examples: Mapping[str, Sequence[Example]]
    """Of each split the best, median and worst captions."""
    samples: Sequence[str]
    """Captions of the newest validation's first images, for a run that is not evaluated yet."""
    shape: Sequence[tuple[str, int]]
    """Parts of the model and their weights."""
    seconds: Mapping[str, float]
    """Where the time went."""
    padding: float | None
    """Share of the token places that held padding, None for a run that did not count them."""


def read_report(run: Path, *, data: Path | None = None) -> Report:
    """Gather what is known of a run.

    Args:
        run: its folder.
        data: the prepared dataset, for the images; by default the one that the run was trained on.

    Raises:
        CheckpointError: it is no run, or nothing was logged yet.
    """
    _, settings = read_settings(run)
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise CheckpointError(f"{run} has logged nothing yet; wait for the first lines of its metrics.jsonl")
    metrics = _read_json(run / BEST / "metrics.json")
    folder = data or Path(settings.data.folder) / settings.data.name
    return Report(
        run=run,
        settings=settings,
        origin=_read_origin(run),
        charts=make_charts(lines),
        best=_read_best(metrics),
        splits=_read_splits(metrics),
        examples=_read_examples(run, folder),
        samples=_newest_samples(lines),
        shape=_read_shape(run / BEST / "model.safetensors"),
        seconds=read_timings(run),
        padding=_padding_share(lines),
    )


def _padding_share(lines: Sequence[Mapping[str, Any]]) -> float | None:
    counted = [line for line in lines if all(_is_number(line.get(name)) for name in (PADDING, TOKENS))]
    padding, tokens = (sum(line[name] for line in counted) for name in (PADDING, TOKENS))
    return padding / (padding + tokens) if padding + tokens else None


def make_charts(lines: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """A chart for every number of metrics.jsonl; what training and validation both tell shares one."""
    curves: dict[str, list[Line]] = {}
    for name in dict.fromkeys(name for line in lines for name in line if name not in ("step", *COUNTS)):
        values = [(line["step"], line[name]) for line in lines if all(map(_is_number, (line["step"], line.get(name))))]
        if values:
            group, _, title = name.rpartition("/")
            curves.setdefault(title, []).append(Line(group or title, values))
    return [Chart(title.replace("_", " "), curves[title]) for title in curves]


def _is_number(value: Any) -> bool:
    """Whether it can be drawn; infinity, NaN and integers beyond all floats cannot."""
    return isinstance(value, int | float) and abs(value) <= LARGEST


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content; nothing where it is missing, torn or of another kind."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        logger.warning("%s is left out of the report: it is damaged (%s)", path, error)
        return {}
    if not isinstance(content, dict):
        logger.warning("%s is left out of the report: it is damaged (no JSON object)", path)
        return {}
    return content


def _read_origin(run: Path) -> dict[str, Any]:
    content = _read_json(run / SETTINGS)
    texts = {name: content.get(name) for name in ("captioner_version", "commit", "command")}
    versions = content.get("versions")
    return {
        **{name: text for name, text in texts.items() if isinstance(text, str)},
        "versions": versions if isinstance(versions, dict) else {},
    }


def _read_best(metrics: Mapping[str, Any]) -> dict[str, float]:
    found = metrics.get("validation_at_best")
    numbers = {name: value for name, value in found.items() if _is_number(value)} if isinstance(found, dict) else {}
    return numbers if isinstance(numbers.get("step"), int) else {}


def _read_splits(metrics: Mapping[str, Any]) -> dict[str, Figures]:
    """The evaluated splits of an export's metrics.json, which also tells of other things."""
    splits = {}
    for name, found in metrics.items():
        if isinstance(found, dict) and "metrics" in found:
            try:
                splits[name] = _read_figures(found)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                logger.warning("the figures of %s are left out of the report: they are damaged (%r)", name, error)
    return splits


def _read_figures(found: Mapping[str, Any]) -> Figures:
    """Raises KeyError, TypeError, ValueError or AttributeError for what is no evaluation's summary."""
    return Figures(
        metrics={name: value for name, value in found["metrics"].items() if _is_number(value)},
        images=int(found["images"]),
        decoding=describe_run(found) if found["decoding"] else "",
        unavailable={name: str(reason) for name, reason in found["unavailable"].items()},
    )


def _newest_samples(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    found = (line.get("validation/samples") for line in reversed(lines))
    return next(filter(_are_texts, found), [])


def _read_examples(run: Path, folder: Path) -> dict[str, list[Example]]:
    """Of each evaluation's split the best, median and worst captions."""
    examples = {}
    for path in sorted(run.glob("evaluation-*.json")):
        evaluation = _read_json(path)
        split, found = str(evaluation.get("split")), evaluation.get("per_image")
        found = found if isinstance(found, list) else []
        records = [record for record in found if _is_record(record)]
        if len(records) < len(found):
            missing = len(found) - len(records)
            logger.warning(
                "%d of %d captions of %s are not shown: they are damaged or have no CIDEr-D",
                *(missing, len(found), path.name),
            )
        if records:
            load = _image_loader(folder, split, records)
            examples[split] = make_examples(records, load, per_group=EXAMPLES_PER_GROUP)
    return examples


def _is_record(record: Any) -> bool:
    """Whether it is what an evaluation says of an image."""
    return (
        isinstance(record, dict)
        and _are_texts([record.get("image_id"), record.get("caption")])
        and _are_texts(record.get("references"))
        and isinstance(record.get("metrics"), dict)
        and _is_number(record["metrics"].get("CIDEr-D"))
    )


def _image_loader(folder: Path, split: str, records: Sequence[Mapping[str, Any]]) -> Callable[[int], Image.Image]:
    """Opens the image of a record; a grey one stands in where the dataset is not on this machine."""
    try:
        rows = open_prepared(folder)[split]
    except (DataError, KeyError) as error:
        logger.warning("the report has no images of %s: %s", split, error)
        return lambda row: _MISSING
    images, places = EncodedImages(rows), {name: place for place, name in enumerate(rows["image_id"])}

    def load(row: int) -> Image.Image:
        place = places.get(records[row]["image_id"])
        return _MISSING if place is None else open_image(images[place])

    return load


def _read_shape(path: Path) -> list[tuple[str, int]]:
    """Parts of a model and the number of their weights, read from the file's header alone."""
    sizes: Counter[str] = Counter()
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                part = ".".join(name.split(".")[:2])
                sizes[part] += math.prod(file.get_slice(name).get_shape())
    except (OSError, SafetensorError) as error:
        logger.warning("the report does not tell the model's shape: %s", error)
    return list(sizes.items())
