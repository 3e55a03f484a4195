"""Draw README's picture, held-out scenes with their captions: ``python examples/draw_scenes.py [--model MODEL]``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from captioner import Captioner
from captioner.commands.shell import guard
from captioner.data.images import open_image
from captioner.data.scenes import generate_scenes
from captioner.evaluation.example_sheet import draw_captioned

PICTURE = Path(__file__).with_name("scenes.png")
COLUMNS, ROWS = 4, 2
WIDTH = 1100  # pixels


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the picture; returns the exit status."""
    return guard(_draw, argv)


def _draw(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Draw the first test scenes with their captions.")
    parser.add_argument("--model", help="export, run or Hub id that captions them (default: their true captions)")
    parser.add_argument("--output", type=Path, default=PICTURE, metavar="FILE.png", help=f"(default: {PICTURE.name})")
    options = parser.parse_args(argv)
    scenes = list(generate_scenes(split_sizes={"test": COLUMNS * ROWS}))
    images = [open_image(scene.image) for scene in scenes]
    if options.model:
        captions = [caption.text for caption in Captioner.from_pretrained(options.model).caption(images)]
    else:
        captions = [scene.captions[number % len(scene.captions)] for number, scene in enumerate(scenes)]
    draw_captioned(images, captions, options.output, columns=COLUMNS)
    shrink(options.output)
    print(options.output)
    return 0


def shrink(path: Path) -> None:
    """Write a PNG anew, smaller and with 256 colours, for a repository that keeps every version of it."""
    with Image.open(path) as sheet:
        small = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    # k-means keeps the few pixels of an object in their own colour; median cut alone turns an orange cat pink.
    palette = small.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=4)
    small.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
