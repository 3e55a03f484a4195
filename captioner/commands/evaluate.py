"""``captioner evaluate``: the scores of an export on a split, or of any system's captions."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.decoding_arguments import add_decoding_flags, given_decoding
from captioner.commands.metric_arguments import (
    CLIP_NAMES,
    add_metric_flags,
    check_metric_flags,
    chosen_metrics,
    open_dual_encoder,
    read_frequencies,
    save_frequencies,
)
from captioner.commands.overlap import count_overlap
from captioner.commands.shell import CommandParser, check_output, guard
from captioner.decoding_checks import override_decoding
from captioner.errors import ConfigError
from captioner.settings import DataSettings, DecodingSettings, Settings
from captioner.settings_checks import check_settings

if TYPE_CHECKING:
    from captioner.evaluation.caption_metrics import ScoredMetric
    from captioner.evaluation.clip_score import DualEncoder
    from captioner.evaluation.references import ReferenceSet
    from captioner.evaluation.results import Evaluation

EXAMPLES = """examples:
  captioner evaluate checkpoints/flickr8k/best --split test
  captioner evaluate checkpoints/scenes/best --split test_unseen --examples sheet.png
  captioner evaluate me/captioner --data data/flickr8k --beams 5 --output scores.json
  captioner evaluate --predictions theirs.json --references dataset_flickr30k.json --output theirs-scores.json
  captioner evaluate --references data/coco --split train --save-document-frequencies coco.json.gz
"""
MODEL_ONLY = ("data", "limit", "examples", "allow_overlap", "update_card")
SCORING_ONLY = ("output", "metrics", "clip", "document_frequencies", "bootstrap_seed", "allow_different_set")


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate from the command line; returns the exit status."""
    return guard(_evaluate, argv)


def _parser() -> CommandParser:
    parser = CommandParser(
        "captioner evaluate",
        "Score an export's captions on a split, or the captions in a file: BLEU-1..4, ROUGE-L, CIDEr-D, METEOR.",
        examples=EXAMPLES,
    )
    parser.add_argument("model", nargs="?", help="folder of an export or a run, or a Hub id")
    parser.add_argument("--split", help="split of the dataset (default: test); COCO annotations have none")
    parser.add_argument("--data", metavar="FOLDER", help="prepared dataset (default: the one it was trained on)")
    parser.add_argument(
        "--predictions",
        metavar="FILE",
        help='captions to score instead of a model\'s: [{"image_id": …, "caption": …}] in .json, .jsonl or .csv',
    )
    parser.add_argument(
        "--references",
        metavar="PATH",
        help="what to compare predictions with: COCO annotations, a Karpathy JSON or a prepared dataset's folder",
    )
    add_metric_flags(parser)
    parser.add_argument(
        "--bootstrap-seed", type=int, default=0, metavar="N", help="of the confidence intervals (default: 0)"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="only the first N images (default: all)")
    parser.add_argument("--output", metavar="FILE.json", help="write the scores, also of every image, to this file")
    parser.add_argument("--examples", metavar="FILE.png", help="draw the best, median and worst captions with images")
    parser.add_argument("--update-card", action="store_true", help="put the scores into the export's model card")
    parser.add_argument(
        "--allow-overlap",
        action="store_true",
        help="evaluate on images that the model was trained on, or may have been",
    )
    parser.add_argument(
        "--allow-different-set",
        action="store_true",
        help="score other images than the published split has, or only the predicted ones; the result says so",
    )
    add_decoding_flags(parser)
    return parser


def _evaluate(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    _check_options(options)
    if options.model:
        return _evaluate_model(options)
    return _evaluate_predictions(options) if options.predictions else _count_ngrams(options)


def _check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for what would go wrong only after minutes of captioning."""
    counting = options.save_document_frequencies and options.references
    if (options.model and options.predictions) or not (options.model or options.predictions or options.references):
        raise ConfigError("name a model, or --predictions with --references; see captioner evaluate --help")
    if bool(options.predictions) != bool(options.references) and not (counting and not options.model):
        raise ConfigError("--predictions and --references belong together; give both")
    given = [*given_decoding(options), *(name for name in MODEL_ONLY if getattr(options, name))]
    if not options.model and given:
        raise ConfigError(f"--{given[0].replace('_', '-')} needs a model; leave it out with --predictions")
    scoring = [name for name in SCORING_ONLY if getattr(options, name)]
    if not (options.model or options.predictions) and scoring:
        raise ConfigError(f"--{scoring[0].replace('_', '-')} needs captions to score: give --predictions too")
    check_metric_flags(options)
    for path in filter(None, (options.output, options.examples)):
        check_output(path)
    if options.limit < 0:
        raise ConfigError(f"--limit {options.limit}: use 1 or more, or leave it out for all images")
    if options.bootstrap_seed < 0:
        raise ConfigError(f"--bootstrap-seed {options.bootstrap_seed}: use 0 or more")
    if options.examples and "CIDEr-D" not in chosen_metrics(options):
        raise ConfigError("--examples are picked by CIDEr-D: have it among --metrics")
    if options.limit and options.update_card:
        raise ConfigError("--limit and --update-card: a part of a split is no score for a model card; leave one out")


def _evaluate_predictions(options: argparse.Namespace) -> int:
    from captioner.evaluation.predictions import align_predictions, read_predictions
    from captioner.evaluation.protocol import describe_set, refuse_different_set
    from captioner.evaluation.references import read_references
    from captioner.evaluation.results import score_set

    metrics, encoder, frequencies = (
        chosen_metrics(options),
        open_dual_encoder(options),
        read_frequencies(options),
    )
    predictions = read_predictions(options.predictions)
    references = read_references(options.references, options.split or "")
    if not options.allow_different_set:
        refuse_different_set(describe_set(references))
    save_frequencies(options, references.captions)
    captions, scored = align_predictions(predictions, references, allow_missing=options.allow_different_set)
    if empty := sum(not caption.strip() for caption in captions):
        print(f"{empty:,} of the {len(captions):,} captions are empty; they score 0", file=sys.stderr)
    evaluation = score_set(
        captions,
        scored,
        describe_set(scored, of=references),
        metrics=metrics,
        document_frequencies=frequencies,
        more=_score_with_images(encoder, captions, scored, options) if encoder else None,
        made_with=dict.fromkeys(CLIP_NAMES.values(), encoder.label) if encoder else None,
        seed=options.bootstrap_seed,
        notes={"predictions": options.predictions, "training_overlap": "not checked: no model"},
    )
    _report(evaluation, options, model=Path(options.predictions).stem)
    return 0


def _score_with_images(
    encoder: "DualEncoder", captions: Sequence[str], references: "ReferenceSet", options: argparse.Namespace
) -> "ScoredMetric":
    from captioner.data.encoded_images import EncodedImages
    from captioner.evaluation.clip_score import score_captions_with_images
    from captioner.evaluation.references import prepared_rows

    images = EncodedImages(prepared_rows(Path(options.references), references))
    return score_captions_with_images(encoder, images, captions, references.captions)


def _count_ngrams(options: argparse.Namespace) -> int:
    from captioner.evaluation.references import read_references

    references = read_references(options.references, options.split or "")
    save_frequencies(options, references.captions)
    print(f"document frequencies of {len(references.image_ids):,} images: {options.save_document_frequencies}")
    return 0


def _evaluate_model(options: argparse.Namespace) -> int:
    from captioner.api import Captioner
    from captioner.data.prepared import open_prepared, read_manifest
    from captioner.data.records import SPLIT_ALIASES
    from captioner.evaluation.protocol import describe_set, refuse_different_set
    from captioner.evaluation.references import prepared_references
    from captioner.scoring import evaluate_captioner

    metrics, encoder, frequencies = (
        chosen_metrics(options),
        open_dual_encoder(options),
        read_frequencies(options),
    )
    captioner = Captioner.from_pretrained(options.model)
    folder = Path(options.data) if options.data else _home(captioner.settings.data)
    dataset, manifest = open_prepared(folder), read_manifest(folder)
    decoding = _decoding(captioner.settings, options)
    split, name = SPLIT_ALIASES.get(options.split, options.split or "test"), folder.resolve().name
    notes: dict[str, Any] = {"model": options.model}
    if split in dataset:  # the evaluation says so, and which there are
        references = prepared_references(dataset[split], manifest, dataset=name, split=split)
        if not options.allow_different_set:
            refuse_different_set(describe_set(references))
        save_frequencies(options, references.captions)
        evaluated = references.select(range(len(references.image_ids))[: options.limit or None])
        notes["training_overlap"] = count_overlap(
            captioner, evaluated, [folder, _home(captioner.settings.data)], allow=options.allow_overlap
        )
    evaluation = evaluate_captioner(
        captioner,
        dataset,
        split,
        manifest=manifest,
        name=name,
        decoding=decoding,
        limit=options.limit,
        metrics=metrics,
        document_frequencies=frequencies,
        dual_encoder=encoder,
        seed=options.bootstrap_seed,
        training=_training_captions(captioner.settings.data, name),
        notes=notes,
    )
    _report(evaluation, options, model=captioner.settings.trainer.run or options.model)
    if options.examples:
        _draw(evaluation, dataset[split], options.examples)
    if options.update_card:
        from captioner.export_folder import publishable_metrics
        from captioner.publish import save_scores

        own = name == captioner.settings.data.name
        scores = {split if own else f"{name} {split}": evaluation.summary()}
        captioner.metrics.update(publishable_metrics(scores))
        save_scores(captioner, options.model)
    return 0


def _decoding(settings: Settings, options: argparse.Namespace) -> DecodingSettings:
    """The export's decoding settings with those of the command line over them."""
    changed = replace(settings, decoding=override_decoding(settings.decoding, given_decoding(options)))
    check_settings(changed)
    return changed.decoding


def _home(data: DataSettings) -> Path:
    """Where the dataset that a captioner was trained on is, if it is on this machine."""
    return Path(data.folder) / data.name


def _training_captions(data: DataSettings, evaluated: str) -> Iterable[str] | None:
    """The captions that a captioner learnt from, where it is evaluated on another dataset and its own is here too."""
    from captioner.data.prepared import open_prepared
    from captioner.evaluation.references import training_captions

    home = _home(data)
    if data.streaming or evaluated == data.name or not home.is_dir():
        return None
    return training_captions(open_prepared(home))


def format_evaluation(evaluation: "Evaluation") -> str:
    """The scores of a set as lines of text, each with its 95 % interval; the images and the decoding above them."""
    from captioner.evaluation.results import format_score

    decoding = ""
    if evaluation.decoding:
        from captioner.decoding.describe import describe_run

        decoding = f", {describe_run(evaluation.summary())}"
    split = f"{evaluation.split}: " if evaluation.split else ""
    lines = [f"{split}{evaluation.evaluated.label}{decoding}"]
    for name, value in evaluation.metrics.items():
        interval = evaluation.intervals.get(name)
        edges = f"  [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
        lines.append(f"  {name:<15} {format_score(value)}{edges}")
    if evaluation.truncated_share:
        lines.append(f"  {'truncated':<15} {format_score(evaluation.truncated_share)}")
    lines += [f"  {name:<15} unavailable: {reason}" for name, reason in evaluation.unavailable.items()]
    return "\n".join(lines)


def _report(evaluation: "Evaluation", options: argparse.Namespace, *, model: str) -> None:
    from captioner.evaluation.model_index import model_index
    from captioner.evaluation.result_files import write_result

    print(format_evaluation(evaluation))
    if options.output:
        summary = evaluation.summary()
        content = {**summary, "model-index": model_index(model, summary)}
        write_result(Path(options.output), content, evaluation.per_image())


def _draw(evaluation: "Evaluation", rows: Any, path: str) -> None:
    from captioner.data.encoded_images import EncodedImages
    from captioner.data.images import open_image
    from captioner.evaluation.example_sheet import draw_examples, make_examples

    images = EncodedImages(rows)
    draw_examples(make_examples(list(evaluation.per_image()), lambda row: open_image(images[row])), Path(path))
