"""Four images with captions, written in the layouts that are handed round."""

import json
from pathlib import Path

from made_records import jpeg

NAMES = ["1000.jpg", "2000.jpg", "3000.jpg", "4000.jpg"]
SPLIT_OF = dict(zip(NAMES, ["train", "train", "validation", "test"], strict=True))
IMAGES = {name: jpeg(int(name[0])) for name in NAMES}


def captions_of(name: str) -> list[str]:
    """Five captions as the files hold them, with entities and quotes."""
    return [f"A Man &amp; his dog &quot;{number}&quot; near {name} ." for number in range(5)]


def unescaped(name: str) -> tuple[str, ...]:
    """The same captions as they are read."""
    return tuple(f'A Man & his dog "{number}" near {name} .' for number in range(5))


def write_images(folder: Path, names=NAMES) -> None:
    """The images under their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(IMAGES[name])


def check(source, splits=SPLIT_OF) -> None:
    """Every image has its split, its captions and its bytes, and nothing is wrong with the source."""
    records = {record.image_id: record for record in source.records}
    assert source.problems == []
    assert {name: record.split for name, record in records.items()} == splits
    for name, record in records.items():
        assert record.captions == unescaped(name)
        assert record.load() == IMAGES[name]


def write_flickr8k(root: Path, text="", images="Images") -> None:
    """Flickr8k, with the image that its captions name and its lists do not."""
    (root / text).mkdir(parents=True, exist_ok=True)
    write_images(root / images)
    lines = [f"{name}#{n}\t{caption}" for name in NAMES for n, caption in enumerate(captions_of(name))]
    lines += [f"2258277193_586949ec62.jpg.1#{n}\tpeople waiting for the subway" for n in range(5)]
    (root / text / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for file, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        names = [name for name in NAMES if SPLIT_OF[name] == split]
        (root / text / f"Flickr_8k.{file}Images.txt").write_text("\n".join(names))


def write_karpathy(root: Path, file: str, names=NAMES, **extra) -> None:
    """Karpathy's JSON; the first image is of the split restval."""
    splits = {"1000.jpg": "restval", "2000.jpg": "train", "3000.jpg": "val", "4000.jpg": "test"}
    entries = [
        {
            "filename": name,
            "split": splits[name],
            "sentences": [{"raw": raw, "tokens": []} for raw in captions_of(name)],
        }
        for name in names
    ]
    (root / file).write_text(json.dumps({"images": [entry | extra for entry in entries], "dataset": "flickr"}))
