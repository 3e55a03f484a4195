import numpy as np
import pytest
from PIL import Image

from captioner.errors import DataError
from captioner.evaluation.example_sheet import GROUPS, Example, draw_captioned, draw_examples, pick_examples

RED, BLUE = (200, 30, 30), (30, 30, 200)


def make_example(label, *, colour=RED, size=(120, 80), caption="a dog runs", references=("the dog",), score=0.5):
    return Example(Image.new("RGB", size, colour), caption, references, score, label)


def read_sheet(path):
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        return sheet.convert("RGB")


def find_box(sheet, colour):
    """Bounding box of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=-1))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_best_median_and_worst_are_picked():
    scores = [0.1 * step for step in range(11)]
    picked = pick_examples(scores, per_group=2)
    assert picked == {"best": [10, 9], "median": [6, 5], "worst": [0, 1]}


@pytest.mark.parametrize("count", range(15))
def test_no_example_is_picked_twice(count):
    picked = pick_examples([(7 * index) % 5 for index in range(count)])
    positions = [index for group in picked.values() for index in group]
    assert len(set(positions)) == len(positions)
    assert set(positions) <= set(range(count))
    assert len(positions) >= min(count, 3)
    assert list(picked) == list(GROUPS)


def test_groups_are_rows_from_best_to_worst(tmp_path):
    examples = [make_example("worst", colour=BLUE), make_example("best"), make_example("best")]
    draw_examples(examples, tmp_path / "deep" / "sheet.png")
    sheet = read_sheet(tmp_path / "deep" / "sheet.png")
    red, blue = find_box(sheet, RED), find_box(sheet, BLUE)
    assert red[3] < blue[1]  # the best row ends above the worst
    assert red[2] - red[0] > 1.9 * (blue[2] - blue[0])  # two pictures side by side over one


def test_whole_image_is_shown_whatever_its_shape(tmp_path):
    tall = make_example("best", size=(50, 200))
    wide = make_example("worst", size=(200, 50), colour=BLUE)
    draw_examples([tall, wide], tmp_path / "sheet.png")
    sheet = read_sheet(tmp_path / "sheet.png")
    left, top, right, bottom = find_box(sheet, RED)
    assert (bottom - top) / (right - left) == pytest.approx(4, rel=0.05)
    left, top, right, bottom = find_box(sheet, BLUE)
    assert (right - left) / (bottom - top) == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("caption", ["", "x" * 5000, "word " * 1000, "naïve “café”\nof 日本 😀", "…" * 300])
def test_any_caption_fits_its_card(tmp_path, caption):
    draw_examples([make_example("best", caption=caption, references=())], tmp_path / "sheet.png")
    plain = make_example("best", caption="a dog runs", references=())
    draw_examples([plain], tmp_path / "plain.png")
    sheet, plain_sheet = read_sheet(tmp_path / "sheet.png"), read_sheet(tmp_path / "plain.png")
    assert sheet.width == plain_sheet.width
    assert sheet.height <= plain_sheet.height + 200
    # Nothing is drawn on the margins.
    paper = sheet.getpixel((0, 0))
    for margin in ((0, 0, 20, sheet.height), (sheet.width - 20, 0, sheet.width, sheet.height)):
        assert sheet.crop(margin).getcolors() == [(20 * sheet.height, paper)]


def test_accented_letters_are_drawn_plain(tmp_path):
    """Pillow's font has no accented letters and would draw them all as the same box."""
    draw_captioned([Image.new("RGB", (60, 60))], ["naïve Zoë"], tmp_path / "accented.png")
    draw_captioned([Image.new("RGB", (60, 60))], ["naive Zoe"], tmp_path / "plain.png")
    assert (tmp_path / "accented.png").read_bytes() == (tmp_path / "plain.png").read_bytes()


def test_captioned_images_fill_rows(tmp_path):
    images = [Image.new("RGB", (60, 60), RED)] * 4
    draw_captioned(images, ["one", "two", "three", "four"], tmp_path / "sheet.png", columns=3)
    draw_captioned(images[:1], ["one"], tmp_path / "single.png", columns=3)
    sheet, single = read_sheet(tmp_path / "sheet.png"), read_sheet(tmp_path / "single.png")
    assert sheet.width > 2.5 * single.width
    assert sheet.height > 1.8 * single.height


def test_problems_are_told_in_one_line(tmp_path):
    with pytest.raises(DataError, match=r"there is no captioned image to draw; give at least one$"):
        draw_examples([], tmp_path / "sheet.png")
    with pytest.raises(DataError, match=r"1 captions for 2 images; give one caption an image$"):
        draw_captioned([Image.new("RGB", (9, 9))] * 2, ["one"], tmp_path / "sheet.png")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"the picture cannot be written \(.*\); give another path$"):
        draw_examples([make_example("best")], tmp_path / "file" / "sheet.png")
