"""Line charts, drawn once and put out twice: as SVG for the page and as PNG through Pillow."""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

# Sizes in pixels of the SVG; a PNG is twice as fine.
WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 40, 34
_FINE = 2
_MOST_POINTS = 800
LEAST_SPAN = 1e-12
"""Values that differ by less of the greatest of them, or of 1, are drawn as one."""
_COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1")
_INK, _GREY, _GRID = "#1a202c", "#717a88", "#e2e6eb"


@dataclass(frozen=True)
class Line:
    """A curve: its name and its points, from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """Some curves over the steps of a training."""

    title: str
    lines: Sequence[Line]


@dataclass(frozen=True)
class _Stroke:
    points: list[tuple[float, float]]
    colour: str
    width: float


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    text: str
    colour: str
    size: int
    anchor: str  # "start", "middle" or "end"


def draw_svg(chart: Chart) -> str:
    """The chart as an SVG element."""
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(chart.title)}" '
        'xmlns="http://www.w3.org/2000/svg" font-family="sans-serif">'
    ]
    for mark in _marks(chart):
        if isinstance(mark, _Stroke):
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="{mark.colour}" stroke-width="{mark.width}" '
                'stroke-linejoin="round"/>'
            )
        else:
            parts.append(
                f'<text x="{mark.x:.1f}" y="{mark.y:.1f}" fill="{mark.colour}" font-size="{mark.size}" '
                f'text-anchor="{mark.anchor}" dominant-baseline="central">{html.escape(mark.text)}</text>'
            )
    return "\n".join([*parts, "</svg>"])


def draw_png(chart: Chart, path: Path) -> None:
    """Write the chart as a PNG; raises OSError."""
    image = Image.new("RGB", (WIDTH * _FINE, HEIGHT * _FINE), "white")
    draw = ImageDraw.Draw(image)
    anchors = {"start": "lm", "middle": "mm", "end": "rm"}
    for mark in _marks(chart):
        if isinstance(mark, _Stroke):
            points = [(x * _FINE, y * _FINE) for x, y in mark.points]
            draw.line(points, fill=mark.colour, width=round(mark.width * _FINE), joint="curve")
        else:
            font = ImageFont.load_default(size=mark.size * _FINE)
            place = (mark.x * _FINE, mark.y * _FINE)
            draw.text(place, mark.text, fill=mark.colour, font=font, anchor=anchors[mark.anchor])
    image.save(path, format="PNG")


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers from low to high, with steps of 1, 2 or 5 times a power of ten; low must be below high."""
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _marks(chart: Chart) -> Iterator[_Stroke | _Label]:
    """All that is drawn, from the back to the front."""
    every = [point for line in chart.lines for point in line.points]
    (left, right), (low, high) = (_range([point[axis] for point in every]) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - left) / (right - left), (y - low) / (high - low)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    yield _Label(_LEFT, 16, chart.title, _INK, 15, "start")
    for value in ticks(low, high):
        height = place(left, value)[1]
        yield _Stroke([(_LEFT, height), (WIDTH - _RIGHT, height)], _GRID, 1)
        yield _Label(_LEFT - 8, height, f"{value:.4g}", _GREY, 11, "end")
    for value in ticks(left, right):
        yield _Label(place(value, low)[0], HEIGHT - _BOTTOM + 14, f"{value:,.6g}", _GREY, 11, "middle")
    yield _Label(WIDTH - _RIGHT, HEIGHT - 7, "step", _GREY, 11, "end")
    for number, line in enumerate(chart.lines):
        colour = _COLOURS[number % len(_COLOURS)]
        every_so_many = math.ceil(len(line.points) / _MOST_POINTS)
        points = [place(*point) for point in line.points[::every_so_many]]
        # A single point would be no line: draw a short one.
        yield _Stroke(points if len(points) > 1 else [(points[0][0] - 3, points[0][1]), points[0]], colour, 1.8)
        if len(chart.lines) > 1:
            yield _Label(WIDTH - _RIGHT - 110 * (len(chart.lines) - 1 - number), 16, line.name, colour, 12, "end")


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the greatest value, with some room where they are one."""
    low, high = min(values), max(values)
    room = 0.0 if high - low > LEAST_SPAN * max(abs(high), 1.0) else max(abs(high), 1.0) * 0.1
    return low - room, high + room
