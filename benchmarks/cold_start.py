"""Seconds to the first caption in a new process: ``python -m benchmarks.cold_start --model checkpoints/scenes/best``.

Beside the bare cost of importing torch and the one encoder class that the model needs, and of importing the package;
the processes take turns. The table gives medians of wall and processor seconds; the latter hold on a busy machine too.
The first round, which fills the disk's cache, does not count.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from benchmarks.figures import add_output, write_figures

BARE, PACKAGE, CAPTION = "torch and the encoder's class", "import captioner", "caption image.jpg"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write it where it is asked for."""
    parser = argparse.ArgumentParser("python -m benchmarks.cold_start", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True, help="folder of an export with its encoder in it")
    parser.add_argument("--image", help="default: a drawn one")
    parser.add_argument("--rounds", type=int, default=7)
    add_output(parser)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        image = options.image or _draw(Path(folder) / "image.jpg")
        seconds = measure(_commands(options.model, image), rounds=options.rounds)
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in seconds.items()
    }
    ratios = [ours / bare for ours, bare in zip(medians[CAPTION], medians[BARE], strict=True)]
    print(f"{'':<30} {'wall s':>8} {'processor s':>12}")
    for name, (wall, processor) in medians.items():
        print(f"{name:<30} {wall:>8.2f} {processor:>12.2f}")
    print(f"{'caption / bare':<30} {ratios[0]:>8.2f} {ratios[1]:>12.2f}")
    names = ("wall", "processor")
    figures = {
        "machine": platform.machine(),
        "seconds": seconds,
        "medians": {name: dict(zip(names, values, strict=True)) for name, values in medians.items()},
        "ratios": dict(zip(names, ratios, strict=True)),
    }
    write_figures(options, figures)
    return 0


def _draw(path: Path) -> str:
    Image.radial_gradient("L").resize((640, 480)).convert("RGB").save(path)
    return str(path)


def _commands(model: str, image: str) -> dict[str, str]:
    """Python code of every row of the table."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    encoder = json.loads((Path(model) / "config.json").read_text())["encoder"]
    words = [image, "--model", model]
    return {
        BARE: f"import torch; from transformers import {MODEL_MAPPING_NAMES[encoder['model_type']]}",
        PACKAGE: "import captioner",
        CAPTION: f"from captioner.commands.caption import main; raise SystemExit(main({words!r}))",
    }


def measure(commands: dict[str, str], *, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of every command in new processes, one after the other in every round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, code in commands.items():
            wall, processor = time.perf_counter(), _children_seconds()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            if turn:
                seconds[name].append((time.perf_counter() - wall, _children_seconds() - processor))
    return seconds


def _children_seconds() -> float:
    """Processor seconds of all ended child processes, in user and system mode."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
