"""Captions a second beside transformers: ``python -m benchmarks.decoding --model checkpoints/NAME --data data/NAME``.

Every system captions the same photos with the same weights, taking turns part by part, in one process; image tokens are
computed beforehand. Without a model, a decoder is trained for a moment on made-up sentences. The table says captions a
second, milliseconds for a batch, how much slower each system is than this project, and how many captions are the same.
As it comes, it has sixteen configurations and takes about twelve minutes.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.decoding_systems import OURS, Captions, Ours, System, build_systems
from benchmarks.decoding_work import Work, photos_work, synthetic_work
from benchmarks.figures import add_output, add_threads, use_threads, write_figures
from benchmarks.roofline import Ceilings, describe_machine, measure_ceilings, shortest_time, step_cost
from captioner.models.packed_weights import multiplies_bf16
from captioner.settings import DecodingSettings


@dataclass
class Row:
    """One system's figures in one configuration."""

    precision: str
    beams: int
    batch: int
    system: str
    images: int = 0
    seconds: float = 0.0
    captions: Captions = field(default_factory=list, repr=False)

    @property
    def rate(self) -> float:
        """Captions a second."""
        return self.images / self.seconds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks.decoding", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--model", help="export or run whose decoder is measured (default: one made up)")
    add("--data", help="prepared dataset of the photos; needed with --model unless --features is there")
    add("--split", default="test")
    add("--features", metavar="FILE.safetensors", help="image tokens of the photos: read if there, else written")
    add("--images", type=int, default=1000)
    add("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    add("--beams", type=int, nargs="+", default=[1, 5])
    add("--precisions", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "int8"])
    add("--seconds", type=float, default=45.0, help="for a configuration, all its systems together")
    add_threads(parser)
    add("--cpu-time", action="store_true", help="count the processor's seconds: for one thread on a busy machine")
    add("--synthetic-steps", type=int, default=40)
    add_output(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, and write it as JSON."""
    options = _parser().parse_args(argv)
    use_threads(options)
    device = torch.device("cpu")
    if options.model:
        work = photos_work(
            options.model, data=options.data, split=options.split, images=options.images, features=options.features
        )
    else:
        work = synthetic_work(options.images, steps=options.synthetic_steps)
    clock = time.process_time if options.cpu_time else time.perf_counter
    ceilings = measure_ceilings(device, clock)
    machine = describe_machine(ceilings, device)
    print("\n".join(f"{name}: {value}" for name, value in {"work": work.source, **machine}.items()))
    if "bf16" in options.precisions and not multiplies_bf16(device):
        print("bf16 is emulated here and slower than fp32: its rows, of few images, say what that costs")
    records = []
    for precision in options.precisions:
        systems = build_systems(work.decoder, work.special, precision)
        for beams in options.beams:
            for batch in options.batches:
                settings = DecodingSettings(beams=beams, batch_size=batch, precision=precision)
                rows = measure(systems, work, settings, seconds=options.seconds, clock=clock)
                records += [*report(rows, roof=_roof(systems[OURS], rows[0], work, ceilings))]
    write_figures(options, {"work": work.source, **machine, "rows": records})
    return 0


def measure(
    systems: dict[str, System],
    work: Work,
    settings: DecodingSettings,
    *,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Row]:
    """Let the systems take turns on parts of the photos, each going first in its turn, while another turn has time."""
    rows = [Row(settings.precision, settings.beams, settings.batch_size, name) for name in systems]
    part = _part(settings)
    for warming in systems.values():
        warming(work.memory[: min(settings.batch_size, 8)], settings)
    for turn, memory in enumerate(work.memory.split(part)):
        for row in rows[turn % len(rows) :] + rows[: turn % len(rows)]:
            start = clock()
            row.captions += systems[row.system](memory, settings)
            row.seconds += clock() - start
            row.images += len(memory)
        spent = sum(row.seconds for row in rows)
        if spent + spent / (turn + 1) > seconds:
            break
    return rows


def _part(settings: DecodingSettings) -> int:
    """Images of a turn: some batches, so that waiting images count; one batch where bf16 is emulated, which is slow."""
    if settings.precision == "bf16" and not multiplies_bf16(torch.device("cpu")):
        return max(settings.batch_size, 8)
    return max(min(4 * settings.batch_size, 256), settings.batch_size, 16)


def _roof(ours: System, row: Row, work: Work, ceilings: Ceilings) -> float:
    """The share of the machine's ceiling that this project reached."""
    assert isinstance(ours, Ours)
    cost = step_cost(ours.packed, patches=work.memory.shape[1])
    busy = min(row.batch, row.images)
    steps = ours.rows / (busy * row.beams)  # as if all slots had always been in use
    ours.rows = 0
    return steps * shortest_time(cost, ceilings, row.precision, images=busy, beams=row.beams) / row.seconds


def report(rows: list[Row], *, roof: float) -> Iterator[dict[str, Any]]:
    """Print the rows of a configuration and yield them as records."""
    first = rows[0]
    search = "greedy" if first.beams == 1 else f"{first.beams} beams"
    tokens = sum(map(len, first.captions)) / len(first.captions)
    print(
        f"\n{first.precision}, {search}, batch {first.batch}: {first.images} images, {tokens:.1f} tokens a caption, "
        f"{roof:.0%} of the ceiling"
    )
    for row in rows:
        same = sum(map(tuple.__eq__, row.captions, first.captions)) / len(row.captions)
        ratio, milliseconds = first.rate / row.rate, 1000 * row.batch / row.rate
        print(
            f"  {row.system:<28} {row.rate:8.2f} captions/s {milliseconds:9.1f} ms a batch "
            f"{ratio:6.2f} x as long   {same:6.1%} same"
        )
        yield {
            **{name: getattr(row, name) for name in ("precision", "beams", "batch", "system", "images", "seconds")},
            "captions_per_second": row.rate,
            "milliseconds_per_batch": milliseconds,
            "captioner_is_faster_by": ratio,
            "same_captions": same,
            "share_of_ceiling": roof if row is first else None,
        }
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
