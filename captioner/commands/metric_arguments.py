"""The flags of ``captioner evaluate`` that say what captions are measured by, and what they name, opened."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captioner.commands.shell import check_output
from captioner.errors import ConfigError
from captioner.settings_checks import parse_metrics

CLIP_NAMES = {"clipscore": "CLIPScore", "refclipscore": "RefCLIPScore"}
PUBLISHED_CLIP = "openai/clip-vit-base-patch32"


def add_metric_flags(parser: argparse.ArgumentParser) -> None:
    """Add ``--metrics``, ``--clip`` and those of CIDEr's document frequencies."""
    parser.add_argument("--metrics", metavar="NAMES", help="such as BLEU,CIDEr-D (default: all but SPICE)")
    parser.add_argument(
        "--clip",
        metavar="MODEL",
        help="add CLIPScore and RefCLIPScore by this dual encoder, a folder or a Hub id; published figures are by "
        f"{PUBLISHED_CLIP}",
    )
    parser.add_argument(
        "--document-frequencies",
        metavar="FILE",
        help="weigh CIDEr's n-grams by those of this file (default: by those of the evaluated references)",
    )
    parser.add_argument(
        "--save-document-frequencies",
        metavar="FILE",
        help="write those of the split's references to this .json or .json.gz; with --references alone, only that",
    )


def check_metric_flags(options: argparse.Namespace) -> None:
    """Raise ConfigError for flags that do not fit each other."""
    chosen_metrics(options)
    if options.clip and options.references and not Path(options.references).is_dir():
        raise ConfigError("--clip needs the images: --references has to be the folder of a prepared dataset")
    if options.save_document_frequencies:
        check_output(options.save_document_frequencies)


def chosen_metrics(options: argparse.Namespace) -> Sequence[str]:
    """The metrics of captions alone; those by a dual encoder come with ``--clip``."""
    from captioner.evaluation.caption_metrics import DEFAULT_METRICS

    if options.metrics is None:
        return DEFAULT_METRICS
    names = options.metrics.split(",")
    seen = [name.strip().lower() for name in names if name.strip().lower() in CLIP_NAMES]
    if seen and not options.clip:
        raise ConfigError(
            f"--metrics {CLIP_NAMES[seen[0]]} needs a dual encoder: name one with --clip, such as "
            f"--clip {PUBLISHED_CLIP}"
        )
    others = ",".join(name for name in names if name.strip().lower() not in CLIP_NAMES)
    return () if seen and not others.strip() else parse_metrics(others)


def open_dual_encoder(options: argparse.Namespace) -> Any:
    """The dual encoder of ``--clip``, on a GPU where there is one; None without the flag."""
    if not options.clip:
        return None
    import torch

    from captioner.evaluation.clip_score import DualEncoder

    return DualEncoder(options.clip, device="cuda" if torch.cuda.is_available() else "cpu")


def read_frequencies(options: argparse.Namespace) -> Any:
    """Those of ``--document-frequencies``; None without the flag."""
    from captioner.evaluation.document_frequencies import DocumentFrequencies

    return DocumentFrequencies.load(options.document_frequencies) if options.document_frequencies else None


def save_frequencies(options: argparse.Namespace, references: Sequence[Sequence[str]]) -> None:
    """Write those of a split's references where ``--save-document-frequencies`` says."""
    from captioner.evaluation.document_frequencies import DocumentFrequencies

    if options.save_document_frequencies:
        DocumentFrequencies.count(references).save(options.save_document_frequencies)
