"""Draw a scene with Pillow: a background, shadows, and an outlined sprite for each object.

Backgrounds and sprites are drawn large, reduced (which smooths their edges) and kept, so that a picture costs a few
pastes. Nothing depends on fonts or files of the system, and shapes have whole-number coordinates, so that pictures look
the same everywhere.
"""

from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter

from captioner.data.scene_backgrounds import draw_background
from captioner.data.scene_model import Scene, SceneObject
from captioner.data.scene_sprites import SHAPES, Pen

_SCALE = 4
_MARGIN = 0.08  # room for the outline around a sprite, as a share of its extent


def draw_scene(scene: Scene, *, size: int = 160) -> Image.Image:
    """Draw a scene as a square RGB picture.

    Args:
        scene: what to draw.
        size: side of the picture in pixels.
    """
    picture = draw_background(scene.time_of_day, scene.ground, landscape=scene.landscape, size=size).copy()
    # Farther objects first, so that nearer ones cover them.
    for item in sorted(scene.objects, key=lambda item: item.y):
        if not item.flies:
            _paste_shadow(picture, item, size)
        sprite = draw_sprite(item.kind, item.colour, extent=round(item.extent * size), mirrored=item.mirrored)
        left = round(item.x * size) - sprite.width // 2
        margin = round(item.extent * size * _MARGIN)
        base = round(item.y * size)
        top = base - sprite.height // 2 if item.flies else base + margin - sprite.height
        picture.paste(sprite, (left, top), sprite)
    return picture


@lru_cache(maxsize=2048)
def draw_sprite(kind: str, colour: str, *, extent: int, mirrored: bool) -> Image.Image:
    """Draw one object with its outline on a transparent RGBA square.

    Args:
        kind: one of KINDS.
        colour: one of COLOURS.
        extent: side of the square that the object fills, in pixels; the outline's margin comes on top.
        mirrored: whether left and right are swapped.
    """
    margin = round(extent * _MARGIN)
    side = (extent + 2 * margin) * _SCALE
    canvas = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = Pen(ImageDraw.Draw(canvas), colour, origin=margin * _SCALE, unit=extent * _SCALE / 100)
    SHAPES[kind](pen)
    width = max(extent * _SCALE * 0.03, 4)
    # Blurring the silhouette and keeping all that is not clear grows it by about the radius: a rounded outline.
    grown = canvas.getchannel("A").filter(ImageFilter.GaussianBlur(width)).point([0] * 24 + [255] * 232)
    outlined = Image.new("RGBA", canvas.size, (*pen.outline, 0))
    outlined.putalpha(grown)
    outlined.alpha_composite(canvas)
    sprite = outlined.reduce(_SCALE)
    return sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else sprite


def _paste_shadow(picture: Image.Image, item: SceneObject, size: int) -> None:
    shadow = _draw_shadow(round(item.extent * size))
    left = round(item.x * size) - shadow.width // 2
    picture.paste((20, 28, 48), (left, round(item.y * size) - shadow.height // 2), shadow)


@lru_cache(maxsize=64)
def _draw_shadow(extent: int) -> Image.Image:
    """A soft flat ellipse as a mask."""
    width, height = round(extent * 1.2), round(extent * 0.3)
    mask = Image.new("L", (width, height), 0)
    ImageDraw.Draw(mask).ellipse((width // 9, height // 4, width - width // 9, height - height // 4), fill=105)
    return mask.filter(ImageFilter.GaussianBlur(max(extent * 0.025, 1)))
