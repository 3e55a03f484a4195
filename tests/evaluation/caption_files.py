"""Predictions and references in the layouts that they are handed round in, for a few photos."""

import json
from pathlib import Path

PHOTOS = {
    391895: ["A man rides a red motorcycle.", "a man on a motorcycle"],
    522418: ["A woman cuts a cake.", "a woman with a knife and a cake"],
    184613: ["A child holds an umbrella.", "a boy with an umbrella"],
}
CAPTIONS = {391895: "a man rides a motorcycle", 522418: "a woman eats a cake", 184613: "two cows on grass"}


def file_name(number: int) -> str:
    """As COCO names its photos."""
    return f"COCO_val2014_{number:012}.jpg"


def write_json(path: Path, content) -> Path:
    """Write a JSON file and return its path."""
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def write_results(path: Path, captions=CAPTIONS) -> Path:
    """COCO's result format."""
    return write_json(path, [{"image_id": name, "caption": text} for name, text in captions.items()])


def write_coco(path: Path, photos=PHOTOS) -> Path:
    """COCO's annotations format."""
    images = [{"id": number, "file_name": file_name(number)} for number in photos]
    captions = [(number, text) for number, texts in photos.items() for text in texts]
    annotations = [{"id": row, "image_id": number, "caption": text} for row, (number, text) in enumerate(captions)]
    return write_json(path, {"info": {}, "licenses": [], "images": images, "annotations": annotations})


def write_karpathy(path: Path, photos=PHOTOS, *, dataset: str = "mine", others: dict | None = None) -> Path:
    """Karpathy's format; the photos are its test split, the numbers in ``others`` name more of the other splits."""
    entries = [
        {
            "filename": file_name(number),
            "cocoid": number,
            "imgid": row,
            "split": "test",
            "sentences": [{"raw": text, "tokens": text.lower().rstrip(".").split()} for text in texts],
        }
        for row, (number, texts) in enumerate(photos.items())
    ]
    for split, names in (others or {}).items():
        entries += [{"filename": name, "split": split, "sentences": [{"raw": "a dog"}]} for name in names]
    return write_json(path, {"dataset": dataset, "images": entries})
