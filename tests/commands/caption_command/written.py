"""What `caption` is expected to write."""

import json
from pathlib import Path


def lines_of(texts: dict[str, str], *names: str) -> list[str]:
    return [f"{name}\t{texts[name]}" for name in names]


def records(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
