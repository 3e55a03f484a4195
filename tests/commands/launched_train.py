"""``captioner train`` with presets from a file, for tests that start it as a process of its own.

Usage: launched_train.py PRESETS.json [PRESET] [--group.setting VALUE]…
"""

import json
import sys
from pathlib import Path

from captioner.commands.train import main
from captioner.settings_json import settings_from_dict


def run(presets: str, *words: str) -> int:
    """Train with the presets of a file."""
    content = json.loads(Path(presets).read_text())
    return main(words, presets={name: settings_from_dict(preset) for name, preset in content.items()})


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
