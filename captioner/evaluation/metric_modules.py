"""The caption metrics as ``evaluate.Metric``s that need no network and combine with ``evaluate.combine``.

Apart from caption_metrics.py because ``import evaluate`` is slow.
"""

import datasets
import evaluate

from captioner.evaluation import caption_metrics

_INPUTS = """
Args:
    predictions: one untokenized caption an image.
    references: a list of untokenized reference captions for each image, at least one.
"""

_BLEU_CITATION = "Papineni et al. BLEU: a Method for Automatic Evaluation of Machine Translation. ACL 2002."
_ROUGE_CITATION = "Lin. ROUGE: A Package for Automatic Evaluation of Summaries. ACL Workshop 2004."
_CIDER_CITATION = "Vedantam et al. CIDEr: Consensus-based Image Description Evaluation. CVPR 2015."
_METEOR_CITATION = "Denkowski and Lavie. Meteor Universal: Language Specific Translation Evaluation. WMT 2014."


class CaptionMetric(evaluate.Metric):
    """One metric of ``caption_metrics`` as an ``evaluate.Metric``; ``compute`` returns its corpus scores by name.

    An unavailable metric is returned as None, with the reason under "<metric> unavailable", so that a combination of
    metrics keeps the others.
    """

    metric: str
    citation_text: str

    def __init__(self, *, keep_in_memory: bool = True, **kwargs) -> None:
        super().__init__(keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{self.metric} as COCO's caption evaluation computes it.",
            citation=self.citation_text,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
            ),
            reference_urls=["https://github.com/salaniz/pycocoevalcap"],
        )

    def _compute(self, *, predictions: list[str], references: list[list[str]]) -> dict[str, float | str | None]:
        scores = caption_metrics.score_captions(predictions, references, metrics=[self.metric])
        missing = dict.fromkeys(scores.unavailable)
        reasons = {f"{name} unavailable": reason for name, reason in scores.unavailable.items()}
        return {**scores.corpus, **missing, **reasons}


class BleuMetric(CaptionMetric):
    """BLEU-1 to BLEU-4."""

    metric = "BLEU"
    citation_text = _BLEU_CITATION


class RougeLMetric(CaptionMetric):
    """ROUGE-L."""

    metric = "ROUGE-L"
    citation_text = _ROUGE_CITATION


class CiderMetric(CaptionMetric):
    """CIDEr as coco-caption computes it, which is CIDEr-D."""

    metric = "CIDEr"
    citation_text = _CIDER_CITATION


class MeteorMetric(CaptionMetric):
    """METEOR 1.5, where Java is found."""

    metric = "METEOR"
    citation_text = _METEOR_CITATION
