"""What can go wrong, as types. Every message is one line that names the thing and the remedy.

CaptionerError
├── ConfigError       a setting is wrong, or settings do not fit each other
├── DataError         a dataset, caption file or tokenizer is missing, torn or malformed
│   └── ImageError    one image cannot be read
├── CheckpointError   a run, checkpoint or export is missing, torn or of another version
└── HubError          the Hugging Face Hub could not be reached or refused
"""

import errno
import os
import re

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Numbers of the OSErrors that say that there is no room: on the disk, within a quota, within the largest file."""


class CaptionerError(Exception):
    """Base of every error that captioner raises on purpose."""


class ConfigError(CaptionerError):
    """One or more settings are wrong; ``problems`` lists them all."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("; ".join(problems))


class DataError(CaptionerError):
    """A dataset, caption file or tokenizer is missing, torn or malformed."""


class ImageError(DataError):
    """One image cannot be read."""


class CheckpointError(CaptionerError):
    """A run, checkpoint or export is missing, torn or of another version."""


class HubError(CaptionerError):
    """The Hugging Face Hub could not be reached, or refused."""


def as_os_error(error: Exception, *path: object) -> OSError:
    """The error of the system that a library reports as one of its own, as safetensors does with a full disk."""
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), *map(str, path)) if number else OSError(str(error))
