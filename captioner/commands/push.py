"""``captioner push``: upload an export to the Hugging Face Hub."""

from collections.abc import Sequence
from pathlib import Path

from captioner.commands.shell import CommandParser, guard
from captioner.errors import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Push from the command line; returns the exit status."""
    return guard(_push, argv)


def _push(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    if not options.run.is_dir():
        raise ConfigError(f"{options.run}: no such folder; name a run or an export, like checkpoints/scenes")

    from captioner.publish import push

    print(push(options.run, options.repo_id, private=not options.public, checkpoint=options.checkpoint))
    return 0


def _parser() -> CommandParser:
    parser = CommandParser(
        "captioner push",
        "Upload an export (weights, tokenizer, settings, metrics and model card) to the Hugging Face Hub.",
        examples="example:\n  captioner push checkpoints/flickr30k-clip me/captioner",
    )
    parser.add_argument("run", type=Path, help="folder of a run or an export")
    parser.add_argument("repo_id", help="repository, such as me/captioner; made where it is missing")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    parser.add_argument(
        "--checkpoint",
        action="store_true",
        help="upload the run's newest checkpoint too, so that training can be resumed from there",
    )
    return parser
