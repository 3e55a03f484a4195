"""Caption metrics as COCO's evaluation computes them: BLEU-1..4, ROUGE-L, CIDEr and, where Java is found, METEOR.

Captions are tokenized by ``ptb.tokenize`` and scored by pycocoevalcap's scorers one by one (its ``COCOEvalCap`` builds
SPICE first, which downloads). What it calls CIDEr is CIDEr-D of Vedantam et al., https://arxiv.org/abs/1411.5726.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from captioner.errors import ConfigError, DataError
from captioner.evaluation import meteor, ptb

logger = logging.getLogger(__name__)

ScoredMetric = tuple[dict[str, float], dict[str, list[float]]]
"""One metric's corpus scores and its per-image scores, by name."""


@dataclass(frozen=True)
class Scores:
    """Metric values in natural units (a CIDEr of 0.6, not 60): of the whole set, of each image, and what is missing."""

    corpus: dict[str, float]
    images: dict[str, list[float]]
    unavailable: dict[str, str]


def score_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> ScoredMetric:
    """Return BLEU-1 to BLEU-4 of tokenized captions, against the closest reference length (Papineni et al., 2002)."""
    corpus, images = Bleu(4).compute_score(*_as_coco(predictions, references), verbose=0)
    names = [f"BLEU-{order}" for order in range(1, 5)]
    return dict(zip(names, map(float, corpus), strict=True)), dict(zip(names, images, strict=True))


def score_rouge_l(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> ScoredMetric:
    """Return ROUGE-L of tokenized captions: F-score with beta 1.2 of best precision and best recall (Lin, 2004)."""
    corpus, images = Rouge().compute_score(*_as_coco(predictions, references))
    return {"ROUGE-L": float(corpus)}, {"ROUGE-L": images.tolist()}


def score_cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> ScoredMetric:
    """Return CIDEr-D of tokenized captions; document frequencies come from these references (Vedantam et al., 2015)."""
    if not any(reference for group in references for reference in group):
        # The scorer takes the maximum of the document frequencies, and here there are none.
        return {"CIDEr": 0.0}, {"CIDEr": [0.0] * len(predictions)}
    corpus, images = Cider().compute_score(*_as_coco(predictions, references))
    return {"CIDEr": float(corpus)}, {"CIDEr": images.tolist()}


def score_meteor(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> ScoredMetric:
    """Return METEOR 1.5 of tokenized captions (Denkowski and Lavie, 2014).

    Raises MeteorUnavailableError where Java is missing, fails or hangs.
    """
    corpus, images = meteor.score(predictions, references)
    return {"METEOR": corpus}, {"METEOR": images}


METRICS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]]], ScoredMetric]] = {
    "BLEU": score_bleu,
    "ROUGE-L": score_rouge_l,
    "CIDEr": score_cider,
    "METEOR": score_meteor,
}
DEFAULT_METRICS = tuple(METRICS)


def score_captions(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
) -> Scores:
    """Score one caption an image against the image's references.

    predictions: one untokenized caption an image; an empty one scores 0.
    references: the untokenized reference captions of each image, at least one.
    metrics: names out of ``METRICS``; "BLEU" gives BLEU-1 to BLEU-4.
    A metric that cannot be computed here is listed in ``Scores.unavailable`` with the reason and costs no other.
    Raises ConfigError for an unknown metric, DataError where the lists are empty or do not fit each other.
    """
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ConfigError(f"metrics: unknown {', '.join(unknown)}; choose from {', '.join(METRICS)}")
    tokenized = tokenize_pairs(predictions, references)
    scores = Scores(corpus={}, images={}, unavailable={})
    for name in metrics:
        try:
            corpus, images = METRICS[name](*tokenized)
        except meteor.MeteorUnavailableError as error:
            logger.warning("%s is unavailable: %s", name, error)
            scores.unavailable[name] = str(error)
            continue
        scores.corpus.update(corpus)
        scores.images.update(images)
    return scores


def cider(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the corpus CIDEr (CIDEr-D) of untokenized captions: the quick path for validation during training.

    Raises DataError as ``score_captions`` does.
    """
    return score_cider(*tokenize_pairs(predictions, references))[0]["CIDEr"]


def tokenize_pairs(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """Check predictions and references against each other and tokenize both.

    Raises DataError where there is nothing to score, the lengths differ or an image has no reference.
    """
    if len(predictions) != len(references):
        raise DataError(
            f"{len(predictions)} predictions for {len(references)} images' references: give one prediction an image"
        )
    if not predictions:
        raise DataError("no predictions: there is nothing to score, give at least one image")
    if bare := [index for index, group in enumerate(references) if isinstance(group, str)]:
        raise DataError(f"references of image {bare[0]} are one string: give a list of captions for each image")
    if missing := [index for index, group in enumerate(references) if not len(group)]:
        raise DataError(
            f"{len(missing)} images have no reference caption (first: number {missing[0]}): give each at least one"
        )
    tokens = iter(ptb.tokenize([caption for group in references for caption in group]))
    return ptb.tokenize(predictions), [[next(tokens) for _ in group] for group in references]


def _as_coco(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[dict[int, list[str]], dict[int, list[str]]]:
    """Return references and predictions as pycocoevalcap's scorers take them: by image, as lists."""
    return dict(enumerate(map(list, references))), {index: [caption] for index, caption in enumerate(predictions)}
