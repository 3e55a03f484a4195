"""``captioner train`` with presets from a file, for tests that start it as a process of its own.

Usage: launched_train.py PRESETS.json [PRESET] [--group.setting VALUE]…
"""

import json
import sys
from pathlib import Path

from captioner.commands.train import main
from captioner.settings import settings_from_dict

if __name__ == "__main__":
    presets = json.loads(Path(sys.argv[1]).read_text())
    sys.exit(main(sys.argv[2:], presets={name: settings_from_dict(content) for name, content in presets.items()}))
