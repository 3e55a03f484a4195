"""How well the metrics agree with people, on Flickr8k's judgements: python -m benchmarks.human_correlation.

DIR holds ExpertAnnotations.txt, CrowdFlowerAnnotations.txt and Flickr8k.token.txt, as Flickr8k's text archive has them.

Protocol: that of Anderson et al. (SPICE, ECCV 2016, https://arxiv.org/abs/1607.08822), as Hessel et al. (CLIPScore,
EMNLP 2021, https://arxiv.org/abs/2104.08718, appendix A) tell its details.

- Expert: 5,822 pairs of image and caption, each with three grades from 1 to 4. The 158 pairs whose candidate is a
  reference of the image are dropped; the other 5,664 are scored against the image's five references, and Kendall's
  tau-c is taken over all 16,992 grades, without averaging the three.
- CrowdFlower: 47,830 pairs, each with the share of people who said yes. All stay; a candidate that is a reference of
  the image is removed from the references. Kendall's tau-b.
- Scores are those of each caption: sentence BLEU, ROUGE-L, CIDEr-D with document frequencies from the references of all
  judgements, METEOR. Values are in hundredths.

kendalltau of scipy.stats is needed: pip install 'captioner[benchmarks]'.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.figures import add_output, write_figures
from benchmarks.flickr8k_judgements import Judgements, read_captions, read_crowdflower, read_expert
from captioner.commands.shell import CommandParser, guard
from captioner.errors import ConfigError

Reader = Callable[[Path, dict[str, str]], Judgements]
SETS: dict[str, tuple[Reader, str]] = {"expert": (read_expert, "c"), "CrowdFlower": (read_crowdflower, "b")}
"""The reader of each set of judgements, and the variant of Kendall's tau."""
PUBLISHED = {
    "expert": {"BLEU-4": 30.8, "ROUGE-L": 32.3, "CIDEr-D": 43.9, "METEOR": 41.8, "SPICE": 44.9},
    "CrowdFlower": {"BLEU-4": 16.9, "ROUGE-L": 19.9, "CIDEr-D": 24.6},
}
"""Hessel et al., table 1 and 2; what they call CIDEr is coco-caption's, CIDEr-D."""
EXAMPLES = """examples:
  python -m benchmarks.human_correlation --annotations path/to/Flickr8k_text
  python -m benchmarks.human_correlation --annotations path/to/Flickr8k_text --metrics BLEU,ROUGE-L,CIDEr-D
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line; returns the exit status."""
    return guard(_measure, argv)


def _measure(argv: Sequence[str]) -> int:
    parser = CommandParser(
        "python -m benchmarks.human_correlation",
        "Kendall's tau between metrics and people's judgements of captions on Flickr8k.",
        examples=EXAMPLES,
    )
    parser.add_argument("--annotations", metavar="DIR", required=True, help="folder of Flickr8k's text files")
    parser.add_argument("--metrics", metavar="NAMES", help="such as BLEU,CIDEr-D (default: all but SPICE)")
    add_output(parser)
    options = parser.parse_args(argv)

    from captioner.evaluation.caption_metrics import DEFAULT_METRICS
    from captioner.settings_checks import parse_metrics

    metrics = parse_metrics(options.metrics) if options.metrics is not None else DEFAULT_METRICS
    root = Path(options.annotations)
    captions = read_captions(root)
    figures = {}
    for name, (read, variant) in SETS.items():
        judgements = read(root, captions)
        figures[name] = {
            "pairs": len(judgements.candidates),
            "dropped": judgements.dropped,
            "judgements": sum(map(len, judgements.ratings)),
            "variant": variant,
            "tau": correlate(judgements, variant=variant, metrics=metrics),
        }
        print(format_figures(name, figures[name]))
    write_figures(options, figures)
    return 0


def correlate(judgements: Judgements, *, variant: str, metrics: Sequence[str]) -> dict[str, float]:
    """Return 100 times Kendall's tau of every metric with the ratings.

    Arguments:
        judgements: captions and what people thought of them; every rating is one observation.
        variant: "b" or "c", how ties count (Kendall, 1945; Stuart, 1953).
        metrics: names out of ``caption_metrics.METRICS``.

    Raises ConfigError without scipy.
    """
    try:
        from scipy.stats import kendalltau
    except ImportError as error:
        raise ConfigError("scipy is missing; pip install 'captioner[benchmarks]'") from error
    from captioner.evaluation.caption_metrics import score_captions

    rows = [row for row, ratings in enumerate(judgements.ratings) for _ in ratings]
    ratings = [rating for ratings in judgements.ratings for rating in ratings]
    # A pair is scored once a rating, not once: its references then weigh in CIDEr's document frequencies as published.
    scores = score_captions(
        [judgements.candidates[row] for row in rows], [judgements.references[row] for row in rows], metrics=metrics
    ).images
    return {name: 100 * float(kendalltau(values, ratings, variant=variant)[0]) for name, values in scores.items()}


def format_figures(name: str, figures: dict) -> str:
    """One set's table, the published values beside ours."""
    lines = [
        f"{name}: {figures['pairs']:,} pairs ({figures['dropped']:,} dropped), {figures['judgements']:,} judgements, "
        f"Kendall's tau-{figures['variant']} x 100",
        f"  {'':<10} {'here':>6} {'published':>10}",
    ]
    for metric, tau in figures["tau"].items():
        published = PUBLISHED[name].get(metric)
        lines.append(f"  {metric:<10} {tau:6.1f} {'' if published is None else f'{published:10.1f}'}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
