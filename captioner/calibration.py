"""Fits a captioner's confidence to a split of a prepared dataset."""

import logging
from dataclasses import replace

from datasets import DatasetDict

from captioner.api import Captioner
from captioner.confidence import Calibration
from captioner.data.encoded_images import EncodedImages
from captioner.decoding.describe import describe_decoding
from captioner.errors import DataError
from captioner.evaluation.acceptance import DEFINITION, accepts, human_level
from captioner.evaluation.caption_metrics import score_captions
from captioner.scoring import caption_rows, select_rows

logger = logging.getLogger(__name__)


def calibrate(captioner: Captioner, dataset: DatasetDict, split: str = "validation") -> Calibration:
    """Fit the confidence of a captioner's own decoding settings, and give it to the captioner.

    Args:
        captioner: what to calibrate.
        dataset: a prepared dataset.
        split: one of its splits, which neither training nor testing should use.

    Raises:
        DataError: there is no such split, or none of its images has two captions.
    """
    rows, decoding = select_rows(dataset, split), captioner.settings.decoding
    references = [list(texts) for texts in rows["captions"]]
    level = human_level(references)
    candidates = decoding.samples or decoding.beams
    found = caption_rows(
        captioner, EncodedImages(rows), decoding, title=f"calibrating on {split}", candidates=candidates
    )
    images = found if candidates > 1 else [[caption] for caption in found]
    scores = score_captions([captions[0].text for captions in images], references, metrics=["CIDEr-D"])
    accepted = accepts(scores.images["CIDEr-D"], [captions[0].truncated for captions in images], level)
    origin = {
        "definition": DEFINITION,
        "human_level": level,
        "dataset": captioner.settings.data.name,
        "split": split,
        "images": len(images),
        "accepted": sum(accepted) / len(accepted),
        "decoding": describe_decoding(replace(decoding, precision="auto")),
    }
    captioner.calibration = Calibration.fit(images, accepted, origin)
    return captioner.calibration


def calibrate_if_possible(captioner: Captioner, dataset: DatasetDict) -> None:
    """Calibrate on the validation split; where its images have one caption each, say that confidence stays as it is."""
    try:
        calibrate(captioner, dataset)
    except DataError as error:
        logger.warning("Confidence is not calibrated: %s", error)
