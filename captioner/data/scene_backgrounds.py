"""The backgrounds of scenes: a sky that tells the time of day, hills at the horizon, and a ground."""

from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

_SCALE = 3
_UNITS = 160  # the landscapes below are drawn in 160ths of the picture's side
_HORIZON = 96

# Sky colours from the top to the horizon.
_SKIES: dict[str, tuple[Colour, ...]] = {
    "dawn": ((150, 186, 222), (206, 206, 222), (250, 208, 196), (255, 232, 190)),
    "day": ((108, 178, 240), (150, 204, 248), (206, 232, 252)),
    "dusk": ((72, 62, 112), (140, 88, 132), (222, 124, 120), (250, 176, 118)),
    "night": ((16, 20, 54), (30, 38, 84), (62, 72, 124)),
}
# The ground is multiplied by the light of the hour.
_LIGHTS: dict[str, Colour] = {
    "dawn": (250, 232, 226),
    "day": (255, 255, 255),
    "dusk": (216, 176, 178),
    "night": (112, 122, 172),
}
# Hills in the distance, and the ground from the horizon to the lower edge.
_GROUNDS: dict[str, tuple[Colour, Colour, Colour]] = {
    "grass": ((150, 196, 150), (172, 212, 122), (118, 178, 90)),
    "sand": ((216, 196, 164), (244, 226, 180), (226, 196, 140)),
    "snow": ((196, 210, 228), (240, 246, 252), (212, 224, 240)),
    "water": ((132, 172, 168), (150, 206, 214), (74, 150, 178)),
}
# Hills as left edge, width and height of an ellipse around the horizon, one tuple for each landscape.
_HILLS = (
    ((-50, 140, 40), (60, 150, 30)),
    ((-30, 110, 24), (50, 70, 36), (90, 130, 26)),
    ((-70, 150, 28), (20, 150, 44)),
    ((-20, 70, 34), (30, 110, 22), (110, 100, 38)),
)
# Sun or moon by landscape, at the top so that objects seldom hide it, and near the horizon.
_HIGH = ((128, 24), (34, 22), (132, 34), (30, 30))
_LOW = ((40, 84), (118, 84), (66, 86), (94, 84))
_CLOUDS = (
    ((30, 26), (96, 46)),
    ((88, 22), (126, 52)),
    ((60, 24), (18, 50)),
    ((78, 40), (128, 20)),
)
# fmt: off
_STARS = (
    (12, 14), (26, 44), (41, 9), (54, 30), (66, 58), (73, 17), (90, 38),
    (101, 8), (112, 50), (121, 22), (140, 62), (150, 12), (8, 70), (36, 68),
)
# fmt: on


@lru_cache(maxsize=64)
def draw_background(time_of_day: str, ground: str, *, landscape: int, size: int) -> Image.Image:
    """Draw sky, hills and ground as a square RGB picture; callers share it and must copy it before drawing on it.

    Args:
        time_of_day: one of TIMES_OF_DAY.
        ground: one of GROUNDS.
        landscape: which hills, clouds and place of the sun, from 0 to LANDSCAPES - 1.
        size: side of the picture in pixels.
    """
    side = size * _SCALE
    unit = side / _UNITS
    sky = _gradient(_SKIES[time_of_day], width=side, height=side * _HORIZON // _UNITS)
    land = Image.new("RGB", (side, side))
    land.paste(_gradient(_GROUNDS[ground][1:], width=side, height=side - sky.height), (0, sky.height))
    _draw_hills(land, _GROUNDS[ground], landscape=landscape, unit=unit)
    _draw_texture(land, ground, landscape=landscape, unit=unit)
    land = ImageChops.multiply(land, Image.new("RGB", land.size, _LIGHTS[time_of_day]))
    picture = Image.new("RGB", (side, side))
    picture.paste(sky, (0, 0))
    _DRAW_SKY[time_of_day](picture, landscape, unit)
    picture.paste(land, (0, 0), _land_mask(side, landscape=landscape, unit=unit))
    return picture.reduce(_SCALE)


def _gradient(stops: tuple[Colour, ...], *, width: int, height: int) -> Image.Image:
    """A vertical gradient through the given colours."""
    column = Image.new("RGB", (1, height))
    steps = (height - 1) * 1000 // (len(stops) - 1)
    for y in range(height):
        index, rest = divmod(y * 1000, steps)
        upper, lower = stops[min(index, len(stops) - 1)], stops[min(index + 1, len(stops) - 1)]
        column.putpixel(
            (0, y), tuple((a * (steps - rest) + b * rest) // steps for a, b in zip(upper, lower, strict=True))
        )
    return column.resize((width, height), Image.Resampling.NEAREST)


def _box(left: float, top: float, right: float, bottom: float, *, unit: float) -> tuple[int, ...]:
    return tuple(round(value * unit) for value in (left, top, right, bottom))


def _hill_boxes(landscape: int, unit: float) -> list[tuple[int, ...]]:
    return [
        _box(left, _HORIZON - height // 2, left + width, _HORIZON + height // 2, unit=unit)
        for left, width, height in _HILLS[landscape]
    ]


def _land_mask(side: int, *, landscape: int, unit: float) -> Image.Image:
    """Where hills and ground cover the sky."""
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    draw.rectangle((0, round(_HORIZON * unit), side, side), fill=255)
    for box in _hill_boxes(landscape, unit):
        draw.ellipse(box, fill=255)
    return mask


def _draw_hills(land: Image.Image, colours: tuple[Colour, Colour, Colour], *, landscape: int, unit: float) -> None:
    ground = land.crop((0, round(_HORIZON * unit), land.width, land.height))
    draw = ImageDraw.Draw(land)
    for index, box in enumerate(_hill_boxes(landscape, unit)):
        draw.ellipse(box, fill=tuple(max(value - 12 * (index % 2), 0) for value in colours[0]))
    land.paste(ground, (0, round(_HORIZON * unit)))


def _draw_texture(land: Image.Image, ground: str, *, landscape: int, unit: float) -> None:
    """Tufts, ripples or grains, smaller towards the horizon."""
    draw = ImageDraw.Draw(land)
    width = max(round(unit * 0.7), 1)
    light, dark = _GROUNDS[ground][1:]
    tone = tuple(value + {"grass": -18, "water": 40}.get(ground, 0) for value in (light if ground == "water" else dark))
    for index in range(48):
        # Multiples of two numbers without common factors spread evenly, and differently for each landscape.
        x = (index * 61 + landscape * 37) % _UNITS
        depth = (index * 23 + landscape * 11) % 59
        y = _HORIZON + 4 + depth
        reach = 2 + depth / 14
        if ground == "grass":
            for shift in (-1, 0, 1):
                draw.line(_box(x, y, x + shift * reach / 2, y - reach / 1.4, unit=unit), fill=tone, width=width)
        elif ground == "water":
            draw.line(_box(x, y, x + reach * 2.4, y, unit=unit), fill=tone, width=width)
        else:
            draw.ellipse(_box(x, y, x + reach, y + reach / 3, unit=unit), fill=tone)


def _glow(picture: Image.Image, centre: tuple[float, float], radius: float, *, colour: Colour, strength: int) -> None:
    """Lighten the sky around the sun or the moon."""
    x, y = centre
    mask = Image.new("L", picture.size, 0)
    ImageDraw.Draw(mask).ellipse((x - radius, y - radius, x + radius, y + radius), fill=strength)
    picture.paste(colour, (0, 0), mask.filter(ImageFilter.GaussianBlur(radius / 2)))


def _draw_disc(picture: Image.Image, centre: tuple[int, int], radius: float, colour: Colour, unit: float) -> None:
    x, y = centre
    ImageDraw.Draw(picture).ellipse(_box(x - radius, y - radius, x + radius, y + radius, unit=unit), fill=colour)


def _draw_clouds(picture: Image.Image, landscape: int, unit: float, strength: int) -> None:
    mask = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(mask)
    for x, y in _CLOUDS[landscape]:
        for dx, dy, radius in ((-11, 2, 5), (-3, -2, 7), (6, 0, 6), (13, 3, 4)):
            draw.ellipse(
                _box(x + dx - radius, y + dy - radius, x + dx + radius, y + dy + radius, unit=unit), fill=strength
            )
        draw.rounded_rectangle(_box(x - 16, y + 2, x + 17, y + 7, unit=unit), round(2.5 * unit), fill=strength)
    picture.paste((255, 255, 255), (0, 0), mask.filter(ImageFilter.GaussianBlur(unit)))


def _draw_dawn(picture: Image.Image, landscape: int, unit: float) -> None:
    x, y = _LOW[landscape]
    _glow(picture, (x * unit, y * unit), 30 * unit, colour=(255, 246, 214), strength=200)
    _draw_disc(picture, (x, y), 9, (255, 250, 226), unit)
    _draw_clouds(picture, landscape, unit, strength=70)


def _draw_day(picture: Image.Image, landscape: int, unit: float) -> None:
    x, y = _HIGH[landscape]
    _glow(picture, (x * unit, y * unit), 20 * unit, colour=(255, 252, 224), strength=190)
    _draw_disc(picture, (x, y), 9, (255, 248, 206), unit)
    _draw_clouds(picture, landscape, unit, strength=215)


def _draw_dusk(picture: Image.Image, landscape: int, unit: float) -> None:
    x, y = _LOW[landscape]
    _glow(picture, (x * unit, y * unit), 26 * unit, colour=(255, 190, 120), strength=170)
    _draw_disc(picture, (x, y + 6), 11, (255, 206, 136), unit)


def _draw_night(picture: Image.Image, landscape: int, unit: float) -> None:
    x, y = _HIGH[landscape]
    for index, (left, top) in enumerate(_STARS):
        radius = (0.6, 0.9, 1.2)[(index + landscape) % 3]
        _draw_disc(picture, ((left + 23 * landscape) % _UNITS, top), radius, (236, 240, 255), unit)
    _glow(picture, (x * unit, y * unit), 14 * unit, colour=(120, 132, 190), strength=120)
    mask = Image.new("L", picture.size, 0)
    draw = ImageDraw.Draw(mask)
    draw.ellipse(_box(x - 9, y - 9, x + 9, y + 9, unit=unit), fill=255)
    draw.ellipse(_box(x - 4, y - 11, x + 12, y + 5, unit=unit), fill=0)
    picture.paste((244, 240, 214), (0, 0), mask)


_DRAW_SKY = {"dawn": _draw_dawn, "day": _draw_day, "dusk": _draw_dusk, "night": _draw_night}
