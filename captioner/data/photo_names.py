"""Which photo a file's name tells of: the same one may go by other names in other datasets."""

import re
from pathlib import PurePosixPath

DATE = r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
# COCO_val2014_000000391895.jpg of 2014 is 000000391895.jpg of 2017; 000000000001.jpg may be anybody's.
COCO = re.compile(r"(COCO_(?:train|val|test)20\d\d_)?0{6}(\d{6})\.\w+")
# 1000268201_693b08cb0e.jpg of Flickr8k is 1000268201.jpg of Flickr30k. 20240101_1234567890.jpg is a phone's.
FLICKR = re.compile(rf"(?!{DATE}_\d{{10}}\.)([1-9]\d{{5,10}})_[0-9a-f]{{10}}\.\w+")
NUMBER = re.compile(r"([1-9]\d{5,10})\.\w+")
# As long as nearly all numbers of Flickr30k, and no date: 100001.jpg and 20240101.jpg may be anybody's.
FLICKR_NUMBER = re.compile(rf"(?!{DATE}$)\d{{8,10}}")


def photo_key(image_id: str, *, flickr: bool = False, coco: bool = False) -> str | None:
    """Return "coco:391895" or "flickr:1000268201" for a name that these collections gave, else None.

    Arguments:
        image_id: a file's name, with or without folders.
        flickr: whether any number alone is known to be that of a photo of Flickr, and not only those of its length.
        coco: whether twelve digits alone are known to be those of a photo of COCO.
    """
    name = PurePosixPath(image_id).name
    if (found := COCO.fullmatch(name)) and (coco or found[1]):
        return f"coco:{int(found[2])}"
    if found := FLICKR.fullmatch(name):
        return f"flickr:{found[1]}"
    if (found := NUMBER.fullmatch(name)) and (flickr or FLICKR_NUMBER.fullmatch(found[1])):
        return f"flickr:{found[1]}"
    return None


def image_key(image_id: str) -> str:
    """What an image is called where sets are compared: a photo has one key whatever its name, others keep theirs.

    Numbers alone are taken for photos' here: images that differ still have different keys.
    """
    return number_key(image_id) or PurePosixPath(image_id).as_posix()


def number_key(image_id: str) -> str | None:
    """As ``photo_key``, of a name with or without its ending, any number of which is known to be a photo's."""
    names = (image_id, f"{image_id}.jpg")
    return next(filter(None, (photo_key(name, flickr=True, coco=True) for name in names)), None)
