"""`caption` as it is typed: what comes on standard output, what on standard error, and the exit status."""

import shutil
from pathlib import Path

import numpy
import pytest
from PIL import Image
from written import lines_of, records


def test_one_image_gives_its_bare_caption(run, texts):
    assert run("a.png") == (0, [texts["a.png"]], [])


def test_several_images_give_path_and_caption(run, texts):
    assert run("c.webp", "a.png", "c.webp") == (0, lines_of(texts, "c.webp", "a.png"), [])


def test_a_folder_is_captioned_in_order(run, texts, folder):
    (folder / "notes.txt").write_text("")
    assert run(".") == (0, lines_of(texts, "a.png", "b.jpg", "c.webp"), [])


@pytest.mark.parametrize("again", ["a.png", "./a.png", "../FOLDER/a.png"])
def test_an_image_that_is_named_twice_is_captioned_once(run, texts, folder, again):
    assert run(".", again.replace("FOLDER", folder.name), "--output", "out.jsonl") == (0, [], [])
    assert [record["path"] for record in records("out.jsonl")] == list(texts)
    assert run("./a.png", str(folder / "a.png")) == (0, [texts["a.png"]], [])


def test_a_folder_of_one_image_still_gives_its_path(run, texts, folder):
    (folder / "one").mkdir()
    shutil.copy("a.png", "one")
    assert run("one") == (0, [f"one/a.png\t{texts['a.png']}"], [])


def test_an_explanation_is_drawn(run, texts):
    assert run("a.png", "--explain", "why.png", "--explain-layers", "0,-1") == (0, [texts["a.png"]], [])
    with Image.open("why.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 400


def test_an_explanation_is_drawn_of_what_is_captioned_already(run, texts):
    for words in (["--output", "out.jsonl"], ["--sidecar"]):
        assert run("a.png", *words)[0] == 0
        status, output, (told,) = run("a.png", *words, "--explain", "why.png")
        assert (status, output) == (0, [])
        assert told.startswith("1 of 1 images are in ")
        Path("why.png").unlink()
    assert [record["caption"] for record in records("out.jsonl")] == [texts["a.png"]]


def test_candidates_are_a_line_each(run, texts):
    status, output, _ = run("a.png", "b.jpg", "--candidates", "2")
    assert status == 0
    assert [line.split("\t")[0] for line in output] == ["a.png", "a.png", "b.jpg", "b.jpg"]
    assert output[0] == f"a.png\t{texts['a.png']}"


def test_unreadable_images_are_named_and_the_others_captioned(run, texts, folder):
    Path("text.jpg").write_text("I am a text")
    whole = Path("b.jpg").read_bytes()
    Path("torn.jpg").write_bytes(whole[: len(whole) // 2])
    status, output, errors = run("text.jpg", "a.png", "torn.jpg", "gone.png", "b.jpg")
    assert status == 1
    assert output == lines_of(texts, "a.png", "b.jpg")
    assert [line.split(":")[0] for line in errors[:3]] == ["text.jpg", "torn.jpg", "gone.png"]
    assert errors[3:] == ["3 of 5 images could not be captioned"]


def test_only_unreadable_images(run, folder):
    Path("text.jpg").write_text("I am a text")
    assert run("text.jpg") == (1, [], ["text.jpg: is not an image in a known format; convert it to JPEG or PNG"])


def write_odd_images() -> list[str]:
    image = Image.new("RGB", (20, 16), (200, 30, 60))
    image.convert("CMYK").save("cmyk.jpg")
    Image.fromarray(numpy.full((16, 20), 40000, dtype=numpy.uint16)).save("deep.png")
    image.quantize(4).save("palette.gif")
    image.save("animated.gif", save_all=True, append_images=[Image.new("RGB", (20, 16))])
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save("turned.jpg", exif=turned)
    return ["cmyk.jpg", "deep.png", "palette.gif", "animated.gif", "turned.jpg"]


def test_odd_kinds_of_images_are_simply_captioned(run, folder):
    names = write_odd_images()
    status, output, errors = run(*names)
    assert (status, errors) == (0, [])
    assert [line.split("\t")[0] for line in output] == names
    assert all(line.split("\t")[1] for line in output)
