"""Captioner: a model with its tokenizer, image processor and decoding, for use from Python."""

import copy
import http.client
import itertools
import tempfile
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from PIL.Image import Image
from torch import Tensor

from captioner.confidence import Calibration, estimate_confidences
from captioner.data.images import open_image
from captioner.data.tokenizer import CaptionTokenizer
from captioner.data.training_images import TrainingImages
from captioner.decoding.describe import describe_decoding
from captioner.decoding.generation import generate_each, pack_decoder, stream_tokens
from captioner.decoding.hypotheses import Hypothesis, Phrases, SpecialTokens
from captioner.decoding.requests import resolve_decoding
from captioner.errors import HubError, ImageError
from captioner.export_folder import ExportParts, publishable_metrics, publishable_settings
from captioner.export_reading import find_export, read_export
from captioner.export_writing import write_export
from captioner.hub import upload
from captioner.models.captioner import CaptionerModel
from captioner.models.image_processors import ImageProcessor
from captioner.models.packed_decoder import PackedDecoder
from captioner.models.packed_weights import PRECISIONS
from captioner.settings import DecodingSettings, Settings

if TYPE_CHECKING:
    from captioner.explain import Explanation


@dataclass(frozen=True)
class Caption:
    """What the model says of an image."""

    text: str
    confidence: float
    """In [0, 1]: the probability that a person would accept the caption, where the captioner is calibrated.

    Else the geometric mean of the tokens' probabilities. 0 where the maximum length cut the caption off. What is
    accepted: ``captioner.evaluation.acceptance``; how far it can be trusted: ``Captioner.calibration_mismatch``.
    """
    score: float
    """Log-probability divided by length to the power of the length penalty."""
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...] = ()
    """Of every token, the end token's last, if the caption has one."""
    truncated: bool = False
    """Whether the caption hit the maximum length before its end."""
    forced: int = 0
    """How many of the first tokens are the prefix's, which say nothing of the confidence."""


class Captioner(ModelHubMixin, library_name="captioner", tags=["image-to-text", "image-captioning"]):
    """A captioner that is ready to use, save and share."""

    def __init__(
        self,
        model: CaptionerModel,
        tokenizer: CaptionTokenizer,
        processor: ImageProcessor,
        settings: Settings,
        metrics: dict[str, Any] | None = None,
        calibration: Calibration | None = None,
        training_images: TrainingImages | None = None,
    ) -> None:
        """Put the parts together; the model, which has its encoder, is put into evaluation mode."""
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor
        self.settings, self.metrics, self.calibration = settings, metrics or {}, calibration
        self.training_images = training_images
        self._packed_decoder, self._packed_state = None, None

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
        candidates: int = 1,
        decoding: DecodingSettings | None = None,
        **changes: Any,
    ) -> Any:
        """Caption one image or several.

        Args:
            images: a path, URL, PIL image, NumPy array [height, width, 3] or the bytes of an image file; or a list of
                them.
            candidates: number of captions an image.
            decoding: all decoding settings, instead of the captioner's own.
            changes: single decoding settings that go over those, such as ``beams=5`` or ``samples=3, top_p=0.9``.

        Returns:
            A Caption for one image, a list of them for a list; with ``candidates`` above 1, a list of Captions, best
            first, in each one's place.

        Raises:
            ImageError: an image cannot be read.
            ConfigError: the decoding settings are wrong, or give no such number of candidates.
        """
        several = isinstance(images, list | tuple)
        decoding = resolve_decoding(self.settings, decoding, candidates, changes)
        found = dict(self._caption_each(images if several else [images], candidates, decoding, listed=several))
        return [found[place] for place in range(len(found))] if several else found[0]

    def caption_each(
        self,
        images: Iterable[Any],
        *,
        candidates: int = 1,
        decoding: DecodingSettings | None = None,
        **changes: Any,
    ) -> Iterator[tuple[int, Any]]:
        """Caption any number of images; yields the place of each, from 0, and its caption as soon as that is found.

        They come about in their order, but not exactly: an image whose caption is finished makes room for a waiting
        one. ``batch_size`` images are taken and opened at a time. Arguments and errors are those of ``caption``.
        """
        decoding = resolve_decoding(self.settings, decoding, candidates, changes)
        return self._caption_each(images, candidates, decoding, listed=True)

    def stream(self, image: Any, *, decoding: DecodingSettings | None = None, **changes: Any) -> Iterator[str]:
        """Yield the caption of one image as it grows, each time from its beginning, for an interface.

        A text is yielded when it is sure to stay: with one beam or sample at every token, with several once all of them
        agree. Arguments and errors are those of ``caption``; the last text is that of its caption.
        """
        decoding = resolve_decoding(self.settings, decoding, 1, changes)
        memories = (self._remember(images) for images in self._open_batches([image], 1, listed=False))
        arguments = (decoding, SpecialTokens.of(self.tokenizer), Phrases.of(decoding, self.tokenizer))
        for tokens in stream_tokens(self._packed(decoding), memories, *arguments):
            yield self._text(tokens)

    def explain(
        self, image: Any, caption: Caption | None = None, *, layers: Sequence[int] | None = None
    ) -> "Explanation":
        """Where the decoder looks for each word of a caption.

        Args:
            image: a path, URL, PIL image, array or bytes, as for ``caption``.
            caption: what is said of it; None for the captioner's own caption.
            layers: decoder layers whose attention is averaged, from 0; negative ones count from the last; None for all.

        Raises:
            ImageError: the image cannot be read.
            ConfigError: the decoder has no such layer.
        """
        from captioner.explain import Explanation, look, merge_pieces, on_grid

        opened = _open(image, None)
        tokens = (caption or self.caption(opened)).tokens
        memory = self._remember([opened])
        found = look(self.model.decoder, memory, tokens, start=self.tokenizer.start_id, layers=layers)
        words, attention = merge_pieces(found.float().cpu().numpy(), tokens, self._text)
        maps = on_grid(attention, self.model.encoder.grid)
        return Explanation(opened, self._text(tokens), words, maps, self.processor.covered_box(*opened.size))

    def spell(self, caption: Caption) -> list[str]:
        """The text of each of a caption's tokens, a space before those that begin a word; the end token's is a name.

        They go with its ``log_probabilities``.
        """
        return self.tokenizer.pieces([*caption.tokens, *([] if caption.truncated else [self.tokenizer.end_id])])

    def calibration_mismatch(
        self, *, candidates: int = 1, decoding: DecodingSettings | None = None, **changes: Any
    ) -> str | None:
        """The decoding that confidence was fitted to, in words, if captions decoded in another way may make it wrong.

        None where it is the same but for what does not matter, the longest length and the precision, and where nothing
        was fitted. Arguments and errors are those of ``caption``.
        """
        fitted = self.calibration.origin.get("decoding") if self.calibration else None
        own, found = self.settings.decoding, resolve_decoding(self.settings, decoding, candidates, changes)
        same = replace(found, max_length=own.max_length)
        alike = (describe_decoding(replace(same, precision=one)) for one in ("auto", *PRECISIONS))  # older ones name it
        return None if fitted in alike else fitted

    def _caption_each(
        self, sources: Iterable[Any], candidates: int, decoding: DecodingSettings, *, listed: bool
    ) -> Iterator[tuple[int, Any]]:
        batches = self._open_batches(sources, decoding.batch_size, listed=listed)
        for place, hypotheses in self._decode(batches, decoding):
            captions = self._captions(hypotheses)[:candidates]
            yield place, captions[0] if candidates == 1 else captions

    @staticmethod
    def _open_batches(sources: Iterable[Any], size: int, *, listed: bool) -> Iterator[list[Image]]:
        """Opened images; each batch only when it is asked for: large photos would fill the memory."""
        opened = (
            _open(source, f"image {number} of the list" if listed else None)
            for number, source in enumerate(sources, start=1)
        )
        while batch := list(itertools.islice(opened, size)):
            yield batch

    def _decode(
        self, batches: Iterable[Sequence[Image]], decoding: DecodingSettings
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        memories = (self._remember(images) for images in batches)
        arguments = (decoding, SpecialTokens.of(self.tokenizer), Phrases.of(decoding, self.tokenizer))
        return generate_each(self._packed(decoding), memories, *arguments)

    @torch.inference_mode()
    def _remember(self, images: Sequence[Image]) -> Tensor:
        return self.model.remember(self.processor(images).to(self.device))

    def _packed(self, decoding: DecodingSettings) -> PackedDecoder:
        """The decoder ready for generation, packed anew where its weights or the precision have changed."""
        weights = [(parameter.data_ptr(), parameter._version) for parameter in self.model.decoder.parameters()]
        state = (decoding.precision, weights)
        if self._packed_state != state:
            self._packed_decoder, self._packed_state = pack_decoder(self.model.decoder, decoding), state
        return self._packed_decoder

    def _text(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, capitalise=self.settings.tokenizer.capitalise)

    def _captions(self, hypotheses: Sequence[Hypothesis]) -> list[Caption]:
        """All that decoding found for an image, as captions."""
        confidences = estimate_confidences(hypotheses, self.calibration)
        return [
            Caption(self._text(one.tokens), confidence, **vars(one))
            for one, confidence in zip(hypotheses, confidences, strict=True)
        ]

    def _parts(self) -> ExportParts:
        return ExportParts(
            self.model,
            self.tokenizer,
            self.processor,
            self.settings,
            self.metrics,
            self.calibration,
            self.training_images,
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
        return cls(
            parts.model,
            parts.tokenizer,
            parts.processor,
            parts.settings,
            parts.metrics,
            parts.calibration,
            parts.training_images,
        )

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the export, without any path of this machine; returns the address of its commit.

        Args:
            repo_id: a repository such as ``me/captioner``; created where it is missing.
            options: ``private``, ``token``, ``commit_message``, ``branch``, ``create_pr``.

        Raises:
            HubError: the Hub could not be reached, or refused the token or the name.
        """
        shared = copy.copy(self)
        shared.settings = publishable_settings(self.settings, repo_id)
        shared.metrics = publishable_metrics(self.metrics)
        try:
            with tempfile.TemporaryDirectory() as folder:
                shared.save_pretrained(folder)
                return upload(Path(folder), repo_id, **options)
        except OSError as error:
            raise HubError(f"{repo_id} was not uploaded: {error.strerror or error}") from error


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
