"""The files that hold an evaluation's scores: written, read again, and compared with each other."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from captioner.data.photo_names import image_key
from captioner.data.records import read_json
from captioner.errors import DataError
from captioner.evaluation import bleu
from captioner.evaluation.meteor import scoring as meteor
from captioner.evaluation.significance import SHUFFLES, Difference, ImageScores, compare_scores
from captioner.whole_writes import write_text

RESULT_FORMAT = 1


def write_result(path: Path, content: Mapping[str, Any], per_image: Iterator[dict[str, Any]]) -> None:
    """Write a result file whole or not at all, an image's record a line so that two can be looked at side by side."""
    head = json.dumps({"format": RESULT_FORMAT, **content}, indent=1, ensure_ascii=False).removesuffix("\n}")
    records = ",\n".join(f"  {json.dumps(record, ensure_ascii=False)}" for record in per_image)
    write_text(path, f'{head},\n "per_image": [\n{records}\n ]\n}}\n')


@dataclass(frozen=True)
class Result:
    """A result file, read again; its images in an order that another file of the same images has too."""

    path: Path
    content: dict[str, Any]
    image_ids: list[str]
    scores: ImageScores

    @property
    def metrics(self) -> dict[str, float]:
        """Scores of the set, by name."""
        return self.content["metrics"]


def read_result(path: str | Path) -> Result:
    """Read what ``captioner evaluate --output`` wrote; raises DataError for any other file."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; write it with captioner evaluate --output")
    content = read_json(path)
    try:
        if content["format"] != RESULT_FORMAT:
            raise DataError(f"{path}: has format {content['format']}, not {RESULT_FORMAT}; evaluate again")
        images = sorted(content.pop("per_image"), key=lambda image: image_key(image["image_id"]))
        names = [name for name in images[0]["metrics"] if name not in bleu.NAMES]
        means = {name: [float(image["metrics"][name]) for image in images] for name in names}
        columns = {"bleu_counts": bleu.COLUMNS, "meteor_counts": meteor.COLUMNS}
        counts = [_read_counts(images, key, number) for key, number in columns.items()]
        for key in ("metrics", "metric_versions", "image_fingerprint", "references_fingerprint", "tokenizer", "set"):
            content[key]
        return Result(path, content, [image["image_id"] for image in images], ImageScores(means, *counts))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: is not a whole result file ({type(error).__name__}: {error}); "
            "write it with captioner evaluate --output"
        ) from error


def _read_counts(images: list[dict[str, Any]], key: str, columns: int) -> list[list[int]]:
    counts = [list(map(int, image[key])) for image in images if key in image]
    if any(len(row) != columns for row in counts) or len(counts) not in (0, len(images)):
        raise ValueError(f"{key} are not whole")
    return counts


def compare_results(first: Result, second: Result, *, shuffles: int = SHUFFLES, seed: int = 0) -> dict[str, Difference]:
    """Test the differences second - first of the sets' scores by every metric that both have.

    Raises DataError where the images, their references, the tokenizer or the metrics' versions differ, or no metric is
    in both.
    """
    _check_comparable(first, second)
    both_bleu = bool(first.scores.bleu_counts and second.scores.bleu_counts)
    both_meteor = bool(first.scores.meteor_counts and second.scores.meteor_counts)
    counted = {"METEOR"} if both_meteor else set()
    names = [name for name in first.scores.means if name in second.scores.means and name not in counted]
    if not names and not both_bleu and not both_meteor:
        raise DataError(f"{first.path} and {second.path} have no metric in common; evaluate one of them again")
    sides = [
        ImageScores(
            {name: result.scores.means[name] for name in names},
            result.scores.bleu_counts if both_bleu else [],
            result.scores.meteor_counts if both_meteor else [],
        )
        for result in (first, second)
    ]
    found = compare_scores(*sides, shuffles=shuffles, seed=seed)
    return {
        name: found[name].move_to(second.metrics[name] - score)
        for name, score in first.metrics.items()
        if name in found
    }


def _check_comparable(first: Result, second: Result) -> None:
    what = {
        "image_fingerprint": f"are of different images ({first.content['set']}; {second.content['set']})",
        "references_fingerprint": "are of the same images but different reference captions",
        "tokenizer": "were tokenized differently",
    }
    for key, problem in what.items():
        if first.content[key] != second.content[key]:
            raise DataError(f"{first.path} and {second.path} {problem}; evaluate both on the same references")
    versions = [result.content["metric_versions"] for result in (first, second)]
    differing = [name for name in versions[0] if versions[0][name] != versions[1].get(name, versions[0][name])]
    if differing:
        name = differing[0]
        raise DataError(
            f"{first.path} and {second.path} have different versions of {', '.join(differing)} "
            f"({versions[0][name]}; {versions[1][name]}); evaluate both with the same one"
        )
