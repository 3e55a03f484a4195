"""A dataset of a few photos and a captioner that was trained on it for two steps, both through the commands."""

from pathlib import Path

import pytest
from tiny_workshop import Workshop, without_meteor, write_photos

from captioner.commands import prepare


@pytest.fixture(autouse=True, scope="module")
def _without_meteor():
    with without_meteor():
        yield


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    """One for all tests; what they train has names of their own."""
    workshop = Workshop(tmp_path_factory.mktemp("workshop"))
    write_photos(workshop.folder / "photos")
    words = ["folder", "--root", str(workshop.folder / "photos"), "--data-folder", str(workshop.data)]
    assert prepare.main(words) == 0
    return workshop


@pytest.fixture(scope="module")
def trained(workshop) -> Path:
    """A run of two steps; tests read it and change nothing."""
    assert workshop.train("--trainer.run", "trained") == 0
    return workshop.checkpoints / "trained"


@pytest.fixture(scope="module")
def export(trained) -> Path:
    """The export of its best model."""
    return trained / "best"


@pytest.fixture
def told(capsys):
    """Check that a command said one line on standard error, and return it."""

    def told() -> str:
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert captured.err.count("\n") == 1, captured.err
        return captured.err

    return told
