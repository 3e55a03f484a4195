"""Which images a captioner was trained on, small enough to travel with it: 8 bytes an image.

A captioner that was trained on from another one's weights has seen that one's images too.
"""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from captioner.data.photo_names import photo_key
from captioner.errors import DataError

FORMAT = 1
STREAM = "a stream of shards"
DIGEST_BYTES = 8


@dataclass(frozen=True)
class TrainingImages:
    """Digests of the images of a training split.

    Photos of Flickr and COCO are known by their numbers in every dataset, short or bare ones in those called so; other
    names, such as ``1.jpg``, mean the same image only within the dataset.
    """

    dataset: str
    """The dataset's name."""
    fingerprint: str
    """That of its manifest: a copy of the dataset under another name has it too."""
    digests: frozenset[bytes]
    earlier: tuple["TrainingImages", ...] = ()
    """Those of the trainings that the weights went through before, each without its own earlier ones."""
    listed: bool = True
    """False for a stream: there are no digests of its images, for nobody reads it through to name them."""

    @classmethod
    def of(cls, names: Iterable[str], *, dataset: str, fingerprint: str) -> "TrainingImages":
        """Take down the image ids of a training split."""
        keys = (_photo_key(name, dataset) or _plain_key(name) for name in names)
        return cls(dataset, fingerprint, frozenset(map(_digest, keys)))

    @classmethod
    def unlisted(cls, fingerprint: str) -> "TrainingImages":
        """Say that the images of these shards are not known."""
        return cls(STREAM, fingerprint, frozenset(), listed=False)

    @property
    def complete(self) -> bool:
        """Whether the images of every training are known."""
        return all(one.listed for one in self.lists())

    def after(self, earlier: "TrainingImages") -> "TrainingImages":
        """These, seen by weights that had seen others before; what was seen twice is listed once."""
        lists = {(one.dataset, one.fingerprint): one for one in reversed(earlier.lists())}
        same = lists.pop((self.dataset, self.fingerprint), None)
        digests = self.digests | same.digests if same else self.digests
        return replace(self, digests=digests, earlier=tuple(reversed(lists.values())))

    def lists(self) -> tuple["TrainingImages", ...]:
        """The images of every training, the newest one first."""
        return replace(self, earlier=()), *self.earlier

    def shared(self, names: Sequence[str], *, dataset: str, fingerprint: str) -> list[str]:
        """Return those of a split's image ids that were trained on.

        Arguments:
            names: image ids.
            dataset: the name of the dataset that they come from.
            fingerprint: that dataset's.
        """
        found = set().union(*(one._shared(names, dataset, fingerprint) for one in self.lists()))
        return [name for name in names if name in found]

    def _shared(self, names: Sequence[str], dataset: str, fingerprint: str) -> set[str]:
        """Those of this training alone."""
        same = dataset == self.dataset or fingerprint == self.fingerprint
        keys = {name: _photo_key(name, dataset) or (_plain_key(name) if same else None) for name in names}
        return {name for name, key in keys.items() if key and _digest(key) in self.digests}

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "fingerprint": self.fingerprint,
            "images": len(self.digests) if self.listed else None,
            "digests": base64.b64encode(b"".join(sorted(self.digests))).decode("ascii"),
            **({"earlier": [one.to_dict() for one in self.earlier]} if self.earlier else {}),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "TrainingImages":
        """Read what ``to_dict`` gave; raises DataError where it is damaged or of another version."""
        try:
            joined = base64.b64decode(content["digests"], validate=True)
            starts = range(0, len(joined), DIGEST_BYTES)
            digests = frozenset(joined[start : start + DIGEST_BYTES] for start in starts)
            listed = content["images"] is not None
            if content["format"] != FORMAT or len(digests) != (content["images"] if listed else 0):
                raise ValueError(f"format {content['format']}, {len(digests)} digests of {content['images']} images")
            earlier = tuple(map(cls.from_dict, content.get("earlier", ())))
            return cls(content["dataset"], content["fingerprint"], digests, earlier, listed)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"the list of training images is damaged or of another version ({error})") from error


def refuse_overlap(
    trained: TrainingImages, evaluated: Sequence[str], *, split: str, dataset: str, fingerprint: str
) -> None:
    """Raise DataError if a split has images that the captioner was trained on; arguments as for ``shared``."""
    shared = trained.shared(evaluated, dataset=dataset, fingerprint=fingerprint)
    if shared:
        raise DataError(
            f"{len(shared):,} of the {len(evaluated):,} images of split {split} were in the captioner's training "
            f"(first: {shared[0]}); choose another split, or give --allow-overlap"
        )


def _photo_key(name: str, dataset: str) -> str | None:
    return photo_key(name, flickr="flickr" in dataset.lower(), coco="coco" in dataset.lower())


def _plain_key(name: str) -> str:
    return f"name:{name}"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:DIGEST_BYTES]
