"""Which photo a file's name tells of: the same one may go by other names in other datasets."""

import re
from pathlib import PurePosixPath

# COCO_val2014_000000391895.jpg of 2014 is 000000391895.jpg of 2017.
COCO = re.compile(r"(?:COCO_(?:train|val|test)20\d\d_)?(\d{12})\.\w+")
# 1000268201_693b08cb0e.jpg of Flickr8k is 1000268201.jpg of Flickr30k; shorter numbers may be anything's.
FLICKR = re.compile(r"([1-9]\d{5,10})(?:_[0-9a-f]+)?\.\w+")


def photo_key(image_id: str) -> str | None:
    """Return "coco:391895" or "flickr:1000268201" for a name that these collections gave, else None.

    Arguments:
        image_id: a file's name, with or without folders.
    """
    name = PurePosixPath(image_id).name
    if found := COCO.fullmatch(name):
        return f"coco:{int(found[1])}"
    if found := FLICKR.fullmatch(name):
        return f"flickr:{found[1]}"
    return None
