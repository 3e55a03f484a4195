"""``captioner compare``: whether one system's scores are better than another's, by their result files."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.shell import CommandParser, check_output, guard
from captioner.errors import ConfigError, DataError

if TYPE_CHECKING:
    from captioner.evaluation.result_files import Result
    from captioner.evaluation.significance import Difference

EXAMPLES = """examples:
  captioner compare ours.json theirs.json
  captioner compare ours.json theirs.json --metrics CIDEr-D,BLEU-4 --output comparison.json
"""
SIGNIFICANT = 0.05


def main(argv: Sequence[str] | None = None) -> int:
    """Compare from the command line; returns the exit status."""
    return guard(_compare, argv)


def _parser() -> CommandParser:
    parser = CommandParser(
        "captioner compare",
        "Test whether two result files of captioner evaluate differ by more than chance, on the same images:\n"
        "p by approximate randomisation, the 95 % interval of B - A by paired bootstrap, both of the sets' scores;\n"
        "a line says so where a metric's are of the images' mean instead.",
        examples=EXAMPLES,
    )
    parser.add_argument("first", metavar="A.json", help="one system's result file")
    parser.add_argument("second", metavar="B.json", help="the other's")
    parser.add_argument("--metrics", metavar="NAMES", help="such as CIDEr-D,BLEU-4 (default: all that both have)")
    parser.add_argument("--shuffles", type=int, default=10_000, metavar="N", help="random draws (default: 10000)")
    parser.add_argument("--seed", type=int, default=0, help="of the random draws (default: 0)")
    parser.add_argument("--output", metavar="FILE.json", help="write the comparison to this file")
    return parser


def _compare(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    if options.shuffles < 100:
        raise ConfigError(f"--shuffles {options.shuffles}: use 100 or more")
    if options.seed < 0:
        raise ConfigError(f"--seed {options.seed}: use 0 or more")
    if options.output:
        check_output(options.output)

    from captioner.evaluation.result_files import compare_results, read_result
    from captioner.whole_writes import write_text

    first, second = read_result(options.first), read_result(options.second)
    differences = compare_results(first, second, shuffles=options.shuffles, seed=options.seed)
    names = _chosen(options.metrics, differences)
    differences = {name: differences[name] for name in names}
    print(_format(first, second, differences))
    if options.output:
        content = _content(first, second, differences, shuffles=options.shuffles, seed=options.seed)
        write_text(Path(options.output), json.dumps(content, indent=1) + "\n")
    return 0


def _chosen(text: str | None, differences: dict[str, "Difference"]) -> list[str]:
    """The metrics that are asked for, in whatever case; ``BLEU`` is all four."""
    if text is None:
        return list(differences)
    wanted = dict.fromkeys(name.strip() for name in text.split(",") if name.strip())
    if not wanted:
        raise ConfigError(f"--metrics {text}: names no metric; the files have {', '.join(differences)}")
    found = {name: [one for one in differences if _is_called(one, name)] for name in wanted}
    if unknown := [name for name, ones in found.items() if not ones]:
        raise DataError(f"--metrics {', '.join(unknown)}: not in both files; they have {', '.join(differences)}")
    return list(dict.fromkeys(one for ones in found.values() for one in ones))


def _is_called(metric: str, name: str) -> bool:
    return name.lower() in (metric.lower(), re.sub(r"-\d$", "", metric.lower()))


def _format(first: "Result", second: "Result", differences: dict[str, "Difference"]) -> str:
    lines = [
        f"{first.content['set']}; A is {first.path}, B is {second.path}",
        f"{'':<15} {'A':>8} {'B':>8} {'B - A':>8}  {'95 % interval':<19} p",
    ]
    for name, found in differences.items():
        interval = f"[{found.low:+.4f}, {found.high:+.4f}]"
        lines.append(
            f"{name:<15} {first.metrics[name]:8.4f} {second.metrics[name]:8.4f} {found.value:+8.4f}  {interval:<19} "
            f"{found.p:.4f}{' *' * (found.p < SIGNIFICANT)}"
        )
    lines.append(f"* p < {SIGNIFICANT}, of each metric by itself")
    if moved := [name for name, found in differences.items() if found.of_images]:
        lines.append(
            f"{', '.join(moved)} of a set is no mean of its images': interval and p are those of the mean difference, "
            "moved"
        )
    return "\n".join(lines)


def _content(
    first: "Result", second: "Result", differences: dict[str, "Difference"], *, shuffles: int, seed: int
) -> dict[str, Any]:
    return {
        "first": str(first.path),
        "second": str(second.path),
        "set": first.content["set"],
        "shuffles": shuffles,
        "seed": seed,
        "metrics": {
            name: {
                "first": first.metrics[name],
                "second": second.metrics[name],
                "difference": found.value,
                "confidence_interval": [found.low, found.high],
                "p": found.p,
                "tested": "mean of the images' scores" if found.of_images else "score of the set",
            }
            for name, found in differences.items()
        },
    }
