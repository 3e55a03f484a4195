"""Yours to edit: the presets that train.py and train_tokenizer.py know, the shipped ones and your own.

A preset is one Settings value; start from a shipped one and change what differs:

    "my-photos": dataclasses.replace(SHIPPED["flickr30k-clip"], data=DataSettings(name="my_photos")),
"""

from captioner.presets import PRESETS as SHIPPED
from captioner.settings import Settings

PRESETS: dict[str, Settings] = {
    **SHIPPED,
}
