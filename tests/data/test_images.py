"""Opening images: every mode, every turn, and everything that is no image."""

import io
import struct
import warnings

import numpy
import pytest
from PIL import Image

from captioner.data import images
from captioner.data.images import check_image, list_images, open_image
from captioner.errors import DataError, ImageError


def encode(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def noise_jpeg(size=(64, 48)) -> bytes:
    values = numpy.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
    return encode(Image.fromarray(values), "JPEG")


def test_path_bytes_file_image_and_array_give_the_same_picture(tmp_path):
    picture = Image.linear_gradient("L").convert("RGB").resize((9, 7))
    path = tmp_path / "a.png"
    path.write_bytes(encode(picture))
    for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), picture, numpy.asarray(picture)):
        opened = open_image(source)
        assert (opened.mode, opened.size) == ("RGB", (9, 7))
        assert opened.tobytes() == picture.tobytes()


def test_the_callers_file_stays_open_and_is_read_from_its_start(tmp_path):
    (tmp_path / "a.png").write_bytes(encode(Image.new("RGB", (2, 2), "red")))
    with (tmp_path / "a.png").open("rb") as file:
        file.seek(5)
        open_image(file)
        assert not file.closed


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (3, 1)), (6, (1, 0)), (8, (0, 3))])
def test_exif_turn_is_applied(orientation, corner):
    picture = Image.new("RGB", (4, 2), "black")
    picture.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = orientation
    opened = open_image(encode(picture, exif=exif))
    assert opened.size == ((4, 2) if orientation in (1, 3) else (2, 4))
    assert opened.getpixel(corner) == (255, 255, 255)


def test_malformed_exif_leaves_the_picture_unturned(caplog, monkeypatch):
    def fail(image):
        raise struct.error("unpack requires a buffer of 2 bytes")

    monkeypatch.setattr(images.ImageOps, "exif_transpose", fail)
    assert open_image(encode(Image.new("RGB", (4, 2))), name="a.png").size == (4, 2)
    assert "a.png: its EXIF data is malformed" in caplog.text


def test_cmyk_keeps_its_colours():
    red, white = Image.new("CMYK", (8, 8), (0, 255, 255, 0)), Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    assert numpy.abs(numpy.array(open_image(encode(red, "JPEG")).getpixel((4, 4))) - [254, 0, 0]).max() <= 4
    assert min(open_image(encode(white, "JPEG")).getpixel((4, 4))) >= 252


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_16_bit_grey_is_scaled_not_clipped(mode):
    values = numpy.array([[0, 257 * 100, 65535]], dtype=numpy.uint16 if mode == "I;16" else numpy.int32)
    image = Image.fromarray(values)
    assert image.mode == mode
    expected = [(0, 0, 0), (100, 100, 100), (255, 255, 255)]
    for source in (image, encode(image, "TIFF")):
        assert [open_image(source).getpixel((x, 0)) for x in range(3)] == expected


def test_32_bit_and_float_grey_are_scaled_by_their_range():
    eight = Image.fromarray(numpy.array([[0, 128, 255]], dtype=numpy.int32))
    assert open_image(eight).getpixel((1, 0)) == (128,) * 3
    unit = Image.fromarray(numpy.array([[0, 0.5, 1, numpy.nan]], dtype=numpy.float32))
    assert [open_image(unit).getpixel((x, 0))[0] for x in range(4)] == [0, 128, 255, 0]
    large = Image.fromarray(numpy.array([[0, 500_000, 1_000_000]], dtype=numpy.int32))
    assert [open_image(large).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    clear.putpixel((1, 0), (0, 0, 0, 0))
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    key = Image.new("RGB", (2, 1), "red")
    key.putpixel((1, 0), (0, 0, 0))
    sources = (
        clear,
        encode(clear),
        encode(palette, transparency=1),
        encode(palette, transparency=bytes([255, 0])),
        encode(key, transparency=(0, 0, 0)),
    )
    for source in sources:
        opened = open_image(source)
        assert [opened.getpixel((x, 0)) for x in range(2)] == [(255, 0, 0), (255, 255, 255)]
    assert open_image(Image.new("LA", (1, 1), (0, 128))).getpixel((0, 0)) == (127, 127, 127)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for format in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert open_image(data).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "YCbCr", "HSV"])
def test_other_modes_become_rgb(mode):
    assert open_image(Image.new("RGB", (3, 3), "white").convert(mode)).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty (0 bytes)"),
        (b"this is a text\n" * 20, "is not an image in a known format"),
        (noise_jpeg()[:900], "cannot be decoded (image file is truncated"),
        (encode(Image.new("RGB", (64, 64), "red"))[:60], "cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image in a known format"),
    ],
)
def test_what_is_no_image_is_named_with_its_reason(tmp_path, content, reason):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for read in (lambda: open_image(path), lambda: check_image(content, name=str(path))):
        with pytest.raises(ImageError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: {reason}")
        assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ImageError, match=r"b\.jpg: no such file$"):
        open_image(tmp_path / "b.jpg")
    with pytest.raises(ImageError, match=r"is a folder, not an image"):
        open_image(tmp_path)


def test_other_types_are_refused():
    with pytest.raises(ImageError, match=r"the given image: int is not an image; give a path, bytes"):
        open_image(7)


def test_too_many_pixels_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(ImageError, match=r"a.png: 10 x 10 pixels are more than the limit of 99; make it smaller"):
        open_image(encode(Image.new("RGB", (10, 10))), name="a.png")


def test_pillows_own_limit_neither_warns_nor_stays_lifted(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # Pillow would warn above 60 pixels and raise above 120
    for size in ((10, 10), (20, 20)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert open_image(encode(Image.new("RGB", size))).size == size
    assert Image.MAX_IMAGE_PIXELS == 60


def test_pillows_bomb_warning_becomes_an_image_error(monkeypatch):
    def warn(image):
        warnings.warn("could be decompression bomb", Image.DecompressionBombWarning, stacklevel=1)

    monkeypatch.setattr(images.ImageOps, "exif_transpose", warn)
    with pytest.raises(ImageError, match=r"a: is too large to open safely"):
        open_image(Image.new("RGB", (2, 2)), name="a")


def test_arrays():
    ramp = numpy.linspace(0, 1, 6).reshape(2, 3)
    assert open_image(ramp).getpixel((2, 1)) == (255, 255, 255)
    assert open_image(ramp[..., None]).size == (3, 2)
    assert open_image(ramp > 0.5).getpixel((0, 0)) == (0, 0, 0)
    assert open_image((ramp * 65535).astype(numpy.uint16)).getpixel((1, 0)) == (51, 51, 51)
    assert open_image(numpy.zeros((2, 2, 4), numpy.uint8)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (numpy.zeros((3, 8, 8), numpy.uint8), r"array of shape \[3, 8, 8\]"),
        (numpy.zeros((0, 8), numpy.uint8), r"array of shape \[0, 8\]"),
        (numpy.full((2, 2), 200.0), "floats outside 0 to 1"),
        (numpy.full((2, 2), numpy.nan), "floats outside 0 to 1"),
        (numpy.full((2, 2), 256), "integers outside 0 to 255"),
        (numpy.full((2, 2), "a"), "array of <U1"),
    ],
)
def test_arrays_that_are_no_pictures(array, reason):
    with pytest.raises(ImageError, match=reason):
        open_image(array)


def test_check_image_accepts_whole_images():
    for data in (noise_jpeg(), encode(Image.new("P", (3, 3))), encode(Image.new("CMYK", (9, 9)), "JPEG")):
        check_image(data, name="a")


def test_list_images_is_sorted_recursive_and_leaves_hidden_files_out(tmp_path):
    for name in ("b.JPG", "a/c.png", "a/b.webp", "notes.txt", ".hidden.jpg", ".git/d.jpg", "a/._c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == ["a/b.webp", "a/c.png", "b.JPG"]


def test_list_images_names_what_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"no such folder"):
        list_images(tmp_path / "missing")
    with pytest.raises(DataError, match=r"is a file, not a folder"):
        list_images(tmp_path / "file")
