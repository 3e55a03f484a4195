"""``caption``: captions of images on standard output, or in a file."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.commands.caption_outputs import Captioned, CaptionFile, open_output
from captioner.commands.decoding_arguments import add_decoding_flags, given_decoding
from captioner.commands.shell import CommandParser, check_output, guard
from captioner.errors import CheckpointError, ConfigError, ImageError

if TYPE_CHECKING:
    from captioner.api import Captioner

STDIN = "-"
CHECKPOINTS = Path("checkpoints")
OPENED_TOGETHER = 16
"""Images in memory at a time, where --batch-size does not say: a phone's photo takes 40 MB and more."""
EXAMPLES = """\
examples:
  caption photo.jpg                           one image: just its caption
  caption a.jpg b.png                         several: path<TAB>caption
  caption photos/ --output captions.jsonl     into a file; run again to continue
  caption photo.jpg --model me/captioner --beams 5 --candidates 3
  cat photo.jpg | caption - --json

exit status: 0 all captioned, 1 some images unreadable, 2 wrong usage or model
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Caption from the command line; returns the exit status."""
    return guard(_run, argv)


def _parser() -> CommandParser:
    parser = CommandParser("caption", "Caption images.", examples=EXAMPLES)
    parser.usage = "caption [options] IMAGE|FOLDER|- ..."
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE|FOLDER|-", help="files, folders, or - for an image on stdin")
    add("--model", help="export, run or Hub id (default: the newest one here)")
    add("--candidates", type=int, default=1, metavar="N", help="captions an image, best first")
    add("--batch-size", type=int, metavar="N", help=f"images captioned together (default: {OPENED_TOGETHER})")
    add("--json", action="store_true", help="print a JSON object a line, with confidence")
    add("--log-probabilities", action="store_true", help="with --json or .jsonl: of each token too")
    add("--min-confidence", type=float, metavar="X", help="leave captions below this confidence blank")
    add("--output", metavar="FILE", help="write to FILE.jsonl or .csv; what is in it is skipped")
    add("--sidecar", action="store_true", help="write a .txt beside each image that has none")
    add("--explain", metavar="FILE.png", help="draw where the decoder looked for each word")
    add("--explain-layers", metavar="N,N", help="decoder layers to draw, like 0,-1 (default: all)")
    add("--device", default="auto", help="auto, cpu, cuda or mps")
    add_decoding_flags(parser, leave_out=["batch_size"], explained=["beams", "samples"])
    return parser


def _run(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    _check_options(options)
    output = open_output(options.output, least=options.min_confidence) if options.output else None
    paths = list(find_images(options.images))
    sidecars = name_sidecars(paths) if options.sidecar else {}
    waiting = _leave_out_done(paths, output, sidecars)
    if options.explain:
        waiting = paths  # what is captioned already is drawn all the same
    if not waiting:
        return 0
    captioner = load_captioner(options.model, options.device)
    _check_confidence(captioner, options)
    if output:
        output.forget_blank(waiting)
    single = len(paths) == 1 and not any(Path(name).is_dir() for name in options.images)
    failed = blank = 0
    for result in caption_files(captioner, waiting, options):
        if isinstance(result, ImageError):
            failed += 1
            print(result, file=sys.stderr)
            continue
        if options.explain:
            layers = _parse_layers(options.explain_layers)
            captioner.explain(Path(result.path), result.captions[0], layers=layers).draw(options.explain)
        if options.min_confidence is not None:
            result = result.without_doubtful(options.min_confidence)
            blank += not result.captions[0].text
        _write_where_missing(result, output, sidecars)
        if not (output or sidecars):
            print(_format(result, single=single, as_json=options.json), flush=True)
    if blank:
        told = "the caption is" if len(waiting) == 1 else f"{blank} of {len(waiting)} captions are"
        print(f"{told} left blank: confidence below {options.min_confidence:g}", file=sys.stderr)
    if failed and len(waiting) > 1:
        print(f"{failed} of {len(waiting)} images could not be captioned", file=sys.stderr)
    return 1 if failed else 0


def _check_options(options: argparse.Namespace) -> None:
    if options.sidecar and STDIN in options.images:
        raise ConfigError("--sidecar: an image from standard input has no place beside it; use --output")
    if options.min_confidence is not None and not 0 <= options.min_confidence <= 1:
        raise ConfigError(f"--min-confidence {options.min_confidence:g}: use a number from 0 to 1")
    if options.explain and (len(options.images) != 1 or options.images[0] == STDIN or Path(options.images[0]).is_dir()):
        raise ConfigError("--explain: one panel a word needs one image; name a single file")
    if options.explain:
        check_output(options.explain)
        if Path(options.explain).suffix.lower() != ".png":
            raise ConfigError(f"--explain {options.explain}: the name must end in .png")
    if options.explain_layers and not options.explain:
        raise ConfigError(f"--explain-layers {options.explain_layers}: there is nothing to draw; give --explain too")
    if options.json and (options.output or options.sidecar):
        raise ConfigError("--json: nothing is printed beside files; drop it (--output FILE.jsonl writes JSON)")
    if options.log_probabilities and not (options.json or str(options.output).endswith(".jsonl")):
        raise ConfigError("--log-probabilities: only JSON has room for them; give --json or --output FILE.jsonl too")
    for name in ("candidates", "beams", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: use 1 or more")


def _check_confidence(captioner: "Captioner", options: argparse.Namespace) -> None:
    """Refuse a least confidence without a calibration; tell where confidence was fitted to another decoding."""
    if options.min_confidence is not None and captioner.calibration is None:
        raise ConfigError(
            "--min-confidence: the model's confidence is not calibrated; run `captioner calibrate` on its export"
        )
    if not (options.json or options.output or options.min_confidence is not None):
        return
    fitted = captioner.calibration_mismatch(candidates=options.candidates, **given_decoding(options))
    if fitted:
        print(
            f"confidence was fitted to another decoding ({fitted}) and may be off; "
            "`captioner evaluate` with these settings tells by how much",
            file=sys.stderr,
        )


def _parse_layers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(number) for number in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--explain-layers {text}: use numbers with commas between, like 0,2") from error


def _leave_out_done(paths: Sequence[str], output: CaptionFile | None, sidecars: dict[str, Path]) -> list[str]:
    """The images that are still to be captioned; standard error is told how many are not."""

    def is_missing(path: str) -> bool:
        return not (output or sidecars) or _lacks(output, path) or (bool(sidecars) and not _has_text(sidecars[path]))

    waiting = [path for path in paths if is_missing(path)]
    if len(waiting) < len(paths):
        places = [output.path if output else None, ".txt files beside them" if sidecars else None]
        told = " and ".join(str(place) for place in places if place)
        print(f"{len(paths) - len(waiting)} of {len(paths)} images are in {told} already", file=sys.stderr)
    return waiting


def _write_where_missing(result: Captioned, output: CaptionFile | None, sidecars: dict[str, Path]) -> None:
    if sidecars and not _has_text(sidecars[result.path]):
        sidecars[result.path].write_text(result.captions[0].text + "\n", encoding="utf-8")
    if output and _lacks(output, result.path):
        output.write(result)


def _lacks(output: CaptionFile | None, path: str) -> bool:
    """Whether a file is still to get an image's captions; standard input is another image every time."""
    return output is not None and (path == STDIN or path not in output.done)


def _has_text(sidecar: Path) -> bool:
    """Whether somebody or something wrote a caption: a blank file is one of too low a confidence."""
    return sidecar.exists() and bool(sidecar.read_bytes().strip())


def name_sidecars(paths: Sequence[str]) -> dict[str, Path]:
    """The .txt beside every image: a.txt for a.jpg, but a.jpg.txt and a.png.txt where both are there."""
    plain = {path: Path(path).with_suffix(".txt") for path in paths}
    full = {path: Path(f"{path}.txt") for path in paths}
    uses = Counter([*plain.values(), *full.values()])
    return {path: name if uses[name] == 1 else full[path] for path, name in plain.items()}


def find_images(names: Sequence[str]) -> Iterator[str]:
    """The images that the arguments name, those of folders in order.

    An image that is named twice, or named and in a folder, comes once, as it was named first. A missing file among
    others is one unreadable image; raises ConfigError if none is there, or a folder has none.
    """
    if not any(name == STDIN or Path(name).exists() for name in names):
        raise ConfigError(f"{', '.join(names)}: no such file or folder; check the path")
    known = set()
    for path in _look_into_folders(names):
        place = path if path == STDIN else os.path.abspath(path)
        if place not in known:
            known.add(place)
            yield path


def _look_into_folders(names: Sequence[str]) -> Iterator[str]:
    from captioner.data.images import list_images

    for name in names:
        if name != STDIN and Path(name).is_dir():
            found = list_images(Path(name))
            if not found:
                raise ConfigError(f"{name}: the folder holds no images; name one with JPEG, PNG or other image files")
            yield from map(str, found)
        else:
            yield name


def load_captioner(model: str | None, device: str) -> "Captioner":
    """The captioner to use: the given one, else the newest export under checkpoints/, which standard error is told."""
    from captioner.export_reading import newest_best

    if model is None:
        newest = newest_best(CHECKPOINTS)
        if newest is None:
            raise CheckpointError(
                f"there is no model under {CHECKPOINTS}/: train one with `captioner train` (about two minutes), "
                "or name one with --model"
            )
        print(f"model: {newest}", file=sys.stderr)
        model = str(newest)

    import torch

    from captioner.api import Captioner

    captioner = Captioner.from_pretrained(model)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return captioner.to(device)
    except (RuntimeError, AssertionError) as error:  # torch's words for a device that is not there
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}; use auto or cpu") from error


def caption_files(captioner: "Captioner", paths: Sequence[str], options: Any) -> Iterator[Captioned | ImageError]:
    """Caption files in batches, in their order; an unreadable one gives its error in its place."""
    from captioner.progress import Progress

    size = min(options.batch_size or OPENED_TOGETHER, len(paths))
    spell = captioner.spell if options.log_probabilities else None
    remaining = iter(paths)
    quiet = len(paths) <= size
    with (
        ThreadPoolExecutor() as pool,
        Progress("captioning", total=len(paths), unit="images", enabled=not quiet) as bar,
    ):
        while chunk := list(islice(remaining, size)):
            opened = list(pool.map(_open, chunk))
            images = [image for image in opened if not isinstance(image, ImageError)]
            found = iter(
                captioner.caption(
                    images, candidates=options.candidates, **{**given_decoding(options), "batch_size": size}
                )
                if images
                else []
            )
            for path, image in zip(chunk, opened, strict=True):
                if isinstance(image, ImageError):
                    yield image
                else:
                    captions = next(found)
                    yield Captioned(path, captions if options.candidates > 1 else [captions], spell)
            bar.advance(len(chunk))


def _open(path: str) -> Any:
    from captioner.data.images import open_image

    try:
        if path == STDIN:
            return open_image(sys.stdin.buffer.read(), name="standard input")
        return open_image(Path(path))
    except ImageError as error:
        return error


def _format(result: Captioned, *, single: bool, as_json: bool) -> str:
    if as_json:
        return json.dumps(result.record(), ensure_ascii=False)
    prefix = "" if single else f"{result.path}\t"
    return "\n".join(prefix + caption.text for caption in result.captions)
