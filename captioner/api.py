"""Captioner: a model with its tokenizer, image processor and decoding, for use from Python."""

import copy
import http.client
import math
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin, get_token
from PIL.Image import Image

from captioner.data.images import open_image
from captioner.data.tokenizer import CaptionTokenizer
from captioner.data.training_images import TrainingImages
from captioner.decoding import Hypothesis, SpecialTokens, generate
from captioner.errors import ConfigError, HubError, ImageError
from captioner.export_folder import (
    HUB_ERRORS,
    ExportParts,
    find_export,
    hub_reason,
    publishable_settings,
    read_export,
    write_export,
)
from captioner.models.captioner import CaptionerModel
from captioner.models.image_processors import ImageProcessor
from captioner.settings import DecodingSettings, Settings


@dataclass(frozen=True)
class Caption:
    """What the model says of an image."""

    text: str
    confidence: float
    """Geometric mean of the tokens' probabilities, in [0, 1]; not calibrated."""
    score: float
    """Log-probability divided by length to the power of the length penalty."""
    tokens: tuple[int, ...]
    truncated: bool = False
    """Whether the caption hit the maximum length before its end."""


class Captioner(ModelHubMixin, library_name="captioner", tags=["image-to-text", "image-captioning"]):
    """A captioner that is ready to use, save and share."""

    def __init__(
        self,
        model: CaptionerModel,
        tokenizer: CaptionTokenizer,
        processor: ImageProcessor,
        settings: Settings,
        metrics: dict[str, Any] | None = None,
        training_images: TrainingImages | None = None,
    ) -> None:
        """Put the parts together; the model, which has its encoder, is put into evaluation mode."""
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor
        self.settings, self.metrics, self.training_images = settings, metrics or {}, training_images

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def to(self, device: str | torch.device) -> "Captioner":
        """Move the model; returns the captioner itself."""
        self.model.to(device)
        return self

    def caption(
        self,
        images: Any,
        *,
        beams: int | None = None,
        candidates: int = 1,
        batch_size: int | None = None,
        decoding: DecodingSettings | None = None,
    ) -> Any:
        """Caption one image or several.

        Args:
            images: a path, URL, PIL image, NumPy array [height, width, 3] or the bytes of an image file; or a list of
                them.
            beams: width of the beam, instead of the captioner's own setting.
            candidates: number of captions an image.
            batch_size: images decoded together, instead of the captioner's own setting.
            decoding: all decoding settings, instead of the captioner's own.

        Returns:
            A Caption for one image, a list of them for a list; with ``candidates`` above 1, a list of Captions, best
            first, in each one's place.

        Raises:
            ImageError: an image cannot be read.
            ConfigError: the decoding settings are wrong, or give no such number of candidates.
        """
        several = isinstance(images, list | tuple)
        sources = list(images) if several else [images]
        names = [f"image {place} of the list" if several else None for place in range(1, len(sources) + 1)]
        decoding = self._decoding(decoding or self.settings.decoding, beams, candidates, batch_size)
        found: list[Any] = []
        for place in range(0, len(sources), decoding.batch_size):
            batch = slice(place, place + decoding.batch_size)  # opened only now: large photos would fill the memory
            for hypotheses in self._decode(list(map(_open, sources[batch], names[batch])), decoding):
                captions = [self._caption(hypothesis) for hypothesis in hypotheses[:candidates]]
                found.append(captions[0] if candidates == 1 else captions)
        return found if several else found[0]

    def _decoding(
        self, decoding: DecodingSettings, beams: int | None, candidates: int, batch_size: int | None
    ) -> DecodingSettings:
        changes = {"beams": beams, "batch_size": batch_size}
        decoding = replace(decoding, **{name: value for name, value in changes.items() if value is not None})
        if candidates < 1:
            raise ConfigError(f"candidates={candidates} is not a number of captions; use 1 or more")
        replace(self.settings, decoding=decoding).check()
        if beams is None and candidates > decoding.beams:
            decoding = replace(decoding, beams=candidates)
        if candidates > decoding.beams:
            raise ConfigError(
                f"{decoding.beams} beams cannot give {candidates} candidates; use beams={candidates} or more"
            )
        return decoding

    def _decode(self, images: Sequence[Image], decoding: DecodingSettings) -> list[list[Hypothesis]]:
        with torch.inference_mode():
            memory = self.model.remember(self.processor(images).to(self.device))
        tokenizer = self.tokenizer
        special = SpecialTokens(tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.unknown_id)
        return generate(self.model.decoder, memory, decoding, special)

    def _caption(self, hypothesis: Hypothesis) -> Caption:
        text = self.tokenizer.decode(hypothesis.tokens, capitalise=self.settings.tokenizer.capitalise)
        values = hypothesis.log_probabilities
        confidence = math.exp(sum(values) / len(values))
        return Caption(text, confidence, hypothesis.score, hypothesis.tokens, hypothesis.truncated)

    def _parts(self) -> ExportParts:
        return ExportParts(
            self.model, self.tokenizer, self.processor, self.settings, self.metrics, self.training_images
        )

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the export into an existing folder; called by the mixin's ``save_pretrained``."""
        write_export(self._parts(), save_directory)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card, made from the real settings and metrics; the mixin's template arguments are not used."""
        return self._parts().card()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> "Captioner":
        """Load an export from a folder or a Hub repository.

        Args:
            pretrained_model_name_or_path: a folder such as ``checkpoints/scenes/best``, or a Hub id such as
                ``me/captioner``.
            options: ``revision``, ``token``, ``cache_dir``, ``force_download``, ``local_files_only`` for the Hub.

        Raises:
            CheckpointError: there is no whole export of this version.
            HubError: the Hub could not be reached or has no such repository.
        """
        parts = read_export(find_export(pretrained_model_name_or_path, **options))
        return cls(parts.model, parts.tokenizer, parts.processor, parts.settings, parts.metrics, parts.training_images)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the export, without any path of this machine; returns the address of its commit.

        Args:
            repo_id: a repository such as ``me/captioner``; created where it is missing.
            options: ``private``, ``token``, ``commit_message``, ``branch``, ``create_pr``.

        Raises:
            HubError: the Hub could not be reached, or refused the token or the name.
        """
        if not (options.get("token") or get_token()):
            raise HubError(f"{repo_id} was not uploaded: not logged in to the Hub; run `hf auth login` or set HF_TOKEN")
        shared = copy.copy(self)
        shared.settings = publishable_settings(self.settings, repo_id)
        try:
            return str(ModelHubMixin.push_to_hub(shared, repo_id, **options))
        except HUB_ERRORS as error:
            raise HubError(f"{repo_id} was not uploaded: {hub_reason(error)}") from error


def _open(source: Any, name: str | None) -> Image:
    """Open an image; an error calls it by its path or URL, else by the given name."""
    return open_image(_fetch(source), name=str(source) if isinstance(source, str | Path) else name)


def _fetch(image: Any) -> Any:
    """The bytes behind a URL; anything else as it is."""
    if not (isinstance(image, str) and image.startswith(("http://", "https://"))):
        return image
    try:
        with urllib.request.urlopen(image, timeout=30) as response:
            return response.read()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImageError(f"{image}: cannot be fetched ({error}); download it and give the file") from error
