"""The caption metrics as ``evaluate.Metric``s that need no network and combine with ``evaluate.combine``.

Apart from caption_metrics.py because ``import evaluate`` is slow.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import datasets
import evaluate

from captioner.errors import DataError
from captioner.evaluation import caption_metrics
from captioner.evaluation.document_frequencies import DocumentFrequencies

if TYPE_CHECKING:
    from captioner.evaluation.clip_score import DualEncoder

_TEXTS = {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}

_INPUTS = """
Args:
    predictions: one untokenized caption an image.
    references: a list of untokenized reference captions for each image, at least one.
"""


class CaptionMetric(evaluate.Metric):
    """One metric of ``caption_metrics`` as an ``evaluate.Metric``; ``compute`` returns its corpus scores by name.

    An unavailable metric is returned as None, with the reason under "<metric> unavailable", so that a combination of
    metrics keeps the others.
    """

    metric: str
    citation_text: str

    def __init__(self, *, keep_in_memory: bool = True, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=f"{self.metric} of image captions.",
            citation=self.citation_text,
            inputs_description=_INPUTS,
            features=datasets.Features(_TEXTS),
            reference_urls=["https://github.com/salaniz/pycocoevalcap"],
        )

    def _compute(
        self, *, predictions: list[str], references: list[list[str]], images: list[str] | None = None
    ) -> dict[str, float | str | None]:
        # A combination with CLIPScore gives the images to every metric.
        scores = caption_metrics.score_captions(predictions, references, metrics=[self.metric], **self._options())
        missing = dict.fromkeys(scores.unavailable)
        reasons = {f"{name} unavailable": reason for name, reason in scores.unavailable.items()}
        return {**scores.corpus, **missing, **reasons}

    def _options(self) -> dict[str, Any]:
        """What ``score_captions`` takes besides the captions."""
        return {}


class BleuMetric(CaptionMetric):
    """BLEU-1 to BLEU-4."""

    metric = "BLEU"
    citation_text = "Papineni et al. BLEU: a Method for Automatic Evaluation of Machine Translation. ACL 2002."


class RougeLMetric(CaptionMetric):
    """ROUGE-L."""

    metric = "ROUGE-L"
    citation_text = "Lin. ROUGE: A Package for Automatic Evaluation of Summaries. ACL Workshop 2004."


class CiderDMetric(CaptionMetric):
    """CIDEr-D, which COCO's evaluation calls CIDEr."""

    metric = "CIDEr-D"
    citation_text = "Vedantam et al. CIDEr: Consensus-based Image Description Evaluation. CVPR 2015."

    def __init__(self, *, document_frequencies: DocumentFrequencies | None = None, **kwargs: Any) -> None:
        """Weigh n-grams by given document frequencies, or by the evaluated references."""
        super().__init__(**kwargs)
        self._document_frequencies = document_frequencies

    def _options(self) -> dict[str, Any]:
        return {"document_frequencies": self._document_frequencies}


class CiderMetric(CiderDMetric):
    """CIDEr without the clipping and the length penalty of CIDEr-D."""

    metric = "CIDEr"


class MeteorMetric(CaptionMetric):
    """METEOR 1.5."""

    metric = "METEOR"
    citation_text = "Denkowski and Lavie. Meteor Universal: Language Specific Translation Evaluation. WMT 2014."


class SpiceMetric(CaptionMetric):
    """SPICE, where Java and the parser are found."""

    metric = "SPICE"
    citation_text = "Anderson et al. SPICE: Semantic Propositional Image Caption Evaluation. ECCV 2016."


class DiversityMetric(CaptionMetric):
    """Distinct n-grams, vocabulary, unique and novel captions."""

    metric = "diversity"
    citation_text = "Li et al. A Diversity-Promoting Objective Function for Neural Conversation Models. NAACL 2016."

    def __init__(self, *, training: Sequence[str] | None = None, **kwargs: Any) -> None:
        """Count as novel what none of these untokenized training captions equals; without them nothing is counted."""
        super().__init__(**kwargs)
        self._training = training

    def _options(self) -> dict[str, Any]:
        return {"training": self._training}


class LengthMetric(CaptionMetric):
    """The captions' length in words."""

    metric = "length"
    citation_text = ""


class ClipScoreMetric(CaptionMetric):
    """CLIPScore and RefCLIPScore; ``compute`` takes ``images`` besides, the path of each image."""

    metric = "CLIPScore"
    citation_text = "Hessel et al. CLIPScore: A Reference-free Evaluation Metric for Image Captioning. EMNLP 2021."

    def __init__(self, encoder: "DualEncoder", **kwargs: Any) -> None:
        """Score by a dual encoder."""
        super().__init__(**kwargs)
        self._encoder = encoder

    def _info(self) -> evaluate.MetricInfo:
        info = super()._info()
        info.features = datasets.Features({**_TEXTS, "images": datasets.Value("string")})
        return info

    def _compute(
        self, *, predictions: list[str], references: list[list[str]], images: list[str] | None = None
    ) -> dict[str, float | str | None]:
        from captioner.evaluation.clip_score import score_captions_with_images

        if images is None:
            raise DataError("CLIPScore needs the images: give their paths as images=[...]")
        return dict(score_captions_with_images(self._encoder, images, predictions, references)[0])
