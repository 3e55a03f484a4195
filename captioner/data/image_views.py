"""Views of an image: itself, its mirror image, random crops; the same ones at every call and on every machine."""

import hashlib
import math
import random

from PIL import Image, ImageOps

CROP_SCALE = (0.6, 1.0)
"""Smallest and largest share of the image's area that a crop keeps."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Narrowest and widest change of a crop's width to height against the image's."""


def make_view(image: Image.Image, *, image_id: str, view: int) -> Image.Image:
    """View 0 is the image, 1 its mirror image, from 2 on a crop that only image_id and view decide, mirrored or not.

    The crop is Inception's (Szegedy et al. 2015, section 6) with a larger least area, so that captions stay true.
    """
    if view == 0:
        return image
    if view == 1:
        return ImageOps.mirror(image)
    chance = random.Random(hashlib.sha256(f"{image_id}\n{view}".encode()).digest())
    area = chance.uniform(*CROP_SCALE)
    ratio = math.exp(chance.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
    width = max(1, round(image.width * min(1.0, math.sqrt(area * ratio))))
    height = max(1, round(image.height * min(1.0, math.sqrt(area / ratio))))
    left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
    crop = image.crop((left, top, left + width, top + height))
    return ImageOps.mirror(crop) if chance.random() < 0.5 else crop
