import re
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from captioner.report.charts import Chart, Line, draw_png, draw_svg, ticks

CHART = Chart(
    "loss <&>", [Line("train", [(0, 4.0), (50, 2.0), (100, 1.0)]), Line("validation", [(50, 3.0), (100, 2.5)])]
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 6, [0, 1, 2, 3, 4, 5, 6]),
        (0.9, 3.1, [1, 1.5, 2, 2.5, 3]),
        (0, 1900, [0, 500, 1000, 1500]),
        (1e-4, 3e-4, [1e-4, 1.5e-4, 2e-4, 2.5e-4, 3e-4]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
    ],
)
def test_ticks_are_round_numbers(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def curves(chart):
    """The points of every curve of a chart's SVG."""
    element = ElementTree.fromstring(draw_svg(chart))
    lines = [line for line in element if line.tag.endswith("polyline") and line.get("stroke-width") == "1.8"]
    return [[tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in lines]


def test_a_curve_falls_where_its_values_fall():
    train, validation = curves(CHART)
    assert [x for x, _ in train] == sorted(x for x, _ in train)
    assert [y for _, y in train] == sorted(y for _, y in train)  # y grows downward
    assert validation[0][0] == train[1][0]
    assert train[0][1] < validation[0][1] < validation[1][1] < train[2][1]
    assert "loss &lt;&amp;&gt;" in draw_svg(CHART)


@pytest.mark.parametrize("points", [[(5, 1.0)], [(0, 2.0), (9, 2.0)], [(0, 0.0), (9, 5e-324)], [(0, 7.0), (9, 7.0)]])
def test_a_single_point_and_a_flat_curve_are_drawn(points):
    ((first, *_), *_) = curves(Chart("flat", [Line("flat", points)]))
    assert all(0 < value < 640 for value in first)


def test_long_curves_are_thinned():
    (points,) = curves(Chart("long", [Line("long", [(step, step % 7) for step in range(10_000)])]))
    assert 500 < len(points) <= 800


def test_the_png_has_the_same_curves(tmp_path):
    draw_png(CHART, tmp_path / "loss.png")
    with Image.open(tmp_path / "loss.png") as image:
        assert image.size == (1280, 600)
        colours = {image.getpixel((round(2 * x), round(2 * y))) for x, y in (curves(CHART)[0][1], curves(CHART)[1][0])}
    assert len(colours - {(255, 255, 255)}) == 2


def test_no_number_is_written_with_noise():
    labels = re.findall(r">([-\d.,e]+)</text>", draw_svg(CHART))
    assert labels
    assert max(map(len, labels)) <= 5
