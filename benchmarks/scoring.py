"""Tokenizing and scoring beside pycocoevalcap with Java: ``python -m benchmarks.scoring --captions FILE``.

Both get the same captions and take turns in one run, and the median counts. Scoring is the way from untokenized
captions to BLEU-1..4, ROUGE-L and CIDEr-D; pycocoevalcap starts Java twice for it, for the references and for the
captions. METEOR is measured by itself, on tokenized captions; both read the table of paraphrases, pycocoevalcap in
Java. That the tokens are identical and the scores equal to 1e-9 is part of the measurement.
"""

import argparse
import platform
import random
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.figures import add_output, write_figures
from captioner.commands.shell import CommandParser, guard
from captioner.errors import ConfigError, DataError
from captioner.evaluation.caption_metrics import score_captions, tokenize_pairs
from captioner.evaluation.meteor import scoring as meteor
from captioner.evaluation.ptb import tokenize

REFERENCES = 5
Cases = tuple[list[str], list[list[str]]]
"""A caption an image, and the references of each image."""
System = Callable[[Any], Any]
EXAMPLES = """examples:
  python -m benchmarks.scoring
  python -m benchmarks.scoring --captions path/to/flickr8k/Flickr8k.token.txt --output scoring.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure from the command line; returns the exit status."""
    return guard(_measure, argv)


def _measure(argv: Sequence[str]) -> int:
    parser = CommandParser("python -m benchmarks.scoring", __doc__.partition(":")[0] + ".", examples=EXAMPLES)
    parser.add_argument("--captions", metavar="FILE", help="a caption a line, behind a tab if any (default: made up)")
    parser.add_argument("--tokenize", type=int, nargs="+", default=[1, 1000, 40_000, 150_000], metavar="N")
    parser.add_argument("--score", type=int, nargs="+", default=[1000, 5000], metavar="IMAGES")
    parser.add_argument("--meteor", type=int, nargs="+", default=[1000], metavar="IMAGES")
    parser.add_argument("--repeats", type=int, default=3, help="times that each system runs")
    parser.add_argument("--seed", type=int, default=0)
    add_output(parser)
    options = parser.parse_args(argv)
    if min(*options.tokenize, *options.score, *options.meteor, options.repeats) < 1:
        raise ConfigError("--tokenize, --score, --meteor and --repeats: use 1 or more")
    if shutil.which("java") is None:
        raise ConfigError("pycocoevalcap needs Java, which is not on the PATH; install Java 8 or newer")
    generator = random.Random(options.seed)
    pool = read_captions(Path(options.captions)) if options.captions else make_captions(50_000, generator)
    rows = []
    for count in options.tokenize:
        captions = [pool[place % len(pool)] for place in range(count)]
        rows.append({"work": "tokenize", "count": count, **compare(tokenize, tokenize_with_java, captions, options)})
        print(format_row(rows[-1]), flush=True)
    for images in options.score:
        cases = make_cases(pool, images, generator)
        rows.append({"work": "score", "count": images, **compare(score_ours, score_theirs, cases, options)})
        print(format_row(rows[-1]), flush=True)
    for images in options.meteor:
        cases = tokenize_pairs(*make_cases(pool, images, generator))
        rows.append({"work": "meteor", "count": images, **compare(score_meteor, meteor_with_java, cases, options)})
        print(format_row(rows[-1]), flush=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "seed": options.seed}
    write_figures(options, {**machine, "captions": bool(options.captions), "rows": rows})
    return 0


def compare(ours: System, theirs: System, work: Any, options: argparse.Namespace) -> dict[str, Any]:
    """Run two systems in turns on the same work; their median seconds, and whether their results agree."""
    seconds: dict[System, list[float]] = {ours: [], theirs: []}
    results = {}
    for _ in range(options.repeats):
        for system in (ours, theirs):
            began = time.perf_counter()
            results[system] = system(work)
            seconds[system].append(time.perf_counter() - began)
    own, peer = statistics.median(seconds[ours]), statistics.median(seconds[theirs])
    figures = {"seconds": own, "peer_seconds": peer, "ratio": peer / own, "same": agree(results[ours], results[theirs])}
    return {**figures, "runs": seconds[ours], "peer_runs": seconds[theirs]}


def agree(ours: Any, theirs: Any) -> bool:
    """Whether tokens are identical, or scores equal to 1e-9."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(abs(ours[name] - theirs[name]) <= 1e-9 for name in ours)
    return ours == theirs


def tokenize_with_java(captions: Sequence[str]) -> list[str]:
    """What pycocoevalcap's tokenizer gives."""
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    return PTBTokenizer().tokenize({0: [{"caption": caption} for caption in captions]})[0]


def score_ours(cases: Cases) -> dict[str, float]:
    """The scores of a set by this project."""
    return score_captions(*cases, metrics=["BLEU", "ROUGE-L", "CIDEr-D"]).corpus


def score_theirs(cases: Cases) -> dict[str, float]:
    """The scores of a set by pycocoevalcap, as its COCOEvalCap computes them."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    (predictions, references), tokenizer = cases, PTBTokenizer()
    known = tokenizer.tokenize({row: [{"caption": text} for text in group] for row, group in enumerate(references)})
    found = tokenizer.tokenize({row: [{"caption": text}] for row, text in enumerate(predictions)})
    bleu, _ = Bleu(4).compute_score(known, found, verbose=0)
    scores = {f"BLEU-{order + 1}": value for order, value in enumerate(bleu)}
    scores["ROUGE-L"], _ = Rouge().compute_score(known, found)
    scores["CIDEr-D"], _ = Cider().compute_score(known, found)
    return {name: float(value) for name, value in scores.items()}


def score_meteor(cases: Cases) -> dict[str, float]:
    """METEOR of tokenized captions by this project."""
    return {"METEOR": meteor.score(*cases)[0]}


def meteor_with_java(cases: Cases) -> dict[str, float]:
    """METEOR of tokenized captions by pycocoevalcap."""
    from pycocoevalcap.meteor.meteor import Meteor

    predictions, references = cases
    known, found = dict(enumerate(references)), {row: [text] for row, text in enumerate(predictions)}
    return {"METEOR": Meteor().compute_score(known, found)[0]}


def read_captions(path: Path) -> list[str]:
    """The captions of a file; raises DataError where it cannot be read or is empty."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a UTF-8 text file with a caption a line") from error
    captions = [line.rpartition("\t")[2].strip() for line in lines if line.strip()]
    if not captions:
        raise DataError(f"{path}: has no captions; give a text file with a caption a line")
    return captions


def make_captions(count: int, generator: random.Random) -> list[str]:
    """Made-up captions, with as many words as real ones and as often the same ones (Zipf's law)."""
    words = ["".join(generator.choices("abcdefghilmnoprstuw", k=generator.randint(1, 9))) for _ in range(20_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    return [
        " ".join(generator.choices(words, weights, k=generator.randint(6, 16))).capitalize()
        + generator.choice([".", " ."])
        for _ in range(count)
    ]


def make_cases(pool: Sequence[str], images: int, generator: random.Random) -> Cases:
    """References drawn from captions, and predictions of which every tenth is a reference."""
    references = [generator.choices(pool, k=REFERENCES) for _ in range(images)]
    predictions = [generator.choice(group if generator.random() < 0.1 else pool) for group in references]
    return predictions, references


def format_row(row: dict[str, Any]) -> str:
    """One measurement as a line of text."""
    unit = "captions" if row["work"] == "tokenize" else f"images with {REFERENCES} references"
    figures = f"{row['seconds']:.3f} s, pycocoevalcap {row['peer_seconds']:.3f} s, {row['ratio']:.1f} times as fast"
    return f"{row['work']:<8} {row['count']:>8,} {unit}: {figures}, {'same' if row['same'] else 'DIFFERENT'} results"


if __name__ == "__main__":
    raise SystemExit(main())
