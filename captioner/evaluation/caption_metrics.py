"""Caption metrics as COCO's evaluation computes them, of a set of images and of each image.

Captions are tokenized by ``ptb.tokenize``. BLEU, ROUGE-L, CIDEr-D and METEOR equal pycocoevalcap's, SPICE runs its
Java program. What COCO's evaluation, and most papers with it, call CIDEr is CIDEr-D here.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from captioner.errors import ConfigError, DataError
from captioner.evaluation import bleu, diversity, ptb, rouge, spice
from captioner.evaluation.cider import CiderWeights
from captioner.evaluation.document_frequencies import DocumentFrequencies
from captioner.evaluation.java_programs import MetricUnavailableError
from captioner.evaluation.meteor import scoring as meteor
from captioner.evaluation.ngrams import Matches, Numbers, ReferenceNgrams

logger = logging.getLogger(__name__)

ScoredMetric = tuple[dict[str, float], dict[str, list[float]]]
"""One metric's corpus scores and its per-image scores, by name."""


@dataclass(frozen=True)
class Scores:
    """Metric values in natural units (a CIDEr-D of 0.6, not 60): of the set, of each image, and what is missing."""

    corpus: dict[str, float]
    images: dict[str, list[float]]
    unavailable: dict[str, str]


@dataclass(frozen=True)
class CaptionPairs:
    """Tokenized captions and references; what several metrics need of them is computed once."""

    predictions: list[str]
    """One an image."""
    references: list[list[str]]
    document_frequencies: DocumentFrequencies | None = None
    """What CIDEr weighs n-grams by, instead of these references."""
    training: Iterable[str] | None = None
    """The untokenized captions that the captioner learnt from; read once."""

    @cached_property
    def matches(self) -> Matches:
        given = self.document_frequencies
        return ReferenceNgrams(self.references, also=given.frequencies if given else ()).match(self.predictions)

    @cached_property
    def bleu_counts(self) -> Numbers:
        return bleu.count(self.matches)

    @cached_property
    def meteor_statistics(self) -> list[meteor.Statistics]:
        return meteor.count(self.predictions, self.references)

    @cached_property
    def weights(self) -> CiderWeights:
        return CiderWeights(self.matches.references, self.document_frequencies)


def score_bleu(pairs: CaptionPairs) -> ScoredMetric:
    """Return BLEU-1 to BLEU-4, against the closest reference length (Papineni et al., 2002)."""
    counts = pairs.bleu_counts
    corpus, images = bleu.score(counts.sum(axis=0, keepdims=True))[0].tolist(), bleu.score(counts).T.tolist()
    return dict(zip(bleu.NAMES, corpus, strict=True)), dict(zip(bleu.NAMES, images, strict=True))


def score_rouge_l(pairs: CaptionPairs) -> ScoredMetric:
    """Return ROUGE-L: F-score with beta 1.2 of best precision and best recall (Lin, 2004)."""
    return _average("ROUGE-L", rouge.score(pairs.predictions, pairs.references))


def score_cider_d(pairs: CaptionPairs) -> ScoredMetric:
    """Return CIDEr-D (Vedantam et al., 2015), which COCO's evaluation calls CIDEr."""
    return _average("CIDEr-D", pairs.weights.cider_d(pairs.matches).tolist())


def score_cider(pairs: CaptionPairs) -> ScoredMetric:
    """Return CIDEr as it was before CIDEr-D: without clipping, and whatever the length (Vedantam et al., 2015)."""
    return _average("CIDEr", pairs.weights.cider(pairs.matches).tolist())


def score_meteor(pairs: CaptionPairs) -> ScoredMetric:
    """Return METEOR 1.5 (Denkowski and Lavie, 2014).

    Raises MetricUnavailableError where its data, which come with pycocoevalcap, or its stemmer are missing.
    """
    statistics = pairs.meteor_statistics
    return {"METEOR": meteor.add_up(statistics).score()}, {"METEOR": [item.score() for item in statistics]}


def score_spice(pairs: CaptionPairs) -> ScoredMetric:
    """Return SPICE (Anderson et al., 2016).

    Raises MetricUnavailableError where Java or the parser is missing, fails or hangs.
    """
    corpus, images = spice.score(pairs.predictions, pairs.references)
    return {"SPICE": corpus}, {"SPICE": images}


def score_diversity(pairs: CaptionPairs) -> ScoredMetric:
    """Return how varied the captions are, and with training captions at hand, how many are new."""
    return diversity.score(pairs.predictions, training=pairs.training), {}


def score_length(pairs: CaptionPairs) -> ScoredMetric:
    """Return the captions' length in words, punctuation not counted."""
    return _average("length", [float(len(caption.split())) for caption in pairs.predictions])


METRICS: dict[str, Callable[[CaptionPairs], ScoredMetric]] = {
    "BLEU": score_bleu,
    "ROUGE-L": score_rouge_l,
    "CIDEr-D": score_cider_d,
    "CIDEr": score_cider,
    "METEOR": score_meteor,
    "SPICE": score_spice,
    "diversity": score_diversity,
    "length": score_length,
}
DEFAULT_METRICS = tuple(name for name in METRICS if name != "SPICE")


def score_captions(
    predictions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    document_frequencies: DocumentFrequencies | None = None,
    training: Iterable[str] | None = None,
) -> Scores:
    """Score one caption an image against the image's references.

    Args:
        predictions: one untokenized caption an image; an empty one scores 0.
        references: the untokenized reference captions of each image, at least one.
        metrics: names out of ``METRICS``; "BLEU" gives BLEU-1 to BLEU-4. SPICE only where it is asked for.
        document_frequencies: what CIDEr weighs n-grams by; these references unless given, as in the protocol.
        training: the captions that the captioner learnt from; with them diversity has the share of novel captions.

    A metric that cannot be computed here is listed in ``Scores.unavailable`` with the reason and costs no other.
    Raises ConfigError for an unknown metric, DataError where the lists are empty or do not fit each other.
    """
    pairs = CaptionPairs(*tokenize_pairs(predictions, references), document_frequencies, training)
    return score_pairs(pairs, metrics=metrics)


def score_pairs(pairs: CaptionPairs, *, metrics: Sequence[str] = DEFAULT_METRICS) -> Scores:
    """Score captions that are tokenized already, as ``score_captions`` does."""
    unknown = [name for name in metrics if name not in METRICS]
    if unknown:
        raise ConfigError(f"metrics: unknown {', '.join(unknown)}; choose from {', '.join(METRICS)}")
    scores = Scores(corpus={}, images={}, unavailable={})
    for name in metrics:
        try:
            corpus, images = METRICS[name](pairs)
        except MetricUnavailableError as error:
            logger.debug("%s is unavailable: %s", name, error)
            scores.unavailable[name] = str(error)
            continue
        scores.corpus.update(corpus)
        scores.images.update(images)
    return scores


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


def _average(name: str, images: list[float]) -> ScoredMetric:
    return {name: fmean(images)}, {name: images}
