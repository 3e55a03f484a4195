"""The images and captioners with which `caption` is typed."""

from pathlib import Path

import pytest
from PIL import Image
from tiny_models import end_captions

from captioner import Captioner
from captioner.commands import caption
from captioner.confidence import Calibration, LogisticModel, describe_alone


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Three images in the working directory."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["a.png", "b.jpg", "c.webp"]):
        Image.new("RGB", (20, 16), (90 * number, 10, 60)).save(name)
    return tmp_path


@pytest.fixture
def run(export, folder, capsys):
    """Type ``caption …`` with the tiny captioner; gives the status and the lines of output and error."""

    def run(*words: str) -> tuple[int, list[str], list[str]]:
        status = caption.main([*words, "--model", str(export)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out.splitlines(), captured.err.splitlines()

    return run


@pytest.fixture
def texts(export, folder) -> dict[str, str]:
    """What the captioner says of the three images."""
    captioner = Captioner.from_pretrained(export)
    return {name: captioner.caption(name).text for name in ("a.png", "b.jpg", "c.webp")}


Doubting = tuple[str, dict[str, str], list[str]]


@pytest.fixture
def doubting(export, folder) -> Doubting:
    """An export that is sure of the likelier captions of the three images only; its captions; the images of those."""
    found = end_captions(Captioner.from_pretrained(export))
    captions = {name: found.caption(name) for name in ("a.png", "b.jpg", "c.webp")}
    means = {name: describe_alone(caption)[0] for name, caption in captions.items()}
    least, *others = sorted(set(means.values()))
    limit = (least + others[0]) / 2
    weights = LogisticModel((limit, *[0.0] * 5), (1e-9, *[1.0] * 5), (1.0, *[0.0] * 5), bias=0.0)
    found.calibration = Calibration(weights, weights)
    found.save_pretrained("doubting")
    texts = {name: caption.text for name, caption in captions.items()}
    return "doubting", texts, [name for name, mean in means.items() if mean > limit]
