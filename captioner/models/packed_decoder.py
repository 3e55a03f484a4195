"""The decoder made ready for generation: one new token a row and step, over caches that never move.

An image is captioned in a *slot*, which holds its beams. A slot keeps the keys and values of every token that any of
its beams was ever given, in columns; which of them a beam's caption is made of stands in a mask. So beams change places
by their rows of the mask, not by their keys and values, and they attend together, as the queries of one product. Slots
are taken and left at any step, each at its own length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from captioner.models.decoder import DecoderBlock, TransformerDecoder, rotate
from captioner.models.packed_weights import PRECISIONS, Affine, PackedNorm, as_panels, pack, side_by_side

VOCABULARY_MULTIPLE = 64
"""The logits' number is a multiple of this; those beyond the vocabulary are minus infinity."""


class SlotCache:
    """Keys and values of all slots, of which those in use stand in front."""

    def __init__(
        self, layers: int, heads: int, head: int, *, slots: int, beams: int, columns: int, patches: int, like: Tensor
    ) -> None:
        """Empty slots, of the type and on the device of the tensor ``like``."""
        self.beams = beams
        self.cross_keys = like.new_empty(layers, slots, heads, patches, head)
        self.cross_values = like.new_empty(layers, slots, heads, patches, head)
        self.self_pairs = like.new_zeros(layers, slots, heads, 2, columns, head)
        """Keys and values."""
        self.mask = like.new_full((slots, beams, columns), -torch.inf)
        """0 where a column belongs to the beam's caption, else minus infinity."""

    def follow(self, origins: Tensor) -> None:
        """Let every beam go on from what another of its slot has seen: ``origins`` [slots in use, beams]."""
        used = self.mask[: len(origins)]
        used.copy_(used.gather(1, origins[:, :, None].expand_as(used)))

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy slots over others."""
        for tensor in (self.cross_keys, self.cross_values, self.self_pairs):
            tensor[:, targets] = tensor[:, sources]
        self.mask[targets] = self.mask[sources]

    def fill(self, slots: list[int], cross_keys: Tensor, cross_values: Tensor) -> None:
        """Put new images, of which nothing is said yet, into slots."""
        self.cross_keys[:, slots], self.cross_values[:, slots] = cross_keys, cross_values
        self.mask[slots] = -torch.inf


@dataclass(frozen=True)
class Step:
    """What all layers of a step share."""

    positions: Tensor
    """Places of the newest tokens in their captions [slots, beams]."""
    columns: Tensor
    """Columns of the cache that they take [slots, beams]."""
    slots: Tensor
    """Numbers of the slots [slots, 1]."""
    mask: Tensor
    """The columns in use [slots, 1, beams, columns]: 0 where a beam's caption holds them, else minus infinity."""
    first: int | None
    """The first of the newest tokens' columns, if all slots have the same."""

    def put(self, new: Tensor, pairs: Tensor) -> None:
        """Put keys and values ``new`` [2, slots, beams, heads, head] into [slots, heads, 2, columns, head]."""
        if self.first is None:
            pairs[self.slots, :, :, self.columns] = new.permute(1, 2, 3, 0, 4)
        else:
            pairs.narrow(3, self.first, new.shape[2]).copy_(new.permute(1, 3, 0, 2, 4))


@dataclass(frozen=True)
class PackedBlock:
    """A decoder block's norms and packed matrices; queries, keys and values are panels."""

    self_norm: Affine
    query_key_value: Affine
    self_output: Affine
    cross_norm: Affine
    cross_query: Affine
    cross_output: Affine
    feedforward_norm: Affine
    widen: Affine
    narrow: Affine

    @classmethod
    def of(cls, block: DecoderBlock, precision: str) -> "PackedBlock":
        """Pack a block; its weights are copied."""
        own, cross = block.self_attention, block.cross_attention
        width = cross.query.in_features
        return cls(
            self_norm=PackedNorm(block.self_norm, precision),
            query_key_value=pack(own.query_key_value, precision, panel=width),
            self_output=pack(own.output, precision),
            cross_norm=PackedNorm(block.cross_norm, precision),
            cross_query=pack(cross.query, precision, panel=width),
            cross_output=pack(cross.output, precision),
            feedforward_norm=PackedNorm(block.feedforward_norm, precision),
            widen=pack(block.feedforward[0], precision),
            narrow=pack(block.feedforward[2], precision),
        )


class PackedDecoder:
    """What ``TransformerDecoder`` computes, a step at a time and without gradients; a copy of its weights."""

    def __init__(self, decoder: TransformerDecoder, *, precision: str = "fp32") -> None:
        """Pack a decoder.

        Args:
            decoder: what to copy; dropout is left out.
            precision: fp32, bf16 or int8 (weights and the rows they multiply; everything else is fp32).
        """
        self.precision, self.dtype = precision, PRECISIONS[precision]
        self.settings = decoder.settings
        self.vocabulary_size = decoder.token_embedding.num_embeddings
        self.token_embedding = decoder.token_embedding.weight.detach().to(self.dtype, copy=True)
        positions = decoder.position_embedding
        self.position_embedding = None if positions is None else positions.weight.detach().to(self.dtype, copy=True)
        self.blocks = [PackedBlock.of(block, precision) for block in decoder.blocks]
        width = self.settings.width
        self.cross_key_value = [
            pack(block.cross_attention.key_value, precision, panel=width) for block in decoder.blocks
        ]
        self.norm = PackedNorm(decoder.norm, precision)
        self.output = pack(decoder.output, precision, pad=-self.vocabulary_size % VOCABULARY_MULTIPLE)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.device

    def open(self, *, slots: int, beams: int, max_length: int, patches: int) -> SlotCache:
        """An empty cache for so many images at a time, each with ``patches`` image tokens."""
        assert self.position_embedding is None or max_length <= len(self.position_embedding), max_length
        heads = self.settings.heads
        shape = (len(self.blocks), heads, self.settings.width // heads)
        columns = beams * max_length
        return SlotCache(*shape, slots=slots, beams=beams, columns=columns, patches=patches, like=self.token_embedding)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values for cross-attention of image tokens ``memory`` [images, patches, width].

        Returns:
            Keys and values, each [layers, images, heads, patches, head].
        """
        images, patches, width = memory.shape
        heads = self.settings.heads
        rows = memory.to(self.dtype).reshape(images * patches, width)
        pairs = torch.stack([layer(rows) for layer in self.cross_key_value])
        keys, values = pairs.view(-1, 2, images, patches, heads, width // heads).transpose(3, 4).unbind(1)
        return keys, values

    def step(self, tokens: Tensor, lengths: Tensor, cache: SlotCache, *, shortest: int, longest: int) -> Tensor:
        """Logits of what follows the newest tokens, which join the cache.

        Args:
            tokens: newest token of every beam [slots, beams].
            lengths: tokens in each slot's captions so far, the start token not counted [slots].
            cache: its first slots are those of ``tokens``.
            shortest: the smallest of the lengths.
            longest: the largest of the lengths.

        Returns:
            Logits [slots x beams, vocabulary, made up to VOCABULARY_MULTIPLE with minus infinity].
        """
        slots, beams = tokens.shape
        positions = lengths[:, None].expand(slots, beams)
        columns = positions * beams + torch.arange(beams, device=tokens.device)
        cache.mask[:slots].scatter_(2, columns[:, :, None], 0.0)
        mask = cache.mask[:slots, None, :, : (longest + 1) * beams]
        numbers = torch.arange(slots, device=tokens.device)[:, None]
        step = Step(positions, columns, numbers, mask, longest * beams if shortest == longest else None)
        hidden = functional.embedding(tokens.flatten(), self.token_embedding)  # [slots x beams, width]
        if self.position_embedding is not None:
            hidden = hidden + functional.embedding(positions.flatten(), self.position_embedding)
        residual = as_panels(hidden)  # the same numbers
        for layer, block in enumerate(self.blocks):
            residual.add_(self._attend_to_caption(hidden, block, step, cache.self_pairs[layer, :slots]))
            keys, values = cache.cross_keys[layer, :slots], cache.cross_values[layer, :slots]
            residual.add_(self._attend_to_image(hidden, block, keys, values))
            widened = torch.ops.aten.gelu_(block.widen(block.feedforward_norm(hidden)))
            residual.add_(block.narrow(side_by_side(widened)))
        return side_by_side(self.output(self.norm(hidden)))

    def _attend_to_caption(self, hidden: Tensor, block: PackedBlock, step: Step, pairs: Tensor) -> Tensor:
        """Self-attention, with keys and values in ``pairs`` [slots, heads, 2, columns, head]; returns panels."""
        slots, heads, _, _, head = pairs.shape
        beams, length = step.mask.shape[2:]
        new = block.query_key_value(block.self_norm(hidden)).view(3, slots, beams, heads, head)
        if self.position_embedding is None:
            turned = rotate(new[:2].permute(1, 0, 3, 2, 4).flatten(1, 2), step.positions)
            new = torch.cat([turned.unflatten(1, (2, heads)).permute(1, 0, 3, 2, 4), new[2:]])
        step.put(new[1:], pairs)
        keys, values = pairs[:, :, :, :length].unbind(2)
        attended = functional.scaled_dot_product_attention(new[0].transpose(1, 2), keys, values, attn_mask=step.mask)
        return block.self_output(attended.transpose(1, 2).reshape(hidden.shape))

    def _attend_to_image(self, hidden: Tensor, block: PackedBlock, keys: Tensor, values: Tensor) -> Tensor:
        """Cross-attention to ``keys`` and ``values`` [slots, heads, patches, head]; returns panels."""
        slots, heads, _, head = keys.shape
        query = block.cross_query(block.cross_norm(hidden)).view(slots, -1, heads, head).transpose(1, 2)
        attended = functional.scaled_dot_product_attention(query, keys, values)
        return block.cross_output(attended.transpose(1, 2).reshape(hidden.shape))
