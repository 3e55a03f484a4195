"""`prepare_dataset.py` as it is typed, and the shell's side of every command."""

import errno
import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from captioner.commands import prepare
from captioner.commands.shell import guard
from captioner.data.prepared import read_manifest
from captioner.data.sources import SOURCES
from captioner.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "my_photos"
    folder.mkdir()
    rows = []
    for number in range(6):
        Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(folder / f"{number}.png")
        rows.append({"image": f"{number}.png", "captions": ["A red square .", "Something &amp; nothing"]})
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(photos: Path, *words: str) -> int:
    return prepare.main(["folder", "--root", str(photos), "--data-folder", str(photos.parent / "data"), *words])


def test_a_folder_is_prepared_under_its_own_name(photos, capsys):
    assert run(photos) == 0
    folder = photos.parent / "data" / "my_photos"
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        f"{folder}: 4 train, 1 validation, 1 test images, 12 captions",
        f"next: python train.py flickr30k-clip --data.name my_photos --data.folder {folder.parent}",
    ]
    assert captured.err == ""
    assert run(photos) == 0
    assert "is already prepared from folder" in capsys.readouterr().err


def test_another_name_seed_and_all_splits(photos):
    assert run(photos, "--name", "other", "--splits", "all", "--seed", "3") == 0
    manifest = read_manifest(photos.parent / "data" / "other")
    assert manifest["images"] == {"train": 6, "validation": 1, "test": 1}
    assert manifest["split_rule"] == "by hash of the name, seed 3"


def test_problems_are_told_without_a_traceback(photos, capsys):
    (photos / "1.png").write_text("text")
    (photos / "2.png").unlink()
    assert run(photos) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"error: 2 problems in {photos}, nothing was written; correct them and try again:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["1.png", "2.png"]
    assert not (photos.parent / "data" / "my_photos").exists()
    assert run(photos, "--skip-bad") == 0
    assert "note: left out: 1.png: is not an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["flickr30"], "error: unknown source 'flickr30'; did you mean flickr30k? the sources are scenes, "),
        (["folder"], "error: folder is read from a folder; name it with --root FOLDER"),
        (["flickr8k", "--root", "nowhere"], "error: nowhere: no such folder; check --root"),
        ([], "error: the following arguments are required: SOURCE; see python prepare_dataset.py --help"),
        (["scenes", "--foo"], "error: unrecognized arguments: --foo; see python prepare_dataset.py --help"),
        (["scenes", "--splits", "some"], "error: --splits: invalid choice: 'some'"),
    ],
)
def test_wrong_words_are_one_line(words, message, capsys):
    assert prepare.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_the_next_command_is_of_the_same_kind(photos, capsys):
    words = ["folder", "--root", str(photos), "--data-folder", str(photos.parent / "data")]
    assert prepare.main(words, prog="captioner prepare") == 0
    assert "next: captioner train flickr30k-clip --data.name my_photos" in capsys.readouterr().out


def test_debug_shows_the_traceback():
    with pytest.raises(DataError, match="unknown source"):
        prepare.main(["flickr30", "--debug"])


def test_help_names_every_source(capsys):
    with pytest.raises(SystemExit) as caught:
        prepare.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in SOURCES)
    assert shown.count("\n") < 40


def test_the_script_runs_and_can_be_imported(photos):
    words = ["folder", "--root", str(photos), "--data-folder", str(photos.parent)]
    script = [sys.executable, str(ROOT / "prepare_dataset.py"), *words]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {photos}: holds the source itself; choose another --name or --data-folder\n"
    spec = importlib.util.spec_from_file_location("prepare_dataset", ROOT / "prepare_dataset.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(DataError, match="nowhere: no such folder"):
        module.prepare_flickr30k(root="nowhere")


def fail(error: BaseException):
    def main(argv):
        raise error

    return main


def test_guard_passes_arguments_and_status_through():
    assert guard(lambda argv: len(argv), ["a", "--debug", "b"]) == 2


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (DataError("a.jpg: is torn"), 2, "error: a.jpg: is torn\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "error: /x: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left", "/x"), 2, "error: no space left on the disk of /x; free some space"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: no space left on the disk of /"),
    ],
)
def test_guard_tells_errors_in_one_line(error, status, message, capsys):
    assert guard(fail(error), []) == status
    shown = capsys.readouterr().err
    assert shown.startswith(message)
    assert shown.count("\n") == 1
    with pytest.raises(type(error)):
        guard(fail(error), ["--debug"])


def test_guard_lets_bugs_through():
    with pytest.raises(ZeroDivisionError):
        guard(fail(ZeroDivisionError()), [])


def test_guard_is_quiet_when_the_reader_of_the_output_has_left():
    script = (
        "import sys\nfrom captioner.commands.shell import guard\n"
        "sys.exit(guard(lambda argv: [print('x' * 1000) for _ in range(10000)] and 0))"
    )
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" -c "{script}" | head -1; echo "${{PIPESTATUS[0]}}"', sys.executable],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.stdout.splitlines() == ["x" * 1000, "0"]
    assert done.stderr == ""


def test_guard_shows_log_lines_once_where_commands_are_nested(capsys):
    def inner(argv):
        logging.getLogger("captioner.part").info("working")
        return 0

    assert guard(lambda argv: guard(inner, argv), []) == 0
    assert capsys.readouterr().err == "working\n"
    assert not logging.getLogger("captioner").handlers
