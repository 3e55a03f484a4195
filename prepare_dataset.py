"""Prepare a dataset: `python prepare_dataset.py SOURCE --root FOLDER`; see --help."""

import sys

from captioner.commands.prepare import main


def prepare_flickr30k(root: str | None = None, folder: str = "data/flickr30k", **options) -> dict:
    """Prepare Flickr30k from the Hub, or from a folder with its files, and return the manifest.

    ``options`` are those of ``captioner.data.prepared.prepare``: splits, skip_bad, overwrite …
    """
    from captioner.data.prepared import prepare
    from captioner.data.sources import read_source

    return prepare(read_source("flickr30k", root), folder, **options)


if __name__ == "__main__":
    sys.exit(main())
