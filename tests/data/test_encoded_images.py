import datasets
import pytest

from captioner.data.encoded_images import EncodedImages


@pytest.fixture
def images():
    rows = {"image": [{"bytes": bytes([row]), "path": None} for row in range(3)], "captions": [["a dog"]] * 3}
    return EncodedImages(datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()))


def test_rows_are_the_bytes_of_the_files_undecoded(images):
    assert len(images) == 3
    assert list(images) == [b"\0", b"\1", b"\2"]
    assert images[-1] == b"\2"


def test_a_row_that_is_not_there_is_an_index_error(images):
    with pytest.raises(IndexError, match="3"):
        images[3]
