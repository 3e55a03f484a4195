"""The caption decoder: a pre-norm Transformer with causal self-attention and cross-attention to image tokens.

The captions of an image are trained as one packed row: they stand one behind the other, each token sees only the
earlier tokens of its own caption, and all of them read the same image tokens. So the keys and values of cross-attention
are computed once an image, not once a caption, and a row has no padding between captions.

Blocks follow Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762) with the norms moved inside the residual branches
(Xiong et al. 2020, https://arxiv.org/abs/2002.04745); initialisation follows GPT-2 (Radford et al. 2019, section 2.3).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from captioner.settings import DecoderSettings


def rotate(states: Tensor, positions: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021, https://arxiv.org/abs/2104.09864).

    Args:
        states: queries or keys [batch, heads, length, head].
        positions: places in the caption [batch, length].
    """
    half = states.shape[-1] // 2
    frequencies = 10000.0 ** -(torch.arange(half, device=states.device, dtype=torch.float32) / half)
    angles = positions[:, None, :, None].float() * frequencies  # [batch, 1, length, half]
    cosine, sine = angles.cos(), angles.sin()
    first, second = states.float().chunk(2, dim=-1)
    rotated = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return rotated.to(states.dtype)


class SelfAttention(nn.Module):
    """Multi-head attention of each token to the earlier tokens of its caption."""

    def __init__(self, width: int, heads: int, *, rotary: bool) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def project(self, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [batch, heads, length, head]."""
        batch, length, width = hidden.shape
        split = self.query_key_value(hidden).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        if self.rotary:
            query, key = rotate(query, positions), rotate(key, positions)
        return query, key, value

    def forward(self, hidden: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = self.project(hidden, positions)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return self.output(attended.transpose(1, 2).flatten(2))  # [batch, length, width]


class CrossAttention(nn.Module):
    """Multi-head attention of each token to all projected image tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def remember(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [images, heads, patches, head] of the image tokens ``memory`` [images, patches, width]."""
        images, patches, width = memory.shape
        split = self.key_value(memory).view(images, patches, 2, self.heads, width // self.heads)
        key, value = split.permute(2, 0, 3, 1, 4)
        return key, value

    def forward(self, hidden: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend from ``hidden`` [images, queries, width]: all captions or beams of an image are its queries."""
        attended = functional.scaled_dot_product_attention(self._queries(hidden), keys, values)
        return self.output(attended.transpose(1, 2).flatten(2))

    def weights(self, hidden: Tensor, keys: Tensor) -> Tensor:
        """How much of each image token the queries ``hidden`` take [images, heads, queries, patches]; they sum to 1."""
        scores = self._queries(hidden) @ keys.transpose(2, 3)
        return (scores * keys.shape[3] ** -0.5).softmax(dim=-1)

    def _queries(self, hidden: Tensor) -> Tensor:
        """Queries [images, heads, queries, head]."""
        images, queries, width = hidden.shape
        return self.query(hidden).view(images, queries, self.heads, width // self.heads).transpose(1, 2)


class Dropout(nn.Dropout):
    """Dropout that keeps a byte a number until the backward pass: on a CPU torch's own keeps four, and is slower."""

    def forward(self, hidden: Tensor) -> Tensor:
        if self.training and self.p and hidden.device.type == "cpu":
            return torch.native_dropout(hidden, self.p, train=True)[0]
        return super().forward(hidden)


class FeedForward(nn.Sequential):
    """Two layers with GELU between them, applied to each token by itself.

    On a CPU the backward pass computes GELU again: kept, it is a sixth of a block's memory, and it takes 2 % of its
    time. A compiled network decides that for itself.
    """

    def __init__(self, width: int, inner: int) -> None:
        super().__init__(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))

    def forward(self, hidden: Tensor) -> Tensor:
        widened = self[0](hidden)
        if self.training and widened.device.type == "cpu" and not torch.compiler.is_compiling():
            return checkpoint(self._narrow, widened, use_reentrant=False, preserve_rng_state=False)
        return self._narrow(widened)

    def _narrow(self, widened: Tensor) -> Tensor:
        return self[2](self[1](widened))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, settings: DecoderSettings) -> None:
        super().__init__()
        width = settings.width
        self.self_norm, self.cross_norm, self.feedforward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = SelfAttention(width, settings.heads, rotary=settings.positions == "rotary")
        self.cross_attention = CrossAttention(width, settings.heads)
        self.feedforward = FeedForward(width, settings.feedforward * width)
        self.dropout = Dropout(settings.dropout)

    def forward(self, hidden: Tensor, memory: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        hidden = hidden + self.dropout(self.self_attention(self.self_norm(hidden), positions, mask))
        cross = self.cross_attention(self.cross_norm(hidden), *self.cross_attention.remember(memory))
        hidden = hidden + self.dropout(cross)
        return hidden + self.dropout(self.feedforward(self.feedforward_norm(hidden)))


class TransformerDecoder(nn.Module):
    """From tokens and image tokens to the logits of the next token."""

    def __init__(self, settings: DecoderSettings, *, vocabulary_size: int) -> None:
        super().__init__()
        self.settings = settings
        self.token_embedding = nn.Embedding(vocabulary_size, settings.width)
        self.position_embedding = (
            nn.Embedding(settings.max_length, settings.width) if settings.positions == "learned" else None
        )
        self.dropout = Dropout(settings.dropout)
        self.blocks = nn.ModuleList(DecoderBlock(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.width)
        self.output = nn.Linear(settings.width, vocabulary_size, bias=False)
        self.apply(self._initialise)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "feedforward.2.weight")):
                nn.init.normal_(parameter, std=(3 * settings.layers * parameter.shape[1]) ** -0.5)
        if settings.tie_embeddings:
            self.output.weight = self.token_embedding.weight

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Token and position embeddings  # [batch, length, width]."""
        embedded = self.token_embedding(tokens)
        if self.position_embedding is not None:
            embedded = embedded + self.position_embedding(positions)
        return self.dropout(embedded)

    def forward(
        self, tokens: Tensor, memory: Tensor, *, positions: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """Logits of every next token [images, length, vocabulary]; arguments as for ``states``."""
        return self.output(self.states(tokens, memory, positions=positions, segments=segments))

    def states(
        self, tokens: Tensor, memory: Tensor, *, positions: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """What the output layer makes logits of [images, length, width].

        Args:
            tokens: input tokens [images, length]; one caption, or several packed ones.
            memory: projected image tokens [images, patches, width].
            positions: a token's place in its caption [images, length]; by default the place in the row.
            segments: which caption of the row a token belongs to [images, length], any other number for padding; by
                default the row is one caption.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        mask = None if segments is None else causal_segment_mask(segments)
        hidden = self.embed(tokens, positions)
        for block in self.blocks:
            hidden = block(hidden, memory, positions, mask)
        return self.norm(hidden)

    @torch.no_grad()
    def cross_attention(self, tokens: Tensor, memory: Tensor) -> Tensor:
        """Where each token looks: cross-attention weights [layers, images, heads, length, patches].

        Args:
            tokens: input tokens of one caption an image [images, length], which begin with the start token: the weights
                at a place are those with which the place's next token was chosen.
            memory: projected image tokens [images, patches, width].
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
        hidden, weights = self.embed(tokens, positions), []
        for block in self.blocks:
            middle = hidden + block.self_attention(block.self_norm(hidden), positions, None)
            keys, _ = block.cross_attention.remember(memory)
            weights.append(block.cross_attention.weights(block.cross_norm(middle), keys))
            hidden = block(hidden, memory, positions, None)
        return torch.stack(weights)


def causal_segment_mask(segments: Tensor) -> Tensor:
    """Which token sees which [images, 1, length, length]: earlier ones, and itself, of its own caption."""
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (same & earlier)[:, None]
