"""Training speed beside transformers' Trainer: ``python -m benchmarks.training --data data/NAME``.

The same encoder, decoder shapes, captions and pairs a batch, trained by this project's loop on cached features, and by
Seq2SeqTrainer on a VisionEncoderDecoderModel from pixels (as it comes: the encoder is trained too), from pixels with a
frozen encoder, and from cached features. They take turns, each in a process of its own. ``--systems image-once
per-pair`` compares this project's two ways with a trained encoder, ``--systems cached compiled`` tells what compiling
gains, and in the first step what it costs. Without a dataset, captions are those of scenes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import add_output, add_threads, use_threads, write_figures
from benchmarks.roofline import describe_machine, measure_ceilings
from benchmarks.training_systems import SYSTEMS
from benchmarks.training_work import Work, describe_encoder, open_work, prepare_asked
from benchmarks.turns import Contestant, take_turns
from captioner.build import open_features
from captioner.models.packed_weights import multiplies_bf16
from captioner.resources import TRAIN, VALIDATION

FLICKR30K_PAIRS = 145_000


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--data", metavar="FOLDER", help="a prepared dataset (default: the embedded scenes)")
    add(
        "--systems",
        nargs="+",
        default=["cached", "peer-pixels", "peer-frozen", "peer-cached"],
        choices=list(SYSTEMS),
        help="the first is what the others are compared with",
    )
    add("--precision", default="fp32", choices=["fp32", "bf16"])
    add("--device", default="cpu", choices=["cpu", "cuda"])
    add("--images", type=int, default=320, help="training images that are used")
    add("--batch-images", type=int, default=16, help="images of a batch; it has five times as many pairs everywhere")
    add("--rounds", type=int, default=3)
    add("--seconds", type=float, default=6.0, help="length of a turn, which ends with the step it is in")
    add_threads(parser)
    add("--tiny", action="store_true", help="shapes of no meaning, for trying it out")
    add_output(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train by turns, print the table, and write it as JSON."""
    options = _parser().parse_args(argv)
    use_threads(options)
    device = torch.device(options.device)
    machine = describe_machine(measure_ceilings(device, time.perf_counter), device)
    with tempfile.TemporaryDirectory() as folder:
        work = prepare_asked(options, folder, precision=options.precision)
        open_features(work.settings, open_work(work), (TRAIN, VALIDATION))  # for the systems that share it
        content = {"work": describe_work(work), "precision": options.precision, **machine}
        print("\n".join(f"{name}: {value}" for name, value in content.items()))
        if options.precision == "bf16" and not multiplies_bf16(device):
            print("bf16 is emulated here and slower than fp32: the figures say what it costs, not what it gains")
        sys.stdout.flush()
        contestants = [Contestant(name, SYSTEMS[name][1], (work, *SYSTEMS[name][2])) for name in options.systems]
        take_turns(contestants, rounds=options.rounds, seconds=options.seconds, threads=torch.get_num_threads())
    records = report(contestants)
    write_figures(options, {**content, "rows": records})
    return 0


def describe_work(work: Work) -> str:
    """Shapes and data in one line."""
    shape = work.settings.decoder
    return (
        f"{work.images} images of {Path(work.dataset).name}, {work.batch_pairs} pairs a batch;"
        f" decoder {shape.width} wide, {shape.layers} layers, {shape.heads} heads, vocabulary {work.vocabulary:,};"
        f" encoder {describe_encoder(work)}"
    )


def report(contestants: Sequence[Contestant]) -> list[dict[str, Any]]:
    """Print a row for every system and return them as records."""
    first = contestants[0].total
    print(f"\n{'':<30}  pairs/s  tokens/s     memory  first step  Flickr30k epoch   the first is faster by")
    records = []
    for contestant in contestants:
        total, title = contestant.total, SYSTEMS[contestant.name][0]
        pairs, tokens = total.pairs / total.seconds, total.tokens / total.seconds
        ratio = first.pairs / first.seconds / pairs
        epoch = FLICKR30K_PAIRS / pairs
        start = contestant.first.seconds
        print(
            f"{title:<30} {pairs:8.1f} {tokens:9.0f} {total.memory / 2**20:6.0f} MiB {start:9.1f} s"
            f" {epoch:14.0f} s {ratio:12.2f} x"
        )
        records.append(
            {
                "system": contestant.name,
                "title": title.strip(),
                **vars(total),
                "first_step_seconds": start,
                "pairs_per_second": pairs,
                "tokens_per_second": tokens,
                "flickr30k_epoch_seconds": epoch,
                "first_is_faster_by": ratio,
            }
        )
    return records


if __name__ == "__main__":
    sys.exit(main())
