"""In how many images' references an n-gram occurs: what CIDEr weighs n-grams by, from references or from a file."""

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from captioner.errors import DataError
from captioner.evaluation import ptb
from captioner.evaluation.ngrams import ORDERS

FORMAT = "captioner document frequencies 1"
FIELDS = ("images", "frequencies")


@dataclass(frozen=True)
class DocumentFrequencies:
    """Document frequencies of a set of images, for scoring one image, a stream, or a set by the weights of another."""

    images: int
    """How many images they were counted in."""
    frequencies: dict[str, int]
    """By the tokens of an n-gram joined by a blank; those of a single image are left out, as they weigh like none."""

    @classmethod
    def count(cls, references: Sequence[Sequence[str]]) -> "DocumentFrequencies":
        """Count in the untokenized references of each image."""
        tokenized = iter(ptb.tokenize([caption for group in references for caption in group]))
        frequencies: dict[str, int] = {}
        for group in references:
            for ngram in {ngram for _ in group for ngram in _list_ngrams(next(tokenized))}:
                frequencies[ngram] = frequencies.get(ngram, 0) + 1
        return cls(len(references), {ngram: count for ngram, count in frequencies.items() if count > 1})

    def save(self, path: str | Path) -> None:
        """Write them to a JSON file, compressed where its name ends in .gz."""
        content = {"format": FORMAT, **dict(zip(FIELDS, (self.images, self.frequencies), strict=True))}
        data = json.dumps(content, ensure_ascii=False).encode()
        Path(path).write_bytes(gzip.compress(data, mtime=0) if str(path).endswith(".gz") else data)

    @classmethod
    def load(cls, path: str | Path) -> "DocumentFrequencies":
        """Read what ``save`` wrote; raises DataError where the file is missing, damaged or of another kind."""
        try:
            data = Path(path).read_bytes()
            content = json.loads(gzip.decompress(data) if str(path).endswith(".gz") else data)
        except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
            raise DataError(f"{path}: cannot be read as document frequencies ({error})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT or not content.keys() >= {*FIELDS}:
            raise DataError(
                f"{path}: is not a file of document frequencies; write one with captioner evaluate "
                "--save-document-frequencies, or DocumentFrequencies.save"
            )
        images, frequencies = (content[field] for field in FIELDS)
        if not _is_count(images) or not isinstance(frequencies, dict) or not all(map(_is_count, frequencies.values())):
            raise DataError(
                f"{path}: is damaged: its images and frequencies have to be whole numbers of 1 or more; write it again "
                "with captioner evaluate --save-document-frequencies"
            )
        return cls(images, frequencies)

    def describe(self) -> str:
        """How many images they are of, and 8 digits of their SHA-256: what tells one file's scores from another's."""
        rows = [f"{ngram}\t{count}" for ngram, count in sorted(self.frequencies.items())]
        digits = hashlib.sha256("\n".join([str(self.images), *rows]).encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return f"document frequencies of {self.images:,} images, {digits}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _list_ngrams(caption: str) -> list[str]:
    words = caption.split()
    return [
        " ".join(words[start : start + order])
        for order in range(1, ORDERS + 1)
        for start in range(len(words) - order + 1)
    ]
