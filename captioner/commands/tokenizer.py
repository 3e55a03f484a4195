"""``train_tokenizer.py`` and ``captioner tokenizer``: train the BPE tokenizer of a prepared dataset."""

import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from captioner.commands.settings_arguments import format_flags, parse_settings
from captioner.commands.shell import guard
from captioner.settings import Settings

if TYPE_CHECKING:
    from captioner.data.tokenizer import CaptionTokenizer

logger = logging.getLogger(__name__)

DESCRIPTION = """Train the BPE tokenizer of a prepared dataset on its training captions, and write it into its folder.

Only the data and tokenizer settings matter here; they are those of train.py, so that it finds the tokenizer it wants.
Without PRESET, the preset made for --data.name is taken."""
EXAMPLES = ("", "--data.name flickr8k", "flickr30k-clip --data.name my_photos --tokenizer.vocabulary-size 8000")
EXAMPLES_SHOWN = 3


def main(
    argv: Sequence[str] | None = None,
    *,
    presets: Mapping[str, Settings] | None = None,
    prog: str = "python train_tokenizer.py",
) -> int:
    """Train the tokenizer and return the exit status.

    Arguments:
        argv: the arguments, None for those of the process.
        presets: name -> settings; None: the shipped ones.
        prog: the command as the user typed it.
    """
    return guard(lambda arguments: _run(arguments, presets=presets, prog=prog), argv)


def _run(argv: Sequence[str], *, presets: Mapping[str, Settings] | None, prog: str) -> int:
    from captioner.data.dataset_tokenizer import train_dataset_tokenizer
    from captioner.data.prepared import open_prepared, read_manifest

    if presets is None:
        from captioner import presets as shipped

        presets = shipped.PRESETS
    preset, settings = _read_arguments(argv, presets=presets, prog=prog)
    folder = Path(settings.data.folder) / settings.data.name
    fingerprint = read_manifest(folder)["fingerprint"]
    dataset = open_prepared(folder)
    tokenizer = train_dataset_tokenizer(dataset, folder, settings.tokenizer, fingerprint)
    examples = [captions[0] for captions in dataset["train"][:EXAMPLES_SHOWN]["captions"] if captions]
    _report(tokenizer, examples, folder)
    train = "captioner train" if prog == "captioner tokenizer" else "python train.py"
    print(f"next: {train} {shlex.join([preset, *format_flags(presets[preset], settings)])}")
    return 0


def _read_arguments(argv: Sequence[str], *, presets: Mapping[str, Settings], prog: str) -> tuple[str, Settings]:
    def parse(arguments: Sequence[str]) -> tuple[str, Settings]:
        preset, settings, _ = parse_settings(
            arguments, presets=presets, prog=prog, description=DESCRIPTION, examples=EXAMPLES
        )
        return preset, settings

    preset, settings = parse(argv)
    if (argv and not argv[0].startswith("-")) or settings.data.name == presets[preset].data.name:
        return preset, settings
    made_for_it = [name for name, value in presets.items() if value.data.name == settings.data.name]
    if made_for_it:
        return parse([made_for_it[0], *argv])
    logger.info("No preset is made for %s: taking the tokenizer settings of %s", settings.data.name, preset)
    return preset, settings


def _report(tokenizer: "CaptionTokenizer", captions: Sequence[str], folder: Path) -> None:
    from captioner.data.dataset_tokenizer import read_tokenizer_manifest
    from captioner.data.tokenizer import TOKENIZER_FILE

    for caption in captions:
        print(f"{caption}\n  {' | '.join(tokenizer.split(caption))}\n  {tokenizer.decode(tokenizer.encode(caption))}")
    manifest = read_tokenizer_manifest(folder)
    size, mean, count = (manifest[key] for key in ("vocabulary_size", "mean_tokens", "captions"))
    print(f"{folder / TOKENIZER_FILE}: {size:,} tokens; {mean:.1f} a caption in {count:,} training captions")
