"""The captioner's network: an image encoder, a projection and the decoder."""

from torch import Tensor, nn

from captioner.models.decoder import TransformerDecoder


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

    def forward(self, images: Tensor, tokens: Tensor, *, positions: Tensor, segments: Tensor) -> Tensor:
        """Logits [images, length, vocabulary] of packed captions; see ``TransformerDecoder.forward``."""
        return self.decoder(tokens, self.remember(images), positions=positions, segments=segments)
