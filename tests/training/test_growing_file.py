import pytest

from captioner.training.growing_file import GrowingFile


def test_lines_are_in_the_file_at_once(tmp_path):
    file = GrowingFile(tmp_path / "lines")
    for line in ("a", "b"):
        file.append(line)
    assert (tmp_path / "lines").read_text() == "a\nb\n"
    assert file.waiting == 0


def test_a_line_that_a_kill_left_torn_goes(tmp_path):
    (tmp_path / "lines").write_text("whole\nto")
    GrowingFile(tmp_path / "lines").append("new")
    assert (tmp_path / "lines").read_text() == "whole\nnew\n"


def test_lines_wait_for_a_folder(tmp_path):
    file = GrowingFile(tmp_path / "gone" / "lines")
    for number in (1, 2):
        with pytest.raises(FileNotFoundError):
            file.append(str(number))
        assert file.waiting == number
    (tmp_path / "gone").mkdir()
    file.write(to_disk=True)
    assert (tmp_path / "gone" / "lines").read_text() == "1\n2\n"
