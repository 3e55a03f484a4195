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
from captioner.models.packed_weights import PRECISIONS, Affine, PackedNorm, pack

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


@dataclass(frozen=True)
class PackedBlock:
    """A decoder block's norms and packed matrices; ``query_key_value`` gives queries divided by sqrt(head) already."""

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
        scale = (cross.query.in_features // own.heads) ** -0.5
        query = torch.full((cross.query.out_features,), scale, device=cross.query.weight.device)
        return cls(
            self_norm=PackedNorm(block.self_norm, precision),
            query_key_value=pack(
                own.query_key_value, precision, scale=torch.cat([query, torch.ones_like(query).repeat(2)])
            ),
            self_output=pack(own.output, precision),
            cross_norm=PackedNorm(block.cross_norm, precision),
            cross_query=pack(cross.query, precision, scale=query),
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
        self.cross_key_value = [pack(block.cross_attention.key_value, precision) for block in decoder.blocks]
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
        columns = positions * beams + torch.arange(beams, device=tokens.device)
        cache.mask[:slots].scatter_(2, columns[:, :, None], 0.0)
        mask = cache.mask[:slots, None, :, : (longest + 1) * beams]
        step = Step(positions, columns, torch.arange(slots, device=tokens.device)[:, None], mask)
        hidden = functional.embedding(tokens.flatten(), self.token_embedding)  # [slots x beams, width]
        if self.position_embedding is not None:
            hidden = hidden + functional.embedding(positions.flatten(), self.position_embedding)
        for layer, block in enumerate(self.blocks):
            pairs = cache.self_pairs[layer, :slots]
            hidden = hidden + self._attend_to_caption(hidden, block, step, pairs)
            keys, values = cache.cross_keys[layer, :slots], cache.cross_values[layer, :slots]
            hidden = hidden + self._attend_to_image(hidden, block, keys, values)
            hidden = hidden + block.narrow(functional.gelu(block.widen(block.feedforward_norm(hidden))))
        return self.output(self.norm(hidden))

    def _attend_to_caption(self, hidden: Tensor, block: PackedBlock, step: Step, pairs: Tensor) -> Tensor:
        """Self-attention, with keys and values in ``pairs`` [slots, heads, 2, columns, head]."""
        slots, heads, _, _, head = pairs.shape
        beams, length = step.mask.shape[2:]
        new = block.query_key_value(block.self_norm(hidden)).view(slots, beams, 3, heads, head).transpose(2, 3)
        if self.position_embedding is None:
            turned = rotate(new[..., :2, :].flatten(2, 3).transpose(1, 2), step.positions)
            turned = turned.transpose(1, 2).unflatten(2, (heads, 2))
            new = torch.cat([turned, new[..., 2:, :]], dim=3)
        pairs[step.slots, :, :, step.columns] = new[..., 1:, :]
        query = new[..., 0, :].transpose(1, 2).reshape(slots * heads, beams, head)
        keys, values = pairs.flatten(0, 1)[:, :, :length].unbind(1)  # each [slots x heads, columns, head]
        scores = torch.bmm(query, keys.transpose(1, 2)).view(slots, heads, beams, length).add_(step.mask)
        return block.self_output(_attend(scores.view(-1, beams, length), values, hidden.shape, slots))

    def _attend_to_image(self, hidden: Tensor, block: PackedBlock, keys: Tensor, values: Tensor) -> Tensor:
        """Cross-attention to ``keys`` [slots, heads, head, patches] and ``values`` [slots, heads, patches, head]."""
        slots, heads, head, _ = keys.shape
        query = block.cross_query(block.cross_norm(hidden)).view(slots, -1, heads, head)
        query = query.transpose(1, 2).reshape(slots * heads, -1, head)
        scores = torch.bmm(query, keys.flatten(0, 1))  # [slots x heads, beams, patches]
        return block.cross_output(_attend(scores, values.flatten(0, 1), hidden.shape, slots))


def _attend(scores: Tensor, values: Tensor, shape: torch.Size, slots: int) -> Tensor:
    """Read ``values`` by scores [slots x heads, beams, places], and put the heads together [slots x beams, width]."""
    attended = torch.bmm(scores.softmax(dim=-1), values)
    return attended.view(slots, -1, *attended.shape[1:]).transpose(1, 2).reshape(shape)
