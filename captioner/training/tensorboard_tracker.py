"""TensorBoard: curves, settings, and sample captions with their images, in the run's folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

FOLDER = "tensorboard"


class TensorBoardTracker:
    """Event files under ``<run>/tensorboard/``; ``tensorboard --logdir checkpoints`` shows all runs."""

    def __init__(
        self, run: Path, *, config: dict[str, Any], resume_step: int = 0, pictures: Sequence[Image] = ()
    ) -> None:
        """Begin to track.

        Args:
            run: the run's folder.
            config: the run's settings.
            resume_step: the step that the run goes on from; what was logged after it is hidden.
            pictures: the images of a validation's sample captions.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._pictures = pictures
        self._writer = SummaryWriter(str(run / FOLDER), purge_step=resume_step + 1 if resume_step else None)
        self._writer.add_text("settings", f"```json\n{json.dumps(config, indent=2)}\n```", resume_step)

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Record the metrics that are numbers, and the sample captions."""
        for key, value in metrics.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(key, value, step)
            elif isinstance(value, list):
                self._writer.add_text(key, "\n\n".join(map(str, value)), step)
                for place, (picture, _) in enumerate(zip(self._pictures, value, strict=False)):
                    pixels = np.asarray(picture.convert("RGB"))
                    self._writer.add_image(f"{key}/{place}", pixels, step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Write out what is pending."""
        self._writer.close()
