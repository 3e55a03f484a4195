"""``captioner export``: an export's network in another format."""

from collections.abc import Sequence
from pathlib import Path

from captioner.commands.shell import CommandParser, guard

EXAMPLES = """examples:
  captioner export checkpoints/flickr8k/best --format onnx --output flickr8k-onnx
"""
FORMATS = ("onnx",)


def main(argv: Sequence[str] | None = None) -> int:
    """Export from the command line; returns the exit status."""
    return guard(_export, argv)


def _export(argv: Sequence[str]) -> int:
    parser = CommandParser(
        "captioner export",
        "Write the encoder and a step of the decoder as ONNX files, with what else captioning takes.",
        examples=EXAMPLES,
    )
    parser.add_argument("model", help="folder of an export or a run, or a Hub id")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: onnx")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a new or empty folder")
    options = parser.parse_args(argv)

    from captioner.export_reading import find_export, read_export
    from captioner.onnx_export import ENCODER, STEP, export_onnx

    folder = Path(options.output)
    export_onnx(read_export(find_export(options.model)), folder)
    print(f"{folder}: {ENCODER} and {STEP}; captioner.onnx_captioner.OnnxCaptioner(folder) runs them")
    return 0
