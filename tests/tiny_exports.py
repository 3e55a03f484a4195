"""What an export consists of, and how one is refused."""

from pathlib import Path

import pytest

from captioner import Captioner
from captioner.errors import CheckpointError

EXPORT_FILES = {
    "README.md",
    "config.json",
    "metrics.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def refuse(folder: Path) -> str:
    """The one line that says why an export cannot be loaded."""
    with pytest.raises(CheckpointError) as caught:
        Captioner.from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message
