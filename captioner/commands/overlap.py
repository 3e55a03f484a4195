"""Whether a captioner is evaluated on images that it was trained on; where nobody can know, that is refused too."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.errors import DataError

if TYPE_CHECKING:
    from captioner.api import Captioner
    from captioner.data.training_images import TrainingImages
    from captioner.evaluation.references import ReferenceSet


def count_overlap(
    captioner: "Captioner", references: "ReferenceSet", folders: Iterable[Path], *, allow: bool
) -> int | str:
    """Return how many of the evaluated images the training saw, or why that is not known.

    Arguments:
        captioner: with its list of training images, or without one.
        references: of the evaluated images.
        folders: where the dataset that it was trained on may be, for a captioner without a list.
        allow: evaluate on images of the training, or on those of which nobody knows.

    Raises DataError for what is not allowed.
    """
    from captioner.data.training_images import STREAM, refuse_overlap

    name = captioner.settings.data.name
    trained = captioner.training_images or _read_training_images(name, folders)
    of = {"dataset": references.dataset, "fingerprint": references.fingerprint}
    problem, more = "the export has no list of its training images", f", and its dataset {name} is not here"
    if trained:
        if not allow:
            refuse_overlap(trained, references.image_ids, split=references.split, **of)
        found = len(trained.shared(references.image_ids, **of))
        if trained.complete:
            return found
        problem, more = f"the captioner was trained on {STREAM}, whose images nobody listed", ""
    if not allow:
        raise DataError(
            f"{problem}{more}: nobody knows whether it saw split {references.split} of "
            f"{references.dataset}; give --allow-overlap to evaluate on it all the same"
        )
    return f"{found} known, others not checked: {problem}" if trained else f"not checked: {problem}"


def _read_training_images(name: str, folders: Iterable[Path]) -> "TrainingImages | None":
    """Those of the first folder with a dataset of that name."""
    from captioner.data.prepared import open_prepared, read_manifest
    from captioner.data.training_images import TrainingImages

    home = next((folder for folder in folders if folder.is_dir() and folder.resolve().name == name), None)
    if home is None:
        return None
    names, fingerprint = open_prepared(home)["train"]["image_id"], read_manifest(home)["fingerprint"]
    return TrainingImages.of(names, dataset=name, fingerprint=fingerprint)
