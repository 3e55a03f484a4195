"""Train the tokenizer of a prepared dataset: `python train_tokenizer.py [PRESET] [--data.name NAME]`; see --help."""

import sys

from captioner.commands.tokenizer import main
from config import PRESETS

if __name__ == "__main__":
    sys.exit(main(presets=PRESETS))
