"""The captioner's network: an image encoder, a projection and the decoder."""

from torch import Tensor, nn

from captioner.models.decoder import TransformerDecoder
from captioner.models.encoders import ImageEncoder
from captioner.models.projections import build_projection
from captioner.settings import Settings


class CaptionerModel(nn.Module):
    """From pixels, or an encoder's cached features, and captions to the logits of every next token."""

    def __init__(self, encoder: nn.Module | None, projection: nn.Module, decoder: TransformerDecoder) -> None:
        """Without an encoder, images come as features [images, patches, encoder width]."""
        super().__init__()
        self.encoder = encoder
        self.projection = projection
        self.decoder = decoder

    def remember(self, images: Tensor) -> Tensor:
        """What the decoder reads of the images: memory [images, patches, width].

        Args:
            images: pixels [images, 3, height, width] where there is an encoder, else features [images, patches, width].
        """
        features = images if self.encoder is None else self.encoder(images)
        return self.projection(features.to(next(self.projection.parameters()).dtype))

    def forward(
        self,
        images: Tensor,
        tokens: Tensor,
        *,
        positions: Tensor,
        segments: Tensor,
        targets: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """Logits [images, length, vocabulary] of packed captions, or with targets their loss, without all the logits.

        Arguments as for ``TransformerDecoder.states`` and ``caption_cross_entropy``.
        """
        memory = self.remember(images)
        if targets is None:
            return self.decoder(tokens, memory, positions=positions, segments=segments)
        states = self.decoder.states(tokens, memory, positions=positions, segments=segments)
        from captioner.losses import caption_cross_entropy  # nothing that captioning an image takes

        return caption_cross_entropy(states, self.decoder.output.weight, targets, label_smoothing=label_smoothing)


def build_model(
    settings: Settings, *, encoder: ImageEncoder, vocabulary_size: int, cached: bool = False
) -> CaptionerModel:
    """The network; its new weights are drawn from torch's generator.

    Args:
        settings: projection and decoder.
        encoder: gives the image tokens.
        vocabulary_size: number of tokens of the tokenizer.
        cached: whether images come as the encoder's features; then the encoder is no part of the network.
    """
    projection = build_projection(
        settings.projection.kind,
        input_width=encoder.width,
        output_width=settings.decoder.width,
        dropout=settings.projection.dropout,
        patches=encoder.patches if settings.projection.positions else 0,
    )
    decoder = TransformerDecoder(settings.decoder, vocabulary_size=vocabulary_size)
    return CaptionerModel(None if cached else encoder, projection, decoder)
