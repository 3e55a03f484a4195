"""How good a captioner is on a split of a prepared dataset: its captions, their metrics, and how they were decoded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset, DatasetDict

from captioner.api import Captioner
from captioner.data.encoded_images import EncodedImages
from captioner.errors import DataError
from captioner.evaluation.acceptance import reliability
from captioner.evaluation.caption_metrics import DEFAULT_METRICS, ScoredMetric
from captioner.evaluation.clip_score import DualEncoder, score_captions_with_images
from captioner.evaluation.document_frequencies import DocumentFrequencies
from captioner.evaluation.protocol import describe_set
from captioner.evaluation.references import prepared_references, training_captions
from captioner.evaluation.results import Evaluation, score_set
from captioner.evaluation.scene_accuracy import scene_accuracy, scene_matches
from captioner.models.packed_weights import choose_precision
from captioner.progress import Progress
from captioner.settings import DecodingSettings


def evaluate_captioner(
    captioner: Captioner,
    dataset: DatasetDict,
    split: str,
    *,
    manifest: Mapping[str, Any] | None = None,
    name: str = "",
    decoding: DecodingSettings | None = None,
    limit: int = 0,
    metrics: Sequence[str] = DEFAULT_METRICS,
    document_frequencies: DocumentFrequencies | None = None,
    dual_encoder: DualEncoder | None = None,
    seed: int = 0,
    training: Iterable[str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Caption every image of a split and score the captions.

    Args:
        captioner: what to evaluate.
        dataset: a prepared dataset.
        split: the name of one of its splits.
        manifest: the prepared dataset's; without it, a published split is known by the dataset's name alone.
        name: the dataset's, instead of the one that the captioner was trained on.
        decoding: how to decode, instead of the captioner's own settings.
        limit: only the first so many images; 0 for all.
        metrics: names out of ``caption_metrics.METRICS``.
        document_frequencies: what CIDEr weighs n-grams by; the references of the images unless given.
        dual_encoder: gives CLIPScore and RefCLIPScore besides.
        seed: of the confidence intervals.
        training: the captions that the captioner learnt from; those of the dataset, if it was trained on that.
        notes: what else the result shall say.

    Raises:
        DataError: there is no such split.
    """
    decoding = decoding or captioner.settings.decoding
    rows = select_rows(dataset, split, limit=limit)
    called = {"dataset": name or captioner.settings.data.name, "split": split}
    references = prepared_references(rows, manifest or {}, **called)
    evaluated = describe_set(references, of=prepared_references(dataset[split], manifest or {}, **called))
    own = references.dataset == captioner.settings.data.name and not captioner.settings.data.streaming
    references = replace(references, training=training_captions(dataset) if own and training is None else training)
    found = caption_rows(captioner, EncodedImages(rows), decoding, title=f"captioning {split}")
    captions = [caption.text for caption in found]
    more, made_with = _score_scenes(captions, rows), {}
    if dual_encoder:
        seen = score_captions_with_images(dual_encoder, EncodedImages(rows), captions, references.captions)
        more = more[0] | seen[0], more[1] | seen[1]
        made_with = dict.fromkeys(seen[0], dual_encoder.label)
    scored = score_set(
        captions,
        references,
        evaluated,
        decoding=decoding,
        metrics=metrics,
        document_frequencies=document_frequencies,
        more=more,
        made_with=made_with,
        seed=seed,
        notes={
            "training_seed": captioner.settings.trainer.seed,
            "precision": choose_precision(decoding.precision, captioner.device),
            "device": _name_device(captioner.device),
            **(notes or {}),
        },
    )
    evaluation = replace(scored, truncated=[caption.truncated for caption in found])
    if captioner.calibration and "CIDEr-D" in evaluation.image_metrics:
        return _with_confidence(evaluation, [caption.confidence for caption in found], document_frequencies)
    return evaluation


def _score_scenes(captions: Sequence[str], rows: Dataset) -> ScoredMetric:
    """How exactly captions name the objects of scenes, whose rows tell them; nothing for other rows."""
    if "objects" not in rows.column_names:
        return {}, {}
    objects = [list(names) for names in rows["objects"]]
    matches = [float(match) for match in scene_matches(captions, objects)]
    return scene_accuracy(captions, objects), {"scene_accuracy": matches}


def _name_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _with_confidence(
    evaluation: Evaluation, confidences: list[float], document_frequencies: DocumentFrequencies | None
) -> Evaluation:
    """The evaluation with the captions' confidences, and how well they foretell which captions are accepted."""
    images = {**evaluation.image_metrics, "confidence": confidences}
    foretold = reliability(
        confidences, images["CIDEr-D"], evaluation.truncated, evaluation.references, document_frequencies
    )
    return replace(evaluation, metrics=evaluation.metrics | foretold, image_metrics=images)


def select_rows(dataset: DatasetDict, split: str, *, limit: int = 0) -> Dataset:
    """The rows of a split, or its first ones; raises DataError if there is no such split, or nothing in it."""
    if split not in dataset:
        raise DataError(f"the dataset has no split {split}; it has {', '.join(dataset)}")
    rows = dataset[split]
    if not len(rows):
        raise DataError(f"split {split} has no images; choose another split")
    return rows.select(range(min(limit, len(rows)))) if limit else rows


def caption_rows(
    captioner: Captioner, images: Sequence[Any], decoding: DecodingSettings, *, title: str, candidates: int = 1
) -> list[Any]:
    """What ``Captioner.caption`` says of many images, with a progress bar."""
    captions: list[Any] = [None] * len(images)
    with Progress(title, total=len(images), unit="images") as progress:
        for place, caption in captioner.caption_each(iter(images), decoding=decoding, candidates=candidates):
            captions[place] = caption
            progress.advance()
    return captions
