"""Open one image safely: upright, RGB, of a sane size; everything unreadable becomes an ImageError."""

import io
import logging
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from PIL import Image, ImageOps, UnidentifiedImageError

from captioner.errors import DataError, ImageError

if TYPE_CHECKING:
    import numpy

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".mpo",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".j2k",
        ".avif",
    ]
)
MAX_PIXELS = 200_000_000
"""Largest image in pixels, above every phone camera's: 0.6 GB as RGB."""
# Pillow reads more; what is left out either runs another program (EPS) or cannot be told from any text (TGA).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")

_SOURCE_TYPES = "a path, bytes, a binary file object, a PIL image or an array"
_header_lock = threading.Lock()


def open_image(
    source: "str | Path | bytes | IO[bytes] | Image.Image | numpy.ndarray", *, name: str | None = None
) -> Image.Image:
    """Open an image as it is meant to be seen: turned by its EXIF tag, in RGB, transparency on white, first frame.

    Arguments:
        source: path, encoded bytes, binary file object, PIL image, or array [height, width(, 1, 3 or 4)] of integers
            (8 or 16 bit), booleans or floats from 0 to 1.
        name: what error messages call the image; None: its path, or "the given image".

    Raises ImageError if there is no such file, or it is no image, is truncated or has more than MAX_PIXELS pixels.
    """
    name = name or _name_of(source)
    with _reading(name), _opened(source, name) as image:
        _check_size(image, name)
        image.load()
        return _to_rgb(_turn_upright(image, name))


def check_image(data: bytes, *, name: str) -> None:
    """Raise ImageError unless the encoded image can be decoded to its end; quicker than opening it for JPEGs."""
    with _reading(name), _opened(data, name) as image:
        _check_size(image, name)
        # libjpeg reads every bit for the smallest scale too, but computes only one pixel in 64.
        image.draft("RGB", (1, 1))
        image.load()


def list_images(folder: str | Path) -> list[Path]:
    """List the image files under a folder, by suffix, sorted; hidden files and folders are left out.

    Raises DataError if the folder does not exist or is a file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def _name_of(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    return name if isinstance(name, str) and name else "the given image"


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn whatever opening or decoding raises into an ImageError of one line."""
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name}: is a folder, not an image") from error
    except PermissionError as error:
        raise ImageError(f"{name}: no permission to read it") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: is not an image in a known format; convert it to JPEG or PNG") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: is too large to open safely ({error}); make it smaller") from error
    # Pillow's decoders raise nearly every type on malformed files (OSError, SyntaxError, struct.error, IndexError …).
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{name}: cannot be decoded ({reason}); copy or export it again") from error


@contextmanager
def _opened(source: Any, name: str) -> Iterator[Image.Image]:
    """Give the undecoded image; what was opened here is closed at the end, what the caller opened is left open."""
    if isinstance(source, Image.Image):
        yield source
    elif isinstance(source, (str, Path)):
        with open(source, "rb") as file, _identify(file, name) as image:
            yield image
    elif isinstance(source, (bytes, bytearray, memoryview)):
        with _identify(io.BytesIO(source), name) as image:
            yield image
    elif hasattr(source, "read"):
        yield _identify(source, name)
    elif hasattr(source, "__array_interface__"):
        yield _from_array(source, name)
    else:
        raise ImageError(f"{name}: {type(source).__name__} is not an image; give {_SOURCE_TYPES}")


def _identify(file: IO[bytes], name: str) -> Image.Image:
    if file.seekable() and not file.seek(0, io.SEEK_END):
        raise ImageError(f"{name}: is empty (0 bytes); copy or export it again")
    Image.init()
    formats = [format for format in FORMATS if format in Image.OPEN]
    # Pillow's own limit only warns up to twice its size, and is a global: it is lifted while the header is read, and
    # MAX_PIXELS is checked right after, before any pixel is decoded.
    with _header_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than the limit of {MAX_PIXELS:,}; make it smaller"
        )


def _turn_upright(image: Image.Image, name: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError, struct.error) as error:
        logger.warning("%s: its EXIF data is malformed (%s); used as it is, unturned", name, error)
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scale_to_bytes(image).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _scale_to_bytes(image: Image.Image) -> Image.Image:
    """Scale deep greyscale to 8 bit, which Pillow's ``convert`` would clip at 255."""
    import numpy

    values = numpy.nan_to_num(numpy.asarray(image).astype(numpy.float32), posinf=0.0).clip(min=0)  # [height, width]
    largest = float(values.max())
    if image.mode.startswith("I;16"):
        top = 65535.0
    elif image.mode == "F":
        top = 1.0 if largest <= 1 else max(255.0, largest)
    else:  # "I" holds 8-, 16- and 32-bit values alike; only the values tell
        top = 255.0 if largest <= 255 else max(65535.0, largest)
    return Image.fromarray((values / top * 255 + 0.5).astype(numpy.uint8))


def _from_array(array: Any, name: str) -> Image.Image:
    import numpy

    array = numpy.asarray(array)  # [height, width] or [height, width, channels]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))) or 0 in array.shape:
        raise ImageError(f"{name}: array of shape {list(array.shape)}; give [height, width] or [height, width, 3]")
    if array.dtype == bool:
        array = array * numpy.uint8(255)
    elif array.dtype.kind == "f":
        if not (numpy.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ImageError(f"{name}: array of floats outside 0 to 1; scale it, or give integers from 0 to 255")
        array = (array * 255 + 0.5).astype(numpy.uint8)
    elif array.dtype == numpy.uint16:
        array = ((array.astype(numpy.uint32) + 128) // 257).astype(numpy.uint8)
    elif array.dtype.kind in "iu":
        if array.min() < 0 or array.max() > 255:
            raise ImageError(f"{name}: array of integers outside 0 to 255; scale it, or give uint16")
        array = array.astype(numpy.uint8)
    else:
        raise ImageError(f"{name}: array of {array.dtype}; give integers, booleans or floats from 0 to 1")
    return Image.fromarray(array)
