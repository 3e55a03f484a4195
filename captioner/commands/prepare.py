"""`python prepare_dataset.py SOURCE` and `captioner prepare`: check captioned images, write them as a dataset."""

from collections.abc import Sequence
from pathlib import Path

from captioner.commands.shell import CommandParser, guard

EXAMPLES = (
    "scenes",
    "flickr30k",
    "flickr30k-kaggle --root ~/Downloads/flickr30k --splits all",
    "folder --root my_photos",
)


def main(argv: Sequence[str] | None = None, *, prog: str = "python prepare_dataset.py") -> int:
    """Prepare a dataset; returns 0, or 2 after an error, which is told in one line on standard error."""
    return guard(lambda arguments: _main(arguments, prog), argv)


def _main(argv: Sequence[str], prog: str) -> int:
    arguments = _build_parser(prog).parse_args(argv)
    from captioner.data.prepared import prepare
    from captioner.data.sources import read_source

    folder = Path(arguments.data_folder) / (arguments.name or _default_name(arguments.source, arguments.root))
    manifest = prepare(
        read_source(arguments.source, arguments.root, seed=arguments.seed),
        folder,
        splits=arguments.splits,
        check_counts=not arguments.no_check_counts,
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
    )
    _report(manifest, folder, train="captioner train" if prog == "captioner prepare" else "python train.py")
    return 0


def _build_parser(prog: str) -> CommandParser:
    parser = CommandParser(
        prog,
        "Read captioned images, check them, and write them as a prepared dataset.",
        examples="\n".join(["examples:", *(f"  {prog} {example}" for example in EXAMPLES)]),
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="scenes, flickr8k, flickr30k, flickr30k-parquet, flickr30k-kaggle, flickr30k-token, karpathy or folder",
    )
    parser.add_argument("--root", metavar="FOLDER", help="the source's files; scenes and the Hub's flickr30k need none")
    parser.add_argument("--name", help="the dataset's name (default: the source's; for folder, its root's)")
    parser.add_argument("--data-folder", default="data", metavar="FOLDER", help="prepared datasets (default: data)")
    parser.add_argument(
        "--splits",
        choices=("standard", "all"),
        default="standard",
        help="all: train on every image of the source, also on those of validation and test",
    )
    parser.add_argument("--seed", type=int, default=0, help="of scenes, and of splits that are drawn (default: 0)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out images that cannot be read")
    parser.add_argument("--no-check-counts", action="store_true", help="take a part of a known dataset as it is")
    parser.add_argument("--overwrite", action="store_true", help="replace a dataset of this name")
    return parser


def _default_name(source: str, root: str | None) -> str:
    return Path(root).resolve().name if source == "folder" and root else source


def _report(manifest: dict, folder: Path, *, train: str) -> None:
    images = ", ".join(f"{count:,} {split}" for split, count in manifest["images"].items())
    print(f"{folder}: {images} images, {sum(manifest['captions'].values()):,} captions")
    from captioner.presets import PRESETS

    data_folder = "" if folder.parent == Path("data") else f" --data.folder {folder.parent}"
    preset = next((name for name, settings in PRESETS.items() if settings.data.name == folder.name), None)
    arguments = preset or f"flickr30k-clip --data.name {folder.name}"
    print(f"next: {train} {arguments}{data_folder}")
