"""The decoder made ready for generation: one new token a row and step, over caches that never move.

An image is captioned in a *slot*, which holds its beams. A slot keeps the keys and values of every token that any of
its beams was ever given, in columns; which of them a beam's caption is made of stands in a mask. So beams change places
by their rows of the mask, not by their keys and values, and they attend together, as the queries of one product. Slots
are taken and left at any step, each at its own length.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from captioner.models.decoder import DecoderBlock, TransformerDecoder, rotate
from captioner.models.packed_weights import PRECISIONS, Affine, pack

VOCABULARY_MULTIPLE = 64
"""The logits' number is a multiple of this; those beyond the vocabulary are minus infinity."""


class SlotCache:
    """Keys and values of all slots, of which those in use stand in front."""

    def __init__(
        self, layers: int, heads: int, head: int, *, slots: int, beams: int, columns: int, patches: int, like: Tensor
    ) -> None:
        """Empty slots, of the type and on the device of the tensor ``like``."""
        self.beams = beams
        self.cross_keys = like.new_empty(layers, slots, heads, head, patches)
        self.cross_values = like.new_empty(layers, slots, heads, patches, head)
        self.self_keys = like.new_zeros(layers, slots, heads, columns, head)
        self.self_values = torch.zeros_like(self.self_keys)
        self.mask = like.new_full((slots, beams, columns), -torch.inf)
        """0 where a column belongs to the beam's caption, else minus infinity."""

    def follow(self, origins: Tensor) -> None:
        """Let every beam go on from what another of its slot has seen: ``origins`` [slots in use, beams]."""
        used = self.mask[: len(origins)]
        used.copy_(used.gather(1, origins[:, :, None].expand_as(used)))

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy slots over others."""
        for tensor in (self.cross_keys, self.cross_values, self.self_keys, self.self_values):
            tensor[:, targets] = tensor[:, sources]
        self.mask[targets] = self.mask[sources]

    def fill(self, slots: list[int], cross_keys: Tensor, cross_values: Tensor) -> None:
        """Put new images, of which nothing is said yet, into slots."""
        self.cross_keys[:, slots], self.cross_values[:, slots] = cross_keys, cross_values
        self.mask[slots] = -torch.inf


@dataclass(frozen=True)
class PackedBlock:
    """A decoder block's norms and packed matrices; ``query_key_value`` gives queries divided by sqrt(head) already."""

    self_norm: nn.LayerNorm
    query_key_value: Affine
    self_output: Affine
    cross_norm: nn.LayerNorm
    cross_query: Affine
    cross_output: Affine
    feedforward_norm: nn.LayerNorm
    widen: Affine
    narrow: Affine

    @classmethod
    def of(cls, block: DecoderBlock, precision: str) -> "PackedBlock":
        """Pack a block; its weights are copied."""
        own, cross = block.self_attention, block.cross_attention
        scale = (cross.query.in_features // own.heads) ** -0.5
        query = torch.full((cross.query.out_features,), scale, device=cross.query.weight.device)
        return cls(
            self_norm=copy_norm(block.self_norm, precision),
            query_key_value=pack(
                own.query_key_value, precision, scale=torch.cat([query, torch.ones_like(query).repeat(2)])
            ),
            self_output=pack(own.output, precision),
            cross_norm=copy_norm(block.cross_norm, precision),
            cross_query=pack(cross.query, precision, scale=query),
            cross_output=pack(cross.output, precision),
            feedforward_norm=copy_norm(block.feedforward_norm, precision),
            widen=pack(block.feedforward[0], precision),
            narrow=pack(block.feedforward[2], precision),
        )


def copy_norm(norm: nn.LayerNorm, precision: str) -> nn.LayerNorm:
    """A copy of a norm in the type of a precision's states."""
    copied = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, device=norm.weight.device, dtype=PRECISIONS[precision])
    copied.load_state_dict(norm.state_dict())
    return copied.requires_grad_(False)


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
        self.cross_key_value = [pack(block.cross_attention.key_value, precision) for block in decoder.blocks]
        self.norm = copy_norm(decoder.norm, precision)
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
            Keys [layers, images, heads, head, patches] and values [layers, images, heads, patches, head].
        """
        images, patches, width = memory.shape
        heads = self.settings.heads
        rows = memory.to(self.dtype).reshape(images * patches, width)
        pairs = torch.stack([layer(rows) for layer in self.cross_key_value])
        pairs = pairs.view(-1, images, patches, 2, heads, width // heads)
        return pairs[:, :, :, 0].permute(0, 1, 3, 4, 2), pairs[:, :, :, 1].transpose(2, 3)

    def step(self, tokens: Tensor, lengths: Tensor, cache: SlotCache, *, longest: int) -> Tensor:
        """Logits of what follows the newest tokens, which join the cache.

        Args:
            tokens: newest token of every beam [slots, beams].
            lengths: tokens in each slot's captions so far, the start token not counted [slots].
            cache: its first slots are those of ``tokens``.
            longest: the largest of the lengths.

        Returns:
            Logits [slots x beams, vocabulary, made up to VOCABULARY_MULTIPLE with minus infinity].
        """
        slots, beams = tokens.shape
        positions = lengths[:, None].expand(slots, beams)
        columns = positions * beams + torch.arange(beams, device=tokens.device)  # [slots, beams]
        cache.mask[:slots].scatter_(2, columns[:, :, None], 0.0)
        mask = cache.mask[:slots, None, :, : (longest + 1) * beams]
        hidden = functional.embedding(tokens.flatten(), self.token_embedding)  # [slots x beams, width]
        if self.position_embedding is not None:
            hidden = hidden + functional.embedding(positions.flatten(), self.position_embedding)
        for layer, block in enumerate(self.blocks):
            hidden = hidden + self._attend_to_caption(hidden, block, layer, positions, columns, mask, cache)
            hidden = hidden + self._attend_to_image(hidden, block, layer, slots, cache)
            hidden = hidden + block.narrow(functional.gelu(block.widen(block.feedforward_norm(hidden))))
        return self.output(self.norm(hidden))

    def _attend_to_caption(
        self,
        hidden: Tensor,
        block: PackedBlock,
        layer: int,
        positions: Tensor,
        columns: Tensor,
        mask: Tensor,
        cache: SlotCache,
    ) -> Tensor:
        slots, beams = columns.shape
        heads, length = self.settings.heads, mask.shape[-1]
        split = block.query_key_value(block.self_norm(hidden)).view(slots, beams, 3, heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each [slots, heads, beams, head]
        if self.position_embedding is None:
            query, key = rotate(query, positions), rotate(key, positions)
        keys, values = cache.self_keys[layer, :slots], cache.self_values[layer, :slots]
        places = torch.arange(slots, device=columns.device)[:, None]
        keys[places, :, columns] = key.transpose(1, 2)
        values[places, :, columns] = value.transpose(1, 2)
        scores = query @ keys[:, :, :length].transpose(2, 3)  # [slots, heads, beams, columns]
        attended = scores.add_(mask).softmax(dim=-1) @ values[:, :, :length]
        return block.self_output(attended.transpose(1, 2).reshape(hidden.shape))

    def _attend_to_image(self, hidden: Tensor, block: PackedBlock, layer: int, slots: int, cache: SlotCache) -> Tensor:
        query = block.cross_query(block.cross_norm(hidden))
        query = query.view(slots, cache.beams, self.settings.heads, -1).transpose(1, 2)
        scores = query @ cache.cross_keys[layer, :slots]  # [slots, heads, beams, patches]
        attended = scores.softmax(dim=-1) @ cache.cross_values[layer, :slots]
        return block.cross_output(attended.transpose(1, 2).reshape(hidden.shape))
