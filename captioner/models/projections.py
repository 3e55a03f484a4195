"""From the encoder's tokens to the decoder's width; every kind normalises its input first.

Encoder tokens come at very different scales (ReLU6 maps, un-normalised Transformer outputs), hence the LayerNorm.
"""

import difflib

from torch import Tensor, nn

from captioner.errors import ConfigError


class LinearProjection(nn.Sequential):
    """One matrix, as in ClipCap's and LLaVA's first versions (Liu et al. 2023)."""

    def __init__(self, *, input_width: int, output_width: int, dropout: float) -> None:
        super().__init__(nn.LayerNorm(input_width), nn.Linear(input_width, output_width), nn.Dropout(dropout))


class MLPProjection(nn.Sequential):
    """Two matrices with a GELU between, as in LLaVA-1.5 (Liu et al. 2024, section 3.2)."""

    def __init__(self, *, input_width: int, output_width: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(input_width),
            nn.Linear(input_width, output_width),
            nn.GELU(),
            nn.Linear(output_width, output_width),
            nn.Dropout(dropout),
        )


class BottleneckProjection(nn.Sequential):
    """Down to a quarter of the output width and up again, as an adapter (Houlsby et al. 2019): few parameters."""

    def __init__(self, *, input_width: int, output_width: int, dropout: float) -> None:
        bottleneck = max(1, output_width // 4)
        super().__init__(
            nn.LayerNorm(input_width),
            nn.Linear(input_width, bottleneck),
            nn.GELU(),
            nn.Linear(bottleneck, output_width),
            nn.Dropout(dropout),
        )


class ResidualMLPProjection(nn.Module):
    """A linear projection plus a pre-norm MLP branch that starts at zero, so training begins from the linear map."""

    def __init__(self, *, input_width: int, output_width: int, dropout: float) -> None:
        super().__init__()
        self.linear = LinearProjection(input_width=input_width, output_width=output_width, dropout=0.0)
        self.branch = nn.Sequential(
            nn.LayerNorm(output_width),
            nn.Linear(output_width, 2 * output_width),
            nn.GELU(),
            nn.Linear(2 * output_width, output_width),
            nn.Dropout(dropout),
        )
        nn.init.zeros_(self.branch[3].weight)
        nn.init.zeros_(self.branch[3].bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [images, patches, input width] to [images, patches, output width]."""
        projected = self.linear(tokens)
        return projected + self.branch(projected)


class PlacedProjection(nn.Module):
    """A projection whose tokens also say where in the image they are: a learned embedding a place is added."""

    def __init__(self, projection: nn.Module, *, patches: int, output_width: int) -> None:
        super().__init__()
        self.projection = projection
        self.places = nn.Embedding(patches, output_width)
        nn.init.normal_(self.places.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [images, patches, input width] to [images, patches, output width]."""
        return self.projection(tokens) + self.places.weight


PROJECTIONS = {
    "linear": LinearProjection,
    "mlp": MLPProjection,
    "bottleneck": BottleneckProjection,
    "residual_mlp": ResidualMLPProjection,
}


def build_projection(
    kind: str, *, input_width: int, output_width: int, dropout: float = 0.0, patches: int = 0
) -> nn.Module:
    """Build the projection [images, patches, input_width] -> [images, patches, output_width].

    With ``patches``, the number of tokens of an image, each token also gets a learned embedding of its place.

    Raises ConfigError for a kind that is not in PROJECTIONS.
    """
    if kind not in PROJECTIONS:
        nearest = difflib.get_close_matches(kind, PROJECTIONS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"projection.kind={kind} is unknown; did you mean {nearest}? The kinds are {', '.join(PROJECTIONS)}"
        )
    projection = PROJECTIONS[kind](input_width=input_width, output_width=output_width, dropout=dropout)
    return PlacedProjection(projection, patches=patches, output_width=output_width) if patches else projection
