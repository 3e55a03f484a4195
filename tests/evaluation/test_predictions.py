import json

import pytest
from caption_files import CAPTIONS, PHOTOS, file_name, write_coco, write_karpathy, write_results

from captioner.errors import DataError
from captioner.evaluation.predictions import align_predictions, read_predictions
from captioner.evaluation.references import ReferenceSet, read_references

PREDICTIONS = [(str(number), caption) for number, caption in CAPTIONS.items()]


@pytest.fixture
def references(tmp_path):
    return read_references(write_coco(tmp_path / "references.json"))


def test_cocos_result_format(tmp_path):
    assert read_predictions(write_results(tmp_path / "results.json")) == PREDICTIONS


def test_json_lines_with_any_of_the_names(tmp_path):
    rows = [
        {"image_id": "a.jpg", "caption": "one"},
        {"image": "party/b.jpg", "caption": "two"},
        {"path": "C:\\photos\\c.jpg", "caption": "three", "confidence": 0.5},
        {"file_name": "d.jpg", "caption": ""},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    expected = [("a.jpg", "one"), ("party/b.jpg", "two"), ("c.jpg", "three"), ("d.jpg", "")]
    assert read_predictions(tmp_path / "p.jsonl") == expected


def test_csv(tmp_path):
    (tmp_path / "p.csv").write_text('\ufeffimage_id,caption\na.jpg,"a dog, and\na cat"\n7,one\n', encoding="utf-8")
    assert read_predictions(tmp_path / "p.csv") == [("a.jpg", "a dog, and\na cat"), ("7", "one")]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_csv_of_a_spreadsheet(tmp_path, separator):
    (tmp_path / "p.csv").write_text(f"image_id{separator}caption\na.jpg{separator}a dog, and a cat\n")
    assert read_predictions(tmp_path / "p.csv") == [("a.jpg", "a dog, and a cat")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.json", "{}", r"is not a list like \["),
        ("p.json", "[{]", "is not JSON"),
        ("p.json", "[]", "has no predictions"),
        (
            "p.json",
            r'[{"image_id": 391895, "caption": "\ud800 a dog"}]',
            r'entry 1: its "caption" has \\ud800, which is half a character; correct it there',
        ),
        ("p.jsonl", r'{"path": "\udc80.jpg", "caption": "a dog"}', r'line 1: its "path" has \\udc80, which is half'),
        ("p.json", '[{"image_id": 1}]', r'entry 1: has no "caption"; give one text'),
        ("p.json", '[{"image_id": 1, "caption": ["x"]}]', 'entry 1: has another "caption"; give one text'),
        ("p.json", '[{"caption": "x"}]', 'entry 1: has no "image_id"; give the image\'s number or file name'),
        ("p.json", '[{"image_id": 1.5, "caption": "x"}]', 'entry 1: has an "image_id" that is neither a text nor a'),
        ("p.json", '[{"image_id": 1, "caption": "x"},]', r"a comma before the closing bracket\); correct it there"),
        ("p.json", '[{"image_id": 1, "caption": "x', "it breaks off here"),
        ("p.json", '[{"image_id": 1, "capt', "it breaks off here"),
        ("p.json", "[" * 100_000, "has too long a number, or too many brackets; correct it there"),
        ("p.json", '[{"image_id": ' + "9" * 5000, "has too long a number, or too many brackets; correct it there"),
        ("p.json", " ", "is empty; write it again"),
        ("p.jsonl", '{"image_id": 1, "caption": "x"},\n', "line 1, column 32: a comma behind the closing bracket"),
        ("p.json", '[{"image_id": 1, "caption": "x"}, {"image_id": [1], "caption": "x"}]', "entry 2: has an"),
        ("p.jsonl", '{"image_id": 1, "caption": "x"}\n{', r"is not JSON \(line 2, column "),
        ("p.jsonl", "[1]", "line 1: is not an object like"),
        ("p.csv", "image,text\na.jpg,x\n", "line 1: has columns image, text; use image_id and caption"),
        ("p.csv", "image_id,caption\na.jpg,x,y\n", "line 2: has more fields than the header; quote its caption"),
        ("p.csv", "image_id,caption\na.jpg\n", "line 2: has no"),
        ("p.txt", "x", "predictions are read from .json, .jsonl or .csv"),
    ],
)
def test_wrong_predictions_are_refused_in_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_predictions(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        str,
        file_name,
        lambda number: file_name(number).removesuffix(".jpg"),
        lambda number: f"val2014/{file_name(number)}",
        lambda number: f"C:\\coco\\{file_name(number)}",
        lambda number: f"{number:012}.jpg",  # COCO's name of 2017
        lambda number: f"{number:012}",
    ],
)
def test_captions_come_in_the_order_of_the_references(references, name):
    shuffled = [(name(number), CAPTIONS[number]) for number in reversed(CAPTIONS)]
    captions, same = align_predictions(shuffled, references)
    assert captions == [CAPTIONS[number] for number in PHOTOS]
    assert same is references


def test_numbers_of_a_karpathy_json(tmp_path):
    references = read_references(write_karpathy(tmp_path / "k.json"))
    assert align_predictions(PREDICTIONS, references)[0] == list(CAPTIONS.values())
    by_position = [(str(row), caption) for row, caption in enumerate(CAPTIONS.values())]
    assert align_predictions(by_position, references)[0] == list(CAPTIONS.values())


def test_photos_under_another_datasets_name():
    references = ReferenceSet(
        "mine", "test", ["1000268201_693b08cb0e.jpg", "1001773457_577c3a7d70.jpg"], [["a"], ["b"]]
    )
    predictions = [("1001773457.jpg", "b"), ("1000268201.jpg", "a")]
    assert align_predictions(predictions, references)[0] == ["a", "b"]
    assert align_predictions([("1001773457", "b"), ("1000268201", "a")], references)[0] == ["a", "b"]


def test_predictions_that_are_all_of_other_images(references):
    with pytest.raises(DataError) as caught:
        align_predictions([("1.jpg", "x"), ("2.jpg", "y")], references)
    assert str(caught.value) == (
        f"predictions are of other images (1.jpg, 2.jpg) than the references ({', '.join(references.image_ids)}); "
        "give image ids as the references have them, and the right --split"
    )


def test_file_names_of_images_in_folders():
    references = ReferenceSet("mine", "test", ["party/cake.jpg", "beach.jpg"], [["a cake"], ["a beach"]])
    assert align_predictions([("beach.jpg", "b"), ("cake.jpg", "c")], references)[0] == ["c", "b"]
    twins = ReferenceSet("mine", "test", ["party/1.jpg", "beach/1.jpg"], [["a cake"], ["a beach"]])
    assert align_predictions([("beach/1.jpg", "b"), ("party/1.jpg", "c")], twins)[0] == ["c", "b"]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (
            PREDICTIONS[:1],
            "2 images (522418, 184613) of the references without a prediction; give one caption for each image, "
            "or --allow-different-set to score those that there are",
        ),
        ([*PREDICTIONS, ("9", "x")], "1 image (9) not in the references; give one caption for each image"),
        ([*PREDICTIONS, PREDICTIONS[1]], "1 image (522418) predicted more than once; give one caption for each image"),
        (
            [*PREDICTIONS[1:], PREDICTIONS[2], *((str(number), "x") for number in range(5))],
            "1 image (184613) predicted more than once; 5 images (0, 1, 2, …) not in the references; "
            "1 image (391895) of the references without a prediction; give one caption for each image",
        ),
    ],
)
def test_predictions_for_other_images_are_refused_with_counts_and_names(references, predictions, message):
    with pytest.raises(DataError) as caught:
        align_predictions(predictions, references)
    assert str(caught.value) == f"predictions do not fit the references: {message}"


def test_only_missing_ones_can_be_allowed(references):
    captions, part = align_predictions(PREDICTIONS[1:], references, allow_missing=True)
    assert captions == list(CAPTIONS.values())[1:]
    assert part.image_ids == [file_name(number) for number in (522418, 184613)]
    with pytest.raises(DataError, match=r"1 image \(9\) not in the references"):
        align_predictions([*PREDICTIONS[1:], ("9", "x")], references, allow_missing=True)
