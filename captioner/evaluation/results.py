"""Scores of a set of captions, with all that it takes to repeat and to compare them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import captioner
from captioner.evaluation import bleu, diversity
from captioner.evaluation.caption_metrics import (
    DEFAULT_METRICS,
    CaptionPairs,
    ScoredMetric,
    score_pairs,
    tokenize_pairs,
)
from captioner.evaluation.document_frequencies import DocumentFrequencies
from captioner.evaluation.protocol import TOKENIZER, EvaluatedSet, fingerprint_references, metric_versions
from captioner.evaluation.references import ReferenceSet
from captioner.evaluation.significance import BOOTSTRAP_SAMPLES, LEVEL, ImageScores, bootstrap_intervals
from captioner.settings import DecodingSettings

CIDER_NAMES = ("CIDEr-D", "CIDEr")
NO_TRAINING_CAPTIONS = "no training captions to compare with; a prepared dataset and a Karpathy JSON have them"


@dataclass(frozen=True)
class Evaluation:
    """Captions of a set of images and their scores."""

    split: str
    decoding: DecodingSettings | None
    """None where the captions come from elsewhere."""
    image_ids: list[str]
    captions: list[str]
    references: list[list[str]]
    metrics: dict[str, float]
    """Of the whole set, in natural units."""
    image_metrics: dict[str, list[float]]
    """The same names, for each image."""
    unavailable: dict[str, str]
    """Metrics that could not be had, with the reason."""
    dataset: str
    evaluated: EvaluatedSet
    references_fingerprint: str
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap intervals, by the metrics' names."""
    bleu_counts: list[list[int]]
    """Of each image; empty where BLEU was not asked for."""
    meteor_counts: list[list[int]]
    """Of each image, the rows of METEOR's statistics; empty where there is no METEOR."""
    seed: int
    """Of the bootstrap."""
    made_with: dict[str, str] = field(default_factory=dict)
    """What some metrics depend on besides the captions, by their name."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What else a result file says: the model, its training seed, images that its training saw."""
    truncated: list[bool] = field(default_factory=list)
    """Which captions the maximum length cut off; empty where they come from elsewhere."""

    @property
    def truncated_share(self) -> float:
        """The share of the captions that the maximum length cut off."""
        return sum(self.truncated) / len(self.truncated) if self.truncated else 0.0

    def summary(self) -> dict[str, Any]:
        """What an export's metrics.json holds of a split."""
        counts = [len(texts) for texts in self.references]
        return {
            "metrics": self.metrics,
            "confidence_intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "bootstrap": {"level": LEVEL, "samples": BOOTSTRAP_SAMPLES, "seed": self.seed},
            "dataset": self.dataset,
            "split": self.split,
            "set": self.evaluated.label,
            "images": len(self.captions),
            "references": sum(counts),
            "references_per_image": [min(counts), max(counts)],
            "image_fingerprint": self.evaluated.fingerprint,
            "references_fingerprint": self.references_fingerprint,
            "decoding": self.decoding and asdict(self.decoding),
            "tokenizer": TOKENIZER,
            "metric_versions": metric_versions(self.metrics, self.made_with),
            "captioner_version": captioner.__version__,
            "seed": self.seed,
            **({"truncated": self.truncated_share} if self.truncated else {}),
            "unavailable": self.unavailable,
            **self.notes,
        }

    def per_image(self) -> Iterator[dict[str, Any]]:
        """One record an image: its name, caption, references and scores."""
        for row, image_id in enumerate(self.image_ids):
            yield {
                "image_id": image_id,
                "caption": self.captions[row],
                **({"truncated": self.truncated[row]} if self.truncated else {}),
                "references": self.references[row],
                "metrics": {name: values[row] for name, values in self.image_metrics.items()},
                **({"bleu_counts": self.bleu_counts[row]} if self.bleu_counts else {}),
                **({"meteor_counts": self.meteor_counts[row]} if self.meteor_counts else {}),
            }


def score_set(
    captions: Sequence[str],
    references: ReferenceSet,
    evaluated: EvaluatedSet,
    *,
    decoding: DecodingSettings | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    document_frequencies: DocumentFrequencies | None = None,
    more: ScoredMetric | None = None,
    made_with: Mapping[str, str] | None = None,
    seed: int = 0,
    notes: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Score captions against the references of their images, with confidence intervals.

    Arguments:
        captions: one an image, in the order of the references.
        references: of these images; captions that equal one of their training captions are not novel.
        evaluated: which images they are, as ``describe_set`` names them.
        decoding: how the captions were made, where a model of ours made them.
        metrics: names out of ``caption_metrics.METRICS``.
        document_frequencies: what CIDEr weighs n-grams by; these references unless given.
        more: scores by other metrics, of the set and of each image.
        made_with: what those depend on besides the captions, by their name.
        seed: of the bootstrap.
        notes: what else the result shall say.
    """
    tokens = tokenize_pairs(captions, references.captions)
    pairs = CaptionPairs(*tokens, document_frequencies, references.training)
    weighed = dict.fromkeys(CIDER_NAMES, document_frequencies.describe()) if document_frequencies else {}
    scores = score_pairs(pairs, metrics=metrics)
    if "diversity" in metrics and references.training is None:
        scores.unavailable[diversity.NOVELTY] = NO_TRAINING_CAPTIONS
    corpus, images = (scores.corpus | more[0], scores.images | more[1]) if more else (scores.corpus, scores.images)
    bleu_counts = pairs.bleu_counts.tolist() if bleu.NAMES[0] in corpus else []
    meteor_counts = [one.to_row() for one in pairs.meteor_statistics] if "METEOR" in scores.corpus else []
    means = {name: values for name, values in images.items() if name not in bleu.NAMES}
    if meteor_counts:
        del means["METEOR"]
    return Evaluation(
        references.split,
        decoding,
        references.image_ids,
        list(captions),
        references.captions,
        corpus,
        images,
        scores.unavailable,
        references.dataset,
        evaluated,
        fingerprint_references(references),
        _intervals(corpus, ImageScores(means, bleu_counts, meteor_counts), seed),
        bleu_counts,
        meteor_counts,
        seed,
        {**weighed, **(made_with or {})},
        dict(notes or {}),
    )


def format_score(value: float, *, digits: int = 4) -> str:
    """A score as it is printed: counts as whole numbers."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def _intervals(corpus: dict[str, float], scores: ImageScores, seed: int) -> dict[str, tuple[float, float]]:
    if not scores.names:
        return {}
    found = bootstrap_intervals(scores, seed=seed)
    for name, values in scores.means.items():
        # SPICE of a set is not the mean of its images' but near it: the interval is moved to where the score is.
        offset = corpus[name] - sum(values) / len(values)
        found[name] = (found[name][0] + offset, found[name][1] + offset)
    return {name: found[name] for name in corpus if name in found}
