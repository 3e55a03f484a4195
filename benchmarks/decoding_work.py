"""The work of ``benchmarks.decoding``: a decoder whose captions end by themselves, and the image tokens of photos."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from captioner.api import Captioner
from captioner.data.encoded_images import EncodedImages
from captioner.data.images import open_image
from captioner.data.prepared import open_prepared
from captioner.decoding.hypotheses import SpecialTokens
from captioner.models.decoder import TransformerDecoder
from captioner.progress import Progress
from captioner.settings import DecoderSettings

ENCODED_TOGETHER = 32
SYNTHETIC = DecoderSettings(width=512, layers=6, heads=8, feedforward=4, dropout=0.0, max_length=64)
VOCABULARY, PATCHES = 8192, 49


@dataclass(frozen=True)
class Work:
    """What every system is given."""

    decoder: TransformerDecoder
    memory: Tensor
    """Projected image tokens [images, patches, width]."""
    special: SpecialTokens
    source: str


def photos_work(model: str, *, data: str, split: str, images: int, features: str | None) -> Work:
    """A trained captioner and the photos of a split; their image tokens are kept in the file ``features``."""
    captioner = Captioner.from_pretrained(model)
    path = Path(features) if features else None
    if path and path.exists():
        memory = load_file(path)["memory"][:images]
    else:
        rows = open_prepared(Path(data))[split]
        memory = encode(captioner, EncodedImages(rows.select(range(min(images, len(rows))))))
        if path:
            save_file({"memory": memory}, path)
    special = SpecialTokens.of(captioner.tokenizer)
    return Work(captioner.model.decoder, memory, special, f"{len(memory)} images of {split}, decoder of {model}")


@torch.inference_mode()
def encode(captioner: Captioner, images: EncodedImages) -> Tensor:
    """Projected image tokens of images."""
    parts = []
    with Progress("encoding photos", total=len(images), unit="images") as progress:
        for place in range(0, len(images), ENCODED_TOGETHER):
            batch = [open_image(images[row]) for row in range(place, min(place + ENCODED_TOGETHER, len(images)))]
            parts.append(captioner.model.remember(captioner.processor(batch)))
            progress.advance(len(batch))
    return torch.cat(parts).contiguous().clone()


def synthetic_work(images: int, *, steps: int) -> Work:
    """A decoder trained for a moment on made-up sentences, so that its captions have the lengths of real ones."""
    torch.manual_seed(0)
    special = SpecialTokens(start=1, end=2, pad=0, unknown=3)
    decoder = TransformerDecoder(SYNTHETIC, vocabulary_size=VOCABULARY)
    optimiser = torch.optim.AdamW(decoder.parameters(), lr=1e-3)
    with Progress("training a decoder", total=steps, unit="steps") as progress:
        for _ in range(steps):
            memory = torch.randn(16, PATCHES, SYNTHETIC.width)
            tokens = draw_sentences(memory, special)
            logits = decoder(tokens[:, :-1], memory)
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=special.pad)
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            progress.advance(1)
    memory = torch.randn(images, PATCHES, SYNTHETIC.width)
    return Work(decoder.eval(), memory, special, f"{images} made-up images, decoder trained for {steps} steps")


def draw_sentences(memory: Tensor, special: SpecialTokens) -> Tensor:
    """Sentences of about ten words, common ones first, padded [images, length]."""
    images = len(memory)
    lengths = torch.poisson(torch.full((images,), 7.0)).long().clamp(max=17) + 4
    words = 4 + (torch.rand(images, 22).pow(6) * (VOCABULARY - 4)).long()
    places = torch.arange(22)
    words[:, 0] = special.start
    words[places == lengths[:, None]] = special.end
    return words.masked_fill(places > lengths[:, None], special.pad)
