"""Train a captioner: ``python train.py [PRESET] [--group.setting VALUE]…``."""

import sys

from captioner.commands.train import main
from config import PRESETS

if __name__ == "__main__":
    sys.exit(main(presets=PRESETS, prog="python train.py"))
