"""The tokenizer of a prepared dataset or a stream, with a manifest that tells what it was made from."""

import hashlib
import logging
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.data.tokenizer import TOKENIZER_FILE, CaptionTokenizer, dump_json, read_json, write_atomically
from captioner.errors import DataError
from captioner.settings import TokenizerSettings

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.getLogger(__name__)

MANIFEST_FILE = "tokenizer.manifest.json"


def train_dataset_tokenizer(
    dataset: "DatasetDict", folder: Path | str, settings: TokenizerSettings, dataset_fingerprint: str
) -> CaptionTokenizer:
    """Train on the training captions of a prepared dataset and write the tokenizer with its manifest into a folder.

    Arguments:
        dataset: a prepared dataset; only ``dataset["train"]["captions"]`` is read.
        folder: where ``tokenizer.json``, ``tokenizer_config.json`` and ``tokenizer.manifest.json`` go.
        settings: the tokenizer's settings.
        dataset_fingerprint: the prepared dataset's, by which ``open_dataset_tokenizer`` knows it again.

    Raises DataError where there is no training caption, ConfigError where the vocabulary is too small.
    """
    folder = Path(folder)
    captions = list(chain.from_iterable(dataset["train"]["captions"]))
    if not any(caption.strip() for caption in captions):
        raise DataError(f"{folder}: the training split has no captions to train a tokenizer on; prepare it again")
    tokenizer = CaptionTokenizer.train(captions, settings)
    tokens = sum(map(len, tokenizer.encode_batch(captions)))
    tokenizer.save(folder / TOKENIZER_FILE)
    # The manifest comes last and names the file's hash: without it, or with another's, the tokenizer counts as missing.
    manifest = {
        "settings": asdict(settings),
        "dataset_fingerprint": dataset_fingerprint,
        "vocabulary_size": len(tokenizer),
        "mean_tokens": round(tokens / len(captions), 4),
        "captions": len(captions),
        "sha256": _hash(folder / TOKENIZER_FILE),
    }
    write_atomically(folder / MANIFEST_FILE, dump_json(manifest))
    return tokenizer


def open_dataset_tokenizer(
    folder: Path | str, settings: TokenizerSettings, dataset_fingerprint: str
) -> CaptionTokenizer | None:
    """Open the tokenizer of a prepared dataset; None where it is missing, torn, or made otherwise.

    Arguments:
        folder: the prepared dataset's folder.
        settings: the settings it must have been trained with.
        dataset_fingerprint: the fingerprint of the dataset it must have been trained on.
    """
    folder = Path(folder)
    path = folder / TOKENIZER_FILE
    if not path.is_file() or not (folder / MANIFEST_FILE).is_file():
        return None
    try:
        manifest = read_tokenizer_manifest(folder)
    except DataError as error:
        logger.warning("%s", error)
        return None
    made_from = {"settings": asdict(settings), "dataset_fingerprint": dataset_fingerprint, "sha256": _hash(path)}
    if any(manifest.get(key) != value for key, value in made_from.items()):
        return None
    return CaptionTokenizer.from_json(path.read_text(encoding="utf-8"), capitalise=settings.capitalise)


def read_tokenizer_manifest(folder: Path | str) -> dict[str, Any]:
    """Read what ``train_dataset_tokenizer`` noted about a tokenizer; raises DataError where it is missing or torn."""
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        raise DataError(f"{path}: no such file; make the tokenizer with `python train_tokenizer.py`")
    return read_json(path)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
