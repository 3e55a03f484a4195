"""Where the decoder looked for each word of a caption: its cross-attention, laid over the photo."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from captioner.errors import ConfigError
from captioner.evaluation.example_sheet import draw_captioned
from captioner.models.decoder import TransformerDecoder

DIMMED = 0.15
"""How bright the photo stays where the decoder did not look."""
COLUMNS = 4


@dataclass(frozen=True)
class Explanation:
    """A caption's words and where the decoder looked for them."""

    image: Image.Image
    text: str
    words: tuple[str, ...]
    attention: np.ndarray
    """Attention to every patch of the encoder's grid [words, rows, columns], averaged over heads and layers.

    A word's sum is 1, less what went to tokens that are no patches, such as a class token.
    """
    box: tuple[float, float, float, float]
    """Left, top, right and bottom of what the grid covers of the image, in pixels: preprocessing may cut edges off."""

    def heatmaps(self) -> np.ndarray:
        """The attention at every pixel of the image [words, height, width], each word's largest value 1."""
        width, height = self.image.size
        left, top, right, bottom = (round(side) for side in self.box)
        maps = np.zeros((len(self.words), height, width), dtype=np.float32)
        for word, grid in enumerate(self.attention):
            spread = Image.fromarray(grid.astype(np.float32)).resize(
                (right - left, bottom - top), Image.Resampling.BICUBIC
            )
            maps[word, top:bottom, left:right] = np.asarray(spread).clip(min=0)
        return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)

    def draw(self, path: str | Path) -> None:
        """Write a PNG with the captioned photo and a panel a word, bright where the decoder looked.

        Raises DataError where it cannot be written.
        """
        dark = self.image.point(lambda value: round(value * DIMMED))
        masks = [Image.fromarray((heat * 255).astype(np.uint8)) for heat in self.heatmaps()]
        panels = [Image.composite(self.image, dark, mask) for mask in masks]
        draw_captioned([self.image, *panels], [self.text, *self.words], path, columns=COLUMNS)


def look(
    decoder: TransformerDecoder,
    memory: Tensor,
    tokens: Sequence[int],
    *,
    start: int,
    layers: Sequence[int] | None = None,
) -> Tensor:
    """Attention of each token to each image token [tokens, patches], averaged over heads and layers.

    Args:
        decoder: the decoder as it is trained.
        memory: projected image tokens of one image [1, patches, width].
        tokens: the caption's, without start and end.
        start: id of the start token.
        layers: which layers, from 0; negative ones count from the last; None for all.

    Raises:
        ConfigError: the decoder has no such layer.
    """
    count = len(decoder.blocks)
    wrong = [layer for layer in layers or () if not -count <= layer < count]
    if wrong:
        raise ConfigError(f"the decoder has no layer {wrong[0]}; its {count} layers are 0 to {count - 1}")
    said = torch.tensor([[start, *tokens[:-1]]], device=memory.device)
    weights = decoder.cross_attention(said, memory)[:, 0]  # [layers, heads, tokens, patches]
    return weights[list(range(count) if layers is None else layers)].mean(dim=(0, 1))


def merge_pieces(
    attention: np.ndarray, tokens: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """The words of a caption and the mean attention of the tokens that each was written with [words, patches].

    A token belongs to the word that the text up to it ends with; tokens that write nothing belong to the next word.

    Args:
        attention: of each token [tokens, patches].
        tokens: the caption's.
        decode: gives the text of tokens.
    """
    words = tuple(decode(tokens).split())
    if not words:
        return (), attention[:0]
    texts = [decode(tokens[:place]) for place in range(len(tokens) + 1)]
    owners = np.full(len(tokens), len(words) - 1)
    for place in reversed(range(len(tokens))):
        if texts[place + 1] != texts[place]:
            owners[: place + 1] = min(len(texts[place + 1].split()), len(words)) - 1
    mine = (attention[owners == word] for word in range(len(words)))
    return words, np.stack([rows.mean(axis=0) if len(rows) else np.zeros_like(attention[0]) for rows in mine])


def on_grid(attention: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Attention [words, tokens] on the patch grid [words, rows, columns]; tokens before the patches are left out."""
    rows, columns = grid
    return attention[:, attention.shape[1] - rows * columns :].reshape(-1, rows, columns)
