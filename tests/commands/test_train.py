"""`captioner train`: what a run leaves behind, going on with it, and stopping it."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from captioner import Captioner
from captioner.commands import train
from captioner.run_folder import read_settings
from captioner.settings_json import settings_from_dict, settings_to_dict

ROOT = Path(__file__).parents[2]


def read_lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def copied(trained, tmp_path) -> Path:
    """A run that a test may change."""
    shutil.copytree(trained, tmp_path / "runs" / "copied")
    return tmp_path / "runs" / "copied"


def test_a_run_leaves_all_that_tells_how_it_came_about(trained):
    settings = json.loads((trained / "settings.json").read_text())
    assert settings["preset"] == "tiny"
    assert settings["settings"]["trainer"]["max_steps"] == 2
    assert {"torch", "transformers", "tokenizers"} <= settings["versions"].keys()
    assert {"captioner_version", "commit", "command"} <= settings.keys()
    assert read_settings(trained)[1].trainer.run == "trained"
    lines = read_lines(trained)
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2]
    assert any("validation/CIDEr" in line for line in lines)
    assert {path.name for path in (trained / "step-00000002").iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
    }


def test_the_export_holds_the_figures_of_the_test_split(export):
    captioner = Captioner.from_pretrained(export)
    assert captioner.metrics["test"]["images"] == 3
    assert captioner.metrics["test"]["decoding"]["beams"] == 2
    assert {"BLEU-4", "ROUGE-L", "CIDEr"} <= captioner.metrics["test"]["metrics"].keys()
    assert captioner.metrics["validation_at_best"]["step"] == 2


def test_a_run_tells_what_it_did_and_what_is_next(workshop, capsys):
    assert workshop.train("--trainer.run", "telling", "--trainer.validation-images", "1") == 0
    captured = capsys.readouterr()
    run = workshop.checkpoints / "telling"
    assert captured.out.startswith("test: 3 images, ")
    assert f"A held-out picture, {run / '8.png'}:\n  " in captured.out
    assert f"  captioner evaluate {run / 'best'} --split test" in captured.out
    assert (run / "8.png").exists()
    assert f"Training {run} on 6 images with 12 captions" in captured.err


def test_a_run_is_not_written_over(workshop, trained, told):
    before = contents(trained)
    assert workshop.train("--trainer.run", "trained") == 2
    line = told()
    assert line.startswith(f"error: {trained} holds a run already: go on with --resume {trained}")
    assert "--trainer.overwrite" in line
    assert contents(trained) == before


def test_overwriting_replaces_the_run(workshop, copied):
    (copied / "old.txt").write_text("")
    words = ["--trainer.run", "copied", "--trainer.folder", str(copied.parent), "--trainer.overwrite"]
    assert workshop.train(*words, "--trainer.max-steps", "1") == 0
    assert not (copied / "old.txt").exists()
    assert (copied / "step-00000001").is_dir()


def test_a_run_goes_on(workshop, copied):
    assert workshop.train("--resume", str(copied), "--trainer.max-steps", "4") == 0
    assert [line["step"] for line in read_lines(copied) if "train/loss" in line] == [1, 2, 3, 4]
    assert (copied / "step-00000004").is_dir()
    assert read_settings(copied)[1].trainer.max_steps == 4


def test_a_run_goes_on_from_a_step_without_its_preset_being_named(workshop, copied, capsys):
    presets = {"other": workshop.preset(decoder={"width": 32}), "tiny": workshop.settings}
    words = ["--resume", str(copied / "step-00000002"), "--trainer.max-steps", "3"]
    assert train.main(words, presets=presets) == 0
    assert read_settings(copied)[0] == "tiny"
    assert read_settings(copied)[1].decoder.width == 16
    assert [line["step"] for line in read_lines(copied) if "train/loss" in line] == [1, 2, 3]


def test_a_finished_run_is_evaluated_again(workshop, copied, capsys):
    weights = load_file(copied / "best" / "model.safetensors")
    assert workshop.train("--resume", str(copied)) == 0
    assert "test: 3 images" in capsys.readouterr().out
    after = load_file(copied / "best" / "model.safetensors")
    assert all(weights[name].equal(after[name]) for name in weights)


@pytest.mark.parametrize("words", [["--decoder.width", "32"], ["--projection.kind", "mlp"]])
def test_settings_that_do_not_fit_a_resumed_run_leave_it_as_it_was(workshop, copied, words, told):
    before = contents(copied)
    assert workshop.train("--resume", str(copied), *words) == 2
    assert "weights do not fit the settings" in told()
    assert contents(copied) == before


def test_a_torn_newest_checkpoint_is_passed_over(workshop, copied, capsys):
    assert workshop.train("--resume", str(copied), "--trainer.max-steps", "3") == 0
    (copied / "step-00000003" / "model.safetensors").write_bytes(b"torn")
    capsys.readouterr()
    assert workshop.train("--resume", str(copied), "--trainer.max-steps", "3") == 0
    assert f"{copied / 'step-00000003'} is damaged" in capsys.readouterr().err


def test_a_signal_in_the_middle_of_training_saves_and_says_how_to_go_on(workshop, tmp_path):
    settings = workshop.preset(
        trainer={"folder": str(tmp_path), "max_steps": 0, "epochs": 100_000, "validate_every": 100_000}
    )
    (tmp_path / "tiny.json").write_text(json.dumps(settings_to_dict(settings)))
    script = (
        "import json, sys; from captioner.commands.train import main;"
        "from captioner.settings_json import settings_from_dict;"
        "presets = {'tiny': settings_from_dict(json.load(open(sys.argv[1])))};"
        "sys.exit(main(sys.argv[2:], presets=presets))"
    )
    words = [sys.executable, "-W", "ignore", "-c", script, str(tmp_path / "tiny.json"), "tiny"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        metrics = tmp_path / "tiny" / "metrics.jsonl"
        for _ in range(6000):  # a minute at most
            if process.poll() is not None or (metrics.exists() and metrics.read_text().count("\n") >= 3):
                break
            try:
                process.wait(0.01)
            except subprocess.TimeoutExpired:
                continue
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    (saved,) = (tmp_path / "tiny").glob("step-*")
    line = errors.splitlines()[-1]
    assert line == f"stopped by SIGINT; saved {saved}; go on with: captioner train tiny --resume {tmp_path / 'tiny'}"
    step = int(saved.name.removeprefix("step-"))
    assert workshop.train("--resume", str(tmp_path / "tiny"), "--trainer.max-steps", str(step + 1)) == 0
    steps = [entry["step"] for entry in read_lines(tmp_path / "tiny") if "train/loss" in entry]
    assert steps == list(range(1, step + 2))
    recorded = json.loads((tmp_path / "tiny" / "settings.json").read_text())
    assert settings_from_dict(recorded["settings"]).trainer.max_steps == step + 1
