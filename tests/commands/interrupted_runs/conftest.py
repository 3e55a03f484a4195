"""A run that tests interrupt."""

import shutil
from pathlib import Path

import pytest
from breaking import LONG, score


@pytest.fixture(scope="module")
def long(workshop) -> Path:
    """A run of four epochs, each better than the one before; tests copy it."""
    with pytest.MonkeyPatch.context() as patch:
        score(patch, [1.0, 2.0, 3.0, 4.0])
        assert workshop.train("--trainer.run", "long", "--trainer.keep", "4", *LONG) == 0
    return workshop.checkpoints / "long"


@pytest.fixture
def copied(long, tmp_path) -> Path:
    """A run that a test may change."""
    shutil.copytree(long, tmp_path / "runs" / "copied")
    return tmp_path / "runs" / "copied"
