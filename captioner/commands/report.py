"""``captioner report``: a run as one HTML file, with its curves as PNGs beside it."""

from collections.abc import Sequence
from pathlib import Path

from captioner.commands.shell import CommandParser, guard

EXAMPLES = """examples:
  captioner report checkpoints/flickr8k
  captioner report checkpoints/flickr8k --output reports/flickr8k
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Report from the command line; returns the exit status."""
    return guard(_report, argv)


def _report(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)

    from captioner.evaluation.example_sheet import draw_examples
    from captioner.report.charts import draw_png
    from captioner.report.contents import read_report
    from captioner.report.page import write_page
    from captioner.run_folder import run_of

    run = run_of(options.run)
    report = read_report(run, data=options.data)
    folder = options.output or run / "report"
    folder.mkdir(parents=True, exist_ok=True)
    for chart in report.charts:
        draw_png(chart, folder / f"{chart.title.replace(' ', '-')}.png")
    for split, examples in report.examples.items():
        draw_examples(examples, folder / f"captions-{split}.png")
    page = folder / "report.html"
    page.write_text(write_page(report), encoding="utf-8")
    print(page)
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "captioner report",
        "Write a run's report: one HTML file that needs no other, with the curves and the captions as PNGs beside it.",
        examples=EXAMPLES,
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write (default: report/ in the run)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="prepared dataset (default: the run's own)")
    return parser
