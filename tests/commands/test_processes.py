"""``accelerate launch`` with two processes on the CPU: the same run as one process, told and written once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_models import TINY_ENCODERS

from captioner.commands import train
from captioner.settings import Settings, settings_to_dict
from captioner.training.checkpoint import find_checkpoint

ROOT = Path(__file__).parents[2]
STEPS = 50


def launch(folder: Path, settings: Settings, *words: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """``accelerate launch … train.py tiny …``; ``--cpu`` would start one process only."""
    (folder / "presets.json").write_text(json.dumps({"tiny": settings_to_dict(settings)}))
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    script = [str(Path(__file__).with_name("launched_train.py")), str(folder / "presets.json"), "tiny", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [sys.executable, *launcher, *script], capture_output=True, text=True, cwd=folder, env=environment, timeout=300
    )


def read_losses(run: Path) -> dict[tuple[str, int], float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("train/loss", "train/gradient_norm", "train/pairs", "train/tokens", "validation/loss", "validation/CIDEr")
    return {(name, line["step"]): line[name] for line in lines for name in names if name in line}


@pytest.fixture(scope="module")
def settings(workshop) -> Settings:
    """Six images in batches of five and one: the shares are uneven, and the second process misses every other batch."""
    return workshop.preset(
        encoder={"config": json.dumps({**TINY_ENCODERS["vit"], "image_size": 16}), "trainable": False, "views": 2},
        decoder={"dropout": 0.0},
        trainer={"device": "cpu", "precision": "fp32", "batch_images": 5, "max_steps": STEPS, "epochs": 25}
        | {"validate_every": 10, "validation_images": 0, "keep": 9},
    )


@pytest.fixture(scope="module")
def alone(workshop, settings) -> Path:
    """The run of one process."""
    assert train.main(["tiny", "--trainer.run", "alone"], presets={"tiny": settings}) == 0
    return workshop.checkpoints / "alone"


@pytest.fixture(scope="module")
def together(workshop, settings, alone) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The run of two processes, and what they said."""
    done = launch(workshop.folder, settings, "--trainer.run", "together")
    assert done.returncode == 0, done.stderr
    return workshop.checkpoints / "together", done


def test_two_processes_learn_what_one_does(alone, together):
    expected, found = read_losses(alone), read_losses(together[0])
    assert len([name for name, _ in expected if name == "train/loss"]) == STEPS
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-4, rel=1e-4), key
    weights, others = (load_file(run / "best" / "model.safetensors") for run in (alone, together[0]))
    assert all(weights[name].allclose(others[name], atol=1e-3) for name in weights)


def test_only_the_main_process_tells_and_writes(alone, together):
    run, done = together
    assert done.stderr.count("Training ") == 1, done.stderr
    assert done.stderr.count("epoch 10/25: ") == 1
    assert done.stdout.count("test: 3 images") == 1
    assert done.stdout.count("The best model is in") == 1
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}


def test_a_run_goes_on_with_another_number_of_processes_and_says_so(settings, together, capsys):
    run, _ = together
    assert len(find_checkpoint(run)[1]["others"]) == 1
    words = ["--resume", str(run), "--trainer.max-steps", "0", "--trainer.epochs", "26"]
    assert train.main(words, presets={"tiny": settings}) == 0
    told = capsys.readouterr().err
    assert f"{run / 'step-00000050'} was saved by 2 processes and goes on with 1" in told
    assert ("train/loss", 52) in read_losses(run)
    assert find_checkpoint(run)[1]["others"] == []
