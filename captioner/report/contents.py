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
from captioner.errors import CheckpointError, DataError
from captioner.evaluation.example_sheet import Example, make_examples
from captioner.report.charts import Chart, Line
from captioner.run_folder import BEST, read_description
from captioner.settings import Settings
from captioner.settings_json import settings_from_dict
from captioner.training.timings import read_timings
from captioner.training.tracking import read_metrics

logger = logging.getLogger(__name__)

TOKENS, PADDING = "train/tokens", "train/padding"
COUNTS = ("epoch", "train/pairs", TOKENS, PADDING)
"""Numbers of metrics.jsonl that make no curve worth a look."""
EXAMPLES_PER_GROUP = 4
_MISSING = Image.new("RGB", (320, 240), "#e9ecf0")


@dataclass(frozen=True)
class Report:
    """A run, as far as it has come."""

    run: Path
    settings: Settings
    origin: Mapping[str, Any]
    """What settings.json tells beside the settings: versions, commit, command."""
    charts: Sequence[Chart]
    best: Mapping[str, Any]
    """Validation metrics of the exported checkpoint."""
    splits: Mapping[str, Mapping[str, Any]]
    """Of each evaluated split its metrics, images and decoding."""
    examples: Mapping[str, Sequence[Example]]
    """Of each split the best, median and worst captions."""
    samples: Sequence[str]
    """Captions of the newest validation's first images, for a run that is not evaluated yet."""
    shape: Sequence[tuple[str, int]]
    """Parts of the model and their weights."""
    seconds: Mapping[str, float]
    """Where the time of training went."""
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
    content = read_description(run)
    settings = settings_from_dict(content["settings"])
    lines = read_metrics(run / "metrics.jsonl")
    if not lines:
        raise CheckpointError(f"{run} has logged nothing yet; wait for the first lines of its metrics.jsonl")
    metrics = _read_json(run / BEST / "metrics.json")
    folder = data or Path(settings.data.folder) / settings.data.name
    evaluations = [_read_json(path) for path in sorted(run.glob("evaluation-*.json"))]
    return Report(
        run=run,
        settings=settings,
        origin={name: value for name, value in content.items() if name != "settings"},
        charts=make_charts(lines),
        best=metrics.get("validation_at_best", {}),
        splits={name: found for name, found in metrics.items() if "metrics" in found},
        examples={found["split"]: _examples(found, folder) for found in evaluations if found.get("per_image")},
        samples=next((line["validation/samples"] for line in reversed(lines) if "validation/samples" in line), []),
        shape=_read_shape(run / BEST / "model.safetensors"),
        seconds=read_timings(run),
        padding=_padding_share(lines),
    )


def _padding_share(lines: Sequence[Mapping[str, Any]]) -> float | None:
    counted = [line for line in lines if PADDING in line]
    padding, tokens = (sum(line[name] for line in counted) for name in (PADDING, TOKENS))
    return padding / (padding + tokens) if counted else None


def make_charts(lines: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """A chart for every number of metrics.jsonl; what training and validation both tell shares one."""
    curves: dict[str, list[Line]] = {}
    for name in dict.fromkeys(name for line in lines for name in line if name not in ("step", *COUNTS)):
        values = [(line["step"], line[name]) for line in lines if _is_number(line.get(name))]
        if values:
            group, _, title = name.rpartition("/")
            curves.setdefault(title, []).append(Line(group or title, values))
    return [Chart(title.replace("_", " "), curves[title]) for title in curves]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file's content; nothing where it is missing or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        logger.warning("%s is left out of the report: it is damaged (%s)", path, error)
        return {}


def _examples(evaluation: Mapping[str, Any], folder: Path) -> list[Example]:
    records = evaluation["per_image"]
    return make_examples(records, _image_loader(folder, evaluation["split"], records), per_group=EXAMPLES_PER_GROUP)


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
