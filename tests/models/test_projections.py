import pytest
import torch

from captioner.errors import ConfigError
from captioner.models.projections import PROJECTIONS, build_projection


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_projection_changes_only_the_width(kind):
    projection = build_projection(kind, input_width=12, output_width=8, dropout=0.1)
    tokens = torch.randn(2, 5, 12)
    assert projection(tokens).shape == (2, 5, 8)


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_projection_ignores_the_scale_of_its_input(kind):
    projection = build_projection(kind, input_width=12, output_width=8).eval()
    tokens = torch.randn(2, 5, 12)
    torch.testing.assert_close(projection(1000 * tokens), projection(tokens), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_every_parameter_gets_a_gradient(kind):
    projection = build_projection(kind, input_width=12, output_width=8, dropout=0.0)
    projection(torch.randn(2, 5, 12)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in projection.parameters())


@pytest.mark.parametrize("kind", PROJECTIONS)
def test_dropout_works_in_training_only(kind):
    projection = build_projection(kind, input_width=12, output_width=64, dropout=0.5)
    for parameter in projection.parameters():
        torch.nn.init.normal_(parameter)
    tokens = torch.randn(1, 1, 12)
    assert not torch.equal(projection(tokens), projection(tokens))
    projection.eval()
    assert torch.equal(projection(tokens), projection(tokens))


def test_residual_mlp_starts_as_its_linear_map():
    projection = build_projection("residual_mlp", input_width=12, output_width=8, dropout=0.0)
    tokens = torch.randn(2, 5, 12)
    torch.testing.assert_close(projection(tokens), projection.linear(tokens))


def test_bottleneck_has_the_fewest_parameters():
    def count(kind):
        projection = build_projection(kind, input_width=64, output_width=64)
        return sum(parameter.numel() for parameter in projection.parameters())

    assert min(PROJECTIONS, key=count) == "bottleneck"


def test_unknown_kind_names_the_nearest_and_all_kinds():
    with pytest.raises(ConfigError, match=r"projection.kind=lienar is unknown; did you mean linear\?.*residual_mlp"):
        build_projection("lienar", input_width=4, output_width=4, dropout=0.0)


def test_places_are_added_to_the_projected_tokens():
    tokens = torch.randn(2, 5, 12)
    placed = build_projection("linear", input_width=12, output_width=8, patches=5).eval()
    assert torch.equal(placed(tokens), placed.projection(tokens) + placed.places.weight)
    assert placed.places.weight.shape == (5, 8)
