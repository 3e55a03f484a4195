"""Captions a second in ONNX Runtime beside torch.

``python -m benchmarks.onnx_speed --model checkpoints/NAME --onnx FOLDER --images photos/``

Both caption the same photos with the same weights in fp32 and as many threads, taking turns batch by batch.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import add_output, write_figures
from captioner import Captioner
from captioner.data.images import list_images, open_image
from captioner.onnx_captioner import OnnxCaptioner


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write it where it is asked for."""
    parser = argparse.ArgumentParser("python -m benchmarks.onnx_speed", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", required=True, help="an export or a run")
    parser.add_argument("--onnx", required=True, help="what `captioner export` wrote of it")
    parser.add_argument("--images", required=True, help="a folder of photos")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_output(parser)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    systems = {
        "torch": Captioner.from_pretrained(options.model),
        "onnxruntime": OnnxCaptioner(options.onnx, threads=options.threads),
    }
    photos = [open_image(path) for path in list_images(Path(options.images))[: options.count]]
    rows = [measure(systems, photos, beams=beams, batch=batch) for beams in options.beams for batch in options.batches]
    print(f"{'beams':>5} {'batch':>5} {'torch':>8} {'onnxruntime':>12} {'ratio':>6}   same captions")
    for row in rows:
        rates = row["captions_per_second"]
        print(
            f"{row['beams']:>5} {row['batch']:>5} {rates['torch']:>8.1f} {rates['onnxruntime']:>12.1f} "
            f"{rates['onnxruntime'] / rates['torch']:>6.2f}   {row['same']} of {len(photos)}"
        )
    write_figures(options, {"threads": options.threads, "rows": rows})
    return 0


def measure(systems: dict[str, Captioner], photos: Sequence[Any], *, beams: int, batch: int) -> dict[str, Any]:
    """Captions a second of every system, and how many captions are the same; the first batch warms up."""
    seconds, texts = dict.fromkeys(systems, 0.0), {name: [] for name in systems}
    settings = {"beams": beams, "batch_size": batch, "precision": "fp32"}
    for captioner in systems.values():
        captioner.caption(list(photos[:batch]), **settings)
    for place in range(0, len(photos), batch):
        for name, captioner in systems.items():
            start = time.perf_counter()
            found = captioner.caption(list(photos[place : place + batch]), **settings)
            seconds[name] += time.perf_counter() - start
            texts[name] += [caption.text for caption in found]
    return {
        "beams": beams,
        "batch": batch,
        "captions_per_second": {name: len(photos) / value for name, value in seconds.items()},
        "same": sum(first == second for first, second in zip(*texts.values(), strict=True)),
    }


if __name__ == "__main__":
    sys.exit(main())
