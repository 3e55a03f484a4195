"""Where a vision model comes from: a local folder, the Hub at a pinned revision, or a config in the settings."""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library that the Hub's own one uses; which one, depends on its version
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from captioner.errors import ConfigError, HubError
from captioner.settings import EncoderSettings

logger = logging.getLogger(__name__)

WANTED_FILES = ["config.json", "*processor_config.json", "model*.safetensors", "model.safetensors.index.json"]
PICKLED_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")
# The pull request that the Hub's conversion bot opens on repositories with pickled weights only.
CONVERSION_AUTHOR = "SFconvertbot"
CONVERSION_TITLE = "Adding `safetensors` variant of this model"
SCRATCH_SIZE = 224
"""Side of the input in pixels of an encoder from a config that says nothing else."""


class EncoderFiles(NamedTuple):
    """Where the files are, and the Hub commit they come from ("" for a local folder)."""

    folder: Path
    revision: str


def find_encoder_files(name: str, revision: str = "") -> EncoderFiles:
    """Find the folder of a vision model with safetensors weights, downloading it where needed.

    Args:
        name: local folder or Hub id.
        revision: Hub branch, tag, pull request or commit; empty: the repository's default.

    Raises ConfigError if the folder or its files are missing, HubError if the Hub does not deliver.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_files(folder, name)
        return EncoderFiles(folder, "")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or folder.exists():
        raise ConfigError(f"encoder.name={name}: no such folder; give a folder with config.json, or a Hub id")
    folder = _download(name, revision)
    if not revision and not _has_safetensors(folder):
        folder = _download_conversion(name, folder)
    _check_files(folder, name)
    return EncoderFiles(folder, folder.name)  # a snapshot's folder is called after its commit


def parse_encoder_config(settings: EncoderSettings) -> dict[str, Any]:
    """The transformers config in settings.config, with ``image_size`` and ``input_size`` in pixels filled in.

    Raises ConfigError if it is no JSON object with a model_type.
    """
    try:
        config = json.loads(settings.config)
    except json.JSONDecodeError as error:
        raise ConfigError(f"encoder.config is no JSON ({error}); correct it") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ConfigError('encoder.config has no model_type; write it as {"model_type": "vit", ...}')
    size = settings.image_size or config.get("image_size") or SCRATCH_SIZE
    return config | {"image_size": size, "input_size": size}


def in_one_line(error: Exception) -> str:
    """A library's message of several lines as one, not too long for a parenthesis."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."


def _has_safetensors(folder: Path) -> bool:
    return any(folder.glob("model*.safetensors"))


def _check_files(folder: Path, name: str) -> None:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"encoder.name={name}: no config.json in it; give the folder of a transformers model")
    if _has_safetensors(folder):
        return
    pickled = sorted(path.name for pattern in PICKLED_WEIGHTS for path in folder.glob(pattern))
    if pickled:
        raise ConfigError(
            f"encoder.name={name}: its weights are in {pickled[0]} and only safetensors are read; convert them where"
            " you trust them: AutoModel.from_pretrained(folder).save_pretrained(folder)"
        )
    raise ConfigError(
        f"encoder.name={name}: no model.safetensors in it; fetch the weights, or set encoder.revision to a commit or"
        " pull request that has them (refs/pr/NUMBER)"
    )


def _download(name: str, revision: str) -> Path:
    """Download config, preprocessing and weights of a Hub repository, or find them in the Hub's local cache."""
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=WANTED_FILES))
    except HFValidationError as error:
        raise ConfigError(f"encoder.name={name}: no such folder, and no Hub id either (owner/name)") from error
    except GatedRepoError as error:
        raise HubError(
            f"{name}: access is granted on its Hub page; ask for it there and run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"{name}: no such folder here and no such repository on the Hub; check encoder.name, and run"
            " `hf auth login` where it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{name}: the Hub knows no revision {revision}; correct encoder.revision") from error
    except LocalEntryNotFoundError as error:
        raise HubError(
            f"{name}: no such folder here, not downloaded before, and the Hub cannot be reached; connect and run again,"
            " or give a local folder as encoder.name"
        ) from error
    except (HfHubHTTPError, HTTPError) as error:
        raise HubError(f"{name}: the download failed ({in_one_line(error)}); run again to continue it") from error


def _download_conversion(name: str, folder: Path) -> Path:
    """The conversion bot's safetensors of a repository whose default branch has none; else the same folder again."""
    try:
        requests = HfApi().get_repo_discussions(name, author=CONVERSION_AUTHOR, discussion_type="pull_request")
        found = [request for request in requests if request.title == CONVERSION_TITLE and request.status == "open"]
    except (HfHubHTTPError, HTTPError) as error:
        raise HubError(
            f"{name}: has no safetensors on its default branch, and its pull requests cannot be listed"
            f" ({in_one_line(error)}); set encoder.revision"
        ) from error
    if not found:
        return folder
    revision = found[0].git_reference
    logger.warning(
        "%s has no safetensors on its default branch; taking those of %s, %s (pin it with encoder.revision)",
        name,
        CONVERSION_AUTHOR,
        revision,
    )
    return _download(name, revision)
