"""``captioner evaluate``: an export's scores on a split of a prepared dataset."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.decoding_arguments import add_decoding_flags, given_decoding
from captioner.commands.shell import CommandParser, guard
from captioner.errors import ConfigError
from captioner.settings import DataSettings, DecodingSettings, Settings
from captioner.settings_checks import check_settings

if TYPE_CHECKING:
    from datasets import DatasetDict

    from captioner.scoring import Evaluation

EXAMPLES = """examples:
  captioner evaluate checkpoints/flickr8k/best --split test
  captioner evaluate checkpoints/scenes/best --split test_unseen --examples sheet.png
  captioner evaluate me/captioner --data data/flickr8k --beams 5 --output scores.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate from the command line; returns the exit status."""
    return guard(_evaluate, argv)


def _parser() -> CommandParser:
    parser = CommandParser(
        "captioner evaluate",
        "Score an export's captions on a split: BLEU-1..4, ROUGE-L, CIDEr, and METEOR where Java is found.",
        examples=EXAMPLES,
    )
    parser.add_argument("model", help="folder of an export or a run, or a Hub id")
    parser.add_argument("--split", default="test", help="split of the dataset (default: test)")
    parser.add_argument("--data", metavar="FOLDER", help="prepared dataset (default: the one it was trained on)")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images (default: all)")
    parser.add_argument("--output", metavar="FILE.json", help="write the scores, also of every image, to this file")
    parser.add_argument("--examples", metavar="FILE.png", help="draw the best, median and worst captions with images")
    parser.add_argument("--allow-overlap", action="store_true", help="evaluate on images that the model was trained on")
    add_decoding_flags(parser)
    return parser


def _evaluate(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    _check_options(options)

    from captioner.api import Captioner
    from captioner.data.prepared import open_prepared
    from captioner.scoring import evaluate_captioner

    captioner = Captioner.from_pretrained(options.model)
    home = _home(captioner.settings.data)
    folder = Path(options.data) if options.data else home
    dataset = open_prepared(folder)
    decoding = _decoding(captioner.settings, options)
    if not options.allow_overlap:
        _refuse_overlap(dataset, options.split, folder=folder, home=home)
    evaluation = evaluate_captioner(captioner, dataset, options.split, decoding=decoding, limit=options.limit)
    print(format_evaluation(evaluation))
    if options.output:
        _write(options.output, {"model": options.model, **evaluation.record()})
    if options.examples:
        _draw(evaluation, dataset[options.split], options.examples)
    return 0


def _check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for what would go wrong only after minutes of captioning."""
    for path in filter(None, (options.output, options.examples)):
        if Path(path).is_dir():
            raise ConfigError(f"{path}: is a folder; name a file in it")
        if not Path(path).resolve().parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {Path(path).parent}; make it first")
    if options.limit < 0:
        raise ConfigError(f"--limit {options.limit}: use 1 or more, or leave it out for all images")


def _decoding(settings: Settings, options: argparse.Namespace) -> DecodingSettings:
    """The export's decoding settings with those of the command line over them."""
    changed = replace(settings, decoding=replace(settings.decoding, **given_decoding(options)))
    check_settings(changed)
    return changed.decoding


def _home(data: DataSettings) -> Path:
    """Where the dataset that a captioner was trained on is, if it is on this machine."""
    return Path(data.folder) / data.name


def _refuse_overlap(dataset: "DatasetDict", split: str, *, folder: Path, home: Path) -> None:
    from captioner.data.prepared import open_prepared
    from captioner.scoring import refuse_overlap

    if split not in dataset:
        return  # the evaluation says so, and which there are
    evaluated = dataset[split]["image_id"]
    if folder.resolve() == home.resolve():
        refuse_overlap(dataset["train"]["image_id"], evaluated, split=split)
    elif home.is_dir():
        refuse_overlap(open_prepared(home)["train"]["image_id"], evaluated, split=split, other_dataset=True)
    else:
        print(f"{home} is not here: not checked whether the training had images of {split}", file=sys.stderr)


def format_evaluation(evaluation: "Evaluation") -> str:
    """The scores of a split as lines of text, the decoding settings beside them."""
    from captioner.decoding.describe import describe_decoding

    lines = [f"{evaluation.split}: {len(evaluation.captions):,} images, {describe_decoding(evaluation.decoding)}"]
    lines += [f"  {name:<15} {value:.4f}" for name, value in evaluation.metrics.items()]
    lines += [f"  {name:<15} unavailable: {reason}" for name, reason in evaluation.unavailable.items()]
    return "\n".join(lines)


def _write(path: str, content: Any) -> None:
    Path(path).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _draw(evaluation: "Evaluation", rows: Any, path: str) -> None:
    from captioner.data.encoded_images import EncodedImages
    from captioner.data.images import open_image
    from captioner.evaluation.example_sheet import draw_examples, make_examples

    images = EncodedImages(rows)
    draw_examples(make_examples(list(evaluation.per_image()), lambda row: open_image(images[row])), Path(path))
