"""``captioner calibrate``: fit the confidence of an export that has none, or to another dataset."""

from collections.abc import Sequence
from pathlib import Path

from captioner.commands.shell import CommandParser, guard
from captioner.errors import CheckpointError

EXAMPLES = """examples:
  captioner calibrate checkpoints/flickr8k/best
  captioner calibrate checkpoints/flickr8k/best --data data/my_photos
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Calibrate from the command line; returns the exit status."""
    return guard(_calibrate, argv)


def _calibrate(argv: Sequence[str]) -> int:
    parser = CommandParser(
        "captioner calibrate",
        "Fit an export's confidence to a split, and store it in the export; training does so by itself.",
        examples=EXAMPLES,
    )
    parser.add_argument("model", help="folder of an export or a run")
    parser.add_argument("--data", metavar="FOLDER", help="prepared dataset (default: the one it was trained on)")
    parser.add_argument("--split", default="validation", help="split to fit to (default: validation)")
    options = parser.parse_args(argv)

    from captioner.api import Captioner
    from captioner.calibration import calibrate
    from captioner.data.prepared import open_prepared
    from captioner.export_reading import find_export
    from captioner.export_writing import write_calibration

    if not Path(options.model).is_dir():
        raise CheckpointError(f"{options.model} is no folder; calibrate a local export, like checkpoints/scenes/best")
    folder = find_export(options.model)
    captioner = Captioner.from_pretrained(folder)
    data = captioner.settings.data
    calibration = calibrate(
        captioner, open_prepared(Path(options.data or Path(data.folder) / data.name)), options.split
    )
    write_calibration(calibration, folder)
    origin = calibration.origin
    print(
        f"{folder}: confidence fitted to {origin['images']:,} images of {options.split}, "
        f"of whose captions {origin['accepted']:.1%} are accepted ({origin['decoding']})"
    )
    return 0
