"""`captioner calibrate`."""

import json
import shutil
from dataclasses import replace

import pytest

from captioner import Captioner
from captioner.commands import calibrate


def test_training_calibrates_and_the_command_does_the_same(export, tmp_path, capsys):
    folder = tmp_path / "old"
    shutil.copytree(export, folder)
    (folder / "confidence.json").unlink()
    assert Captioner.from_pretrained(folder).calibration is None
    capsys.readouterr()
    assert calibrate.main([str(folder)]) == 0
    assert f"{folder}: confidence fitted to 2 images of validation" in capsys.readouterr().out
    assert (folder / "confidence.json").read_text() == (export / "confidence.json").read_text()
    content = json.loads((folder / "confidence.json").read_text())
    assert content["split"] == "validation"
    assert content["dataset"] == "photos"
    assert "CIDEr-D" in content["definition"]


def test_the_precision_is_no_part_of_the_decoding_that_was_fitted(export, tmp_path):
    captioner = Captioner.from_pretrained(export)
    fitted = captioner.calibration.origin["decoding"]
    settings = captioner.settings
    captioner.settings = replace(settings, decoding=replace(settings.decoding, precision="fp32"))
    captioner.save_pretrained(tmp_path / "exact")
    assert calibrate.main([str(tmp_path / "exact")]) == 0
    calibrated = Captioner.from_pretrained(tmp_path / "exact")
    assert calibrated.calibration.origin["decoding"] == fitted
    assert calibrated.calibration_mismatch() is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["me/captioner"], "me/captioner is no folder; calibrate a local export, like checkpoints/scenes/best"),
        (["EXPORT", "--split", "valid"], "the dataset has no split valid; it has train, validation, test"),
        (["EXPORT", "--data", "data/nowhere"], "data/nowhere: no prepared dataset there; prepare it: "),
    ],
)
def test_wrong_usage_is_one_line(export, words, message, told):
    assert calibrate.main([str(export) if word == "EXPORT" else word for word in words]) == 2
    assert told().startswith(f"error: {message}")
