"""What every benchmark's figures share: their file, and the number of threads they hold for."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add ``--threads``, for ``use_threads``."""
    parser.add_argument("--threads", type=int, help="threads of torch (default: as the environment says)")


def use_threads(options: argparse.Namespace) -> None:
    """Let torch use so many threads as are asked for."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add ``--output``, for ``write_figures``."""
    parser.add_argument("--output", metavar="FILE.json", help="write the figures to this file")


def write_figures(options: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Write the figures as JSON where ``--output`` asks for it."""
    if options.output:
        Path(options.output).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
