"""CLIPScore and RefCLIPScore, from embeddings of images and texts (Hessel et al., 2021, https://arxiv.org/abs/2104.08718).

The published values are those of ``openai/clip-vit-base-patch32``; another dual encoder's are on a scale of their own.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch
from numpy.typing import NDArray

from captioner.data.images import open_image
from captioner.errors import ConfigError
from captioner.evaluation.caption_metrics import ScoredMetric
from captioner.models.encoder_files import in_one_line

Embeddings = NDArray[numpy.floating]
Item = TypeVar("Item")

SCALE = 2.5
PROMPT = "A photo depicts "
"""What the paper puts before every caption and reference."""


def clip_score(images: Embeddings, captions: Embeddings) -> NDArray[numpy.float64]:
    """Return CLIPScore of each caption: 2.5 times the cosine with its image, at least 0.

    images, captions: embeddings [captions, width] of any length.
    """
    return SCALE * numpy.maximum(0, _cosines(images, captions))


def ref_clip_score(
    images: Embeddings, captions: Embeddings, references: Sequence[Embeddings]
) -> NDArray[numpy.float64]:
    """Return RefCLIPScore: the harmonic mean of CLIPScore and the best cosine with a reference, at least 0.

    images, captions: embeddings [captions, width].
    references: of each image, the embeddings of its references [references, width], at least one.
    """
    first = clip_score(images, captions)
    best = [max(0.0, _cosines(group, caption[None]).max()) for group, caption in zip(references, captions, strict=True)]
    second = numpy.array(best)
    total = first + second
    return numpy.divide(2 * first * second, total, out=numpy.zeros_like(total), where=total > 0)


class DualEncoder:
    """A CLIP-like model of transformers that embeds images and texts in one space."""

    def __init__(self, name: str, *, revision: str = "", device: str = "cpu", batch_size: int = 64) -> None:
        """Load a dual encoder.

        Args:
            name: local folder or Hub id; its weights must be safetensors.
            revision: Hub branch, tag or commit; empty: the repository's default.
            device: where it runs.
            batch_size: images or texts embedded together.

        Raises:
            ConfigError: there is no such model, or it has no image and text towers.
        """
        self.label = Path(name).name if Path(name).is_dir() else f"{name} {revision}".strip()
        """What results call it: a Hub id, or the name of its folder."""
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        origin: dict[str, Any] = {"revision": revision} if revision else {}
        try:
            model = AutoModel.from_pretrained(name, use_safetensors=True, **origin)
            self._tokenizer = AutoTokenizer.from_pretrained(name, **origin)
            self._processor = AutoImageProcessor.from_pretrained(name, backend="pil", **origin)
        except (OSError, ValueError) as error:
            raise ConfigError(f"dual encoder {name}: cannot be loaded ({in_one_line(error)})") from error
        if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
            raise ConfigError(f"dual encoder {name}: a {model.config.model_type} embeds no texts; use one such as CLIP")
        self._model, self._device, self._batch_size = model.eval().to(device), device, batch_size

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Any]) -> Embeddings:
        """Return the embeddings [images, width] of images: paths, PIL images or what else ``open_image`` takes."""
        features = []
        for batch in _batches(images, self._batch_size):
            pixels = self._processor([open_image(image) for image in batch], return_tensors="pt")
            features.append(self._model.get_image_features(**pixels.to(self._device)))
        return _join(features)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], *, prompt: str = PROMPT) -> Embeddings:
        """Return the embeddings [texts, width] of texts, ``prompt`` put before each."""
        features = []
        limit = self._model.config.text_config.max_position_embeddings
        for batch in _batches(texts, self._batch_size):
            # SigLIP learnt from texts of full length, CLIP sees no padding whatever its length.
            padding = "max_length" if "siglip" in self._model.config.model_type else True
            tokens = self._tokenizer(
                [prompt + text for text in batch],
                padding=padding,
                truncation=True,
                max_length=limit,
                return_tensors="pt",
            )
            features.append(self._model.get_text_features(**tokens.to(self._device)))
        return _join(features)


def score_captions_with_images(
    encoder: DualEncoder, images: Sequence[Any], captions: Sequence[str], references: Sequence[Sequence[str]]
) -> ScoredMetric:
    """Return CLIPScore and RefCLIPScore of untokenized captions; all arguments have one entry an image."""
    seen, written = encoder.embed_images(images), encoder.embed_texts(captions)
    flat = encoder.embed_texts([text for group in references for text in group])
    ends = numpy.cumsum([len(group) for group in references])
    groups = numpy.split(flat, ends[:-1])
    scores = {"CLIPScore": clip_score(seen, written), "RefCLIPScore": ref_clip_score(seen, written, groups)}
    return {name: float(values.mean()) for name, values in scores.items()}, {
        name: values.tolist() for name, values in scores.items()
    }


def _cosines(first: Embeddings, second: Embeddings) -> NDArray[numpy.float64]:
    first, second = first.astype(numpy.float64), second.astype(numpy.float64)
    products = (first * second).sum(axis=-1)
    return products / (numpy.linalg.norm(first, axis=-1) * numpy.linalg.norm(second, axis=-1))


def _batches(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield [items[row] for row in range(start, min(start + size, len(items)))]


def _join(features: list[Any]) -> Embeddings:
    # transformers gives tensors or, in newer versions, outputs that hold them.
    tensors = [getattr(feature, "pooler_output", feature) for feature in features]
    return torch.cat(tensors).float().cpu().numpy()
