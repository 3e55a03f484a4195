"""The shapes of the twelve kinds, drawn in a square of 100 by 100 units whose lower edge is the ground."""

from collections.abc import Callable

from PIL import ImageDraw

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

_PAINTS: dict[str, Colour] = {
    "red": (222, 38, 44),
    "orange": (255, 138, 18),
    "yellow": (255, 222, 36),
    "green": (22, 150, 62),
    "blue": (34, 92, 232),
    "purple": (146, 52, 190),
    "black": (38, 38, 44),
    "white": (250, 250, 250),
}
_WOOD = (134, 92, 58)
_GLASS = (196, 222, 236)
_TYRE = (70, 70, 78)
_METAL = (176, 180, 188)
_LAMP = (255, 238, 170)
_FOAM = (222, 240, 250)


class Pen:
    """Draws in units of a hundredth of the sprite, with the tones of one colour."""

    def __init__(self, draw: ImageDraw.ImageDraw, colour: str, *, origin: int, unit: float) -> None:
        self._draw, self._origin, self._unit = draw, origin, unit
        self.base = _PAINTS[colour]
        self.light = _blend(self.base, (255, 255, 255), 40 if colour == "black" else 30)
        # Black cannot be shaded darker: its second tone is a dark grey.
        self.dark = (
            (72, 72, 84) if colour == "black" else _blend(self.base, (30, 30, 60), 22 if colour == "white" else 32)
        )
        # A black object needs a light rim to show at night, every other one a dark rim to show by day.
        shade = 88 if colour == "white" else 68
        self.outline = (150, 152, 164) if colour == "black" else _blend(self.base, (24, 24, 48), shade)

    def polygon(self, *points: tuple[float, float], fill: Colour) -> None:
        self._draw.polygon([self._at(x, y) for x, y in points], fill=fill)

    def ellipse(self, *box: float, fill: Colour) -> None:
        self._draw.ellipse(self._box(*box), fill=fill)

    def rectangle(self, *box: float, fill: Colour, radius: float = 0) -> None:
        self._draw.rounded_rectangle(self._box(*box), round(radius * self._unit), fill=fill)

    def sector(self, *box: float, start: int, end: int, fill: Colour) -> None:
        self._draw.pieslice(self._box(*box), start, end, fill=fill)

    def arc(self, *box: float, start: int, end: int, width: float, fill: Colour) -> None:
        self._draw.arc(self._box(*box), start, end, fill=fill, width=round(width * self._unit))

    def line(self, *points: tuple[float, float], width: float, fill: Colour) -> None:
        self._draw.line([self._at(x, y) for x, y in points], fill=fill, width=round(width * self._unit), joint="curve")

    def _at(self, x: float, y: float) -> tuple[int, int]:
        return self._origin + round(x * self._unit), self._origin + round(y * self._unit)

    def _box(self, left: float, top: float, right: float, bottom: float) -> Box:
        return *self._at(left, top), *self._at(right, bottom)


def _blend(colour: Colour, other: Colour, percent: int) -> Colour:
    red, green, blue = ((a * (100 - percent) + b * percent) // 100 for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _draw_house(pen: Pen) -> None:
    pen.rectangle(68, 8, 80, 40, fill=pen.dark)
    pen.rectangle(12, 44, 88, 100, fill=pen.base)
    pen.polygon((50, 4), (100, 50), (0, 50), fill=pen.dark)
    pen.polygon((50, 14), (84, 46), (16, 46), fill=pen.base)
    pen.rectangle(42, 66, 60, 100, fill=_WOOD)
    for left in (19, 67):
        pen.rectangle(left, 60, left + 15, 76, fill=_LAMP)
        pen.rectangle(left + 6, 60, left + 9, 76, fill=pen.dark)


def _draw_tree(pen: Pen) -> None:
    pen.rectangle(43, 80, 57, 100, fill=_WOOD)
    for top, bottom, half in ((44, 86, 38), (22, 64, 31), (0, 40, 23)):
        pen.polygon((50, top), (50 + half, bottom), (50 - half, bottom), fill=pen.base)
        pen.polygon((50, top), (50 + half, bottom), (56, bottom), fill=pen.dark)
        pen.polygon((50, top), (50 - half, bottom), (42 - half // 2, bottom), fill=pen.light)


def _draw_car(pen: Pen) -> None:
    pen.polygon((22, 58), (34, 32), (68, 32), (84, 58), fill=pen.base)
    pen.polygon((30, 56), (38, 38), (49, 38), (49, 56), fill=_GLASS)
    pen.polygon((54, 56), (54, 38), (65, 38), (76, 56), fill=_GLASS)
    pen.rectangle(2, 54, 98, 86, radius=10, fill=pen.base)
    pen.rectangle(4, 72, 96, 84, radius=6, fill=pen.dark)
    pen.rectangle(88, 60, 97, 68, radius=3, fill=_LAMP)
    for centre in (25, 75):
        pen.ellipse(centre - 14, 72, centre + 14, 100, fill=_TYRE)
        pen.ellipse(centre - 6, 80, centre + 6, 92, fill=_METAL)


def _draw_cat(pen: Pen) -> None:
    pen.arc(58, 56, 96, 98, start=270, end=90, width=9, fill=pen.base)
    pen.polygon((34, 50), (62, 50), (76, 84), (74, 99), (24, 99), (22, 84), fill=pen.base)
    pen.ellipse(40, 58, 58, 104, fill=pen.light)
    pen.rectangle(24, 90, 74, 100, radius=5, fill=pen.base)
    pen.polygon((22, 2), (42, 16), (20, 34), fill=pen.base)
    pen.polygon((74, 2), (54, 16), (76, 34), fill=pen.base)
    pen.polygon((26, 9), (36, 17), (26, 26), fill=pen.dark)
    pen.polygon((70, 9), (60, 17), (70, 26), fill=pen.dark)
    pen.ellipse(18, 12, 78, 58, fill=pen.base)
    for left in (30, 56):
        pen.ellipse(left, 26, left + 11, 40, fill=_LAMP)
        pen.ellipse(left + 4, 28, left + 8, 39, fill=_TYRE)
    pen.polygon((44, 43), (53, 43), (48, 49), fill=pen.outline)


def _draw_umbrella(pen: Pen) -> None:
    pen.rectangle(47, 2, 53, 100, radius=3, fill=_METAL)
    pen.sector(0, 6, 100, 114, start=180, end=360, fill=pen.base)
    pen.sector(18, 6, 82, 114, start=180, end=360, fill=pen.dark)
    pen.sector(36, 6, 64, 114, start=180, end=360, fill=pen.base)
    for left, right in ((0, 18), (36, 64), (82, 100)):
        pen.ellipse(left, 54, right, 66, fill=pen.base)
    for left, right in ((18, 36), (64, 82)):
        pen.ellipse(left, 54, right, 66, fill=pen.dark)


def _draw_ball(pen: Pen) -> None:
    pen.ellipse(8, 16, 92, 100, fill=pen.base)
    for start in (20, 140, 260):
        pen.sector(8, 16, 92, 100, start=start, end=start + 50, fill=pen.dark)
    pen.ellipse(41, 49, 59, 67, fill=pen.light)


def _draw_boat(pen: Pen) -> None:
    pen.rectangle(47, 0, 51, 80, fill=_WOOD)
    pen.polygon((53, 4), (53, 66), (94, 66), fill=pen.base)
    pen.polygon((45, 14), (45, 66), (14, 66), fill=pen.dark)
    pen.polygon((2, 72), (98, 72), (82, 98), (18, 98), fill=pen.base)
    pen.polygon((8, 82), (92, 82), (82, 98), (18, 98), fill=pen.dark)


def _draw_fish(pen: Pen) -> None:
    pen.polygon((70, 40), (98, 16), (92, 40), (98, 66), fill=pen.dark)
    pen.polygon((34, 24), (50, 4), (66, 24), fill=pen.dark)
    pen.polygon((38, 60), (52, 76), (60, 58), fill=pen.dark)
    pen.ellipse(2, 16, 80, 66, fill=pen.base)
    pen.arc(8, 14, 34, 68, start=300, end=60, width=4, fill=pen.dark)
    pen.ellipse(12, 30, 24, 42, fill=(250, 250, 250))
    pen.ellipse(15, 33, 21, 39, fill=_TYRE)
    for x, y, radius in ((24, 90, 6), (42, 84, 5), (60, 91, 7), (78, 84, 5)):
        pen.ellipse(x - radius, y - radius, x + radius, y + radius, fill=_FOAM)


def _draw_kite(pen: Pen) -> None:
    pen.line((50, 66), (58, 76), (46, 88), (54, 100), width=4, fill=_METAL)
    pen.polygon((50, 0), (86, 28), (50, 74), (14, 28), fill=pen.base)
    pen.polygon((50, 0), (86, 28), (50, 28), fill=pen.dark)
    pen.polygon((50, 28), (50, 74), (14, 28), fill=pen.dark)
    for x, y in ((57, 79), (48, 91)):
        pen.polygon((x, y), (x - 11, y - 6), (x - 11, y + 6), fill=pen.base)
        pen.polygon((x, y), (x + 11, y - 6), (x + 11, y + 6), fill=pen.base)


def _draw_balloon(pen: Pen) -> None:
    pen.line((30, 58), (42, 84), width=3, fill=_WOOD)
    pen.line((70, 58), (58, 84), width=3, fill=_WOOD)
    pen.polygon((16, 50), (84, 50), (62, 76), (38, 76), fill=pen.base)
    pen.ellipse(12, 0, 88, 72, fill=pen.base)
    for left, right, fill in ((28, 72, pen.dark), (41, 59, pen.base)):
        pen.ellipse(left, 0, right, 74, fill=fill)
    pen.rectangle(38, 82, 62, 100, radius=3, fill=_WOOD)


SHAPES: dict[str, Callable[[Pen], None]] = {
    "house": _draw_house,
    "tree": _draw_tree,
    "car": _draw_car,
    "cat": _draw_cat,
    "umbrella": _draw_umbrella,
    "ball": _draw_ball,
    "boat": _draw_boat,
    "fish": _draw_fish,
    "kite": _draw_kite,
    "balloon": _draw_balloon,
}
"""How each kind is drawn."""
