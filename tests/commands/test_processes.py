"""``accelerate launch`` with two processes on the CPU: the same run as one process, told and written once."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_models import TINY_ENCODERS
from tiny_shards import write_shards

from captioner.commands import train
from captioner.commands.training_run import Training
from captioner.settings import ScheduleSettings, Settings
from captioner.settings_json import settings_to_dict
from captioner.training.checkpoint import find_checkpoint

ROOT = Path(__file__).parents[2]
STEPS = 50


def launch(
    folder: Path, settings: Settings, *words: str, script: str = "launched_train.py"
) -> subprocess.CompletedProcess[str]:
    """``accelerate launch … train.py tiny …`` with two processes; ``--cpu`` would start one only."""
    (folder / "presets.json").write_text(json.dumps({"tiny": settings_to_dict(settings)}))
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [str(Path(__file__).with_name(script)), str(folder / "presets.json"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [sys.executable, *launcher, *command], capture_output=True, text=True, cwd=folder, env=environment, timeout=600
    )


def read_losses(run: Path) -> dict[tuple[str, int], float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = (
        "train/loss",
        "train/gradient_norm",
        "train/pairs",
        "train/tokens",
        "validation/loss",
        "validation/CIDEr-D",
    )
    return {(name, line["step"]): line[name] for line in lines for name in names if name in line}


@pytest.fixture(scope="module")
def settings(workshop) -> Settings:
    """Six images in batches of five and one: the shares are uneven, and the second process misses every other batch."""
    return workshop.preset(
        encoder={"config": json.dumps({**TINY_ENCODERS["vit"], "image_size": 16}), "trainable": False, "views": 2},
        decoder={"dropout": 0.0},
        task={"metrics": "BLEU,CIDEr-D"},  # METEOR would read its paraphrase table
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
    done = launch(workshop.folder, settings, "tiny", "--trainer.run", "together")
    assert done.returncode == 0, done.stderr
    return workshop.checkpoints / "together", done


def test_two_processes_learn_what_one_does(alone, together):
    expected, found = read_losses(alone), read_losses(together[0])
    assert len([name for name, _ in expected if name == "train/loss"]) == STEPS
    assert_same_losses(found, expected)


def assert_same_losses(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-4), key


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


@pytest.mark.slow
def test_a_sharded_network_learns_the_same_and_goes_on_sharded_or_whole(workshop, settings, alone):
    script, run = "launched_sharded_train.py", workshop.checkpoints / "sharded"
    expected = read_losses(alone)
    for words in (["tiny", "--trainer.run", "sharded"], ["--resume", str(run / "step-00000020")]):
        done = launch(workshop.folder, settings, *words, script=script)
        assert done.returncode == 0, done.stderr
        assert_same_losses(read_losses(run), expected)
    assert train.main(["--resume", str(run / "step-00000040")], presets={"tiny": settings}) == 0
    assert_same_losses(read_losses(run), expected)


@pytest.mark.slow
def test_a_stream_that_was_shared_out_goes_on_with_as_many_processes_only(workshop, settings, tmp_path, told):
    """Four files for two processes, seven samples for the one and five for the other, in batches of two and two."""
    pattern = write_shards(tmp_path / "shards", "tar", [4, 2, 3, 3])
    settings = replace(
        settings,
        data=replace(settings.data, streaming=pattern, shuffle_buffer=4),
        trainer=replace(settings.trainer, batch_images=4, epochs=3, max_steps=5, validate_every=1),
        schedule=ScheduleSettings(kind="constant", warmup=0.0),
    )
    run = workshop.checkpoints / "stream"
    done = launch(workshop.folder, settings, "tiny", "--trainer.run", "stream", "--trainer.max-steps", "6")
    assert done.returncode == 0, done.stderr
    assert "on 12 images in 4 webdataset shards" in done.stderr
    counts = (workshop.data / "photos" / "streams" / "counts.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["samples"] for line in counts) == [2, 3, 3, 4]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/pairs"] for line in lines if "train/pairs" in line] == [8, 8, 6, 2, 8, 8]
    expected = read_losses(run)

    recorded = (run / "settings.json").read_bytes()
    assert train.main(["--resume", str(run)], presets={"tiny": settings}) == 2
    assert (run / "settings.json").read_bytes() == recorded
    assert "was saved within an epoch that 2 processes had shared out between them, now there are 1" in told()
    done = launch(workshop.folder, settings, "--resume", str(run), "--trainer.max-steps", "8")
    assert done.returncode == 0, done.stderr
    again = read_losses(run)
    assert {key: again[key] for key in expected} == expected
    assert [again["train/pairs", step] for step in (7, 8)] == [4, 4]
    words = ["--resume", str(run / "step-00000004"), "--trainer.max-steps", "5"]
    assert train.main(words, presets={"tiny": settings}) == 0


@pytest.fixture
def again(monkeypatch):
    """Return what a process of a launcher says to go on with."""

    def say(program: str, prog: str, **environment: str) -> str:
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_FSDP"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", [program, "tiny"])
        settings = Settings()
        settings = replace(settings, trainer=replace(settings.trainer, folder="runs", run="a b"))
        return Training(settings, preset="tiny", prog=prog)._again()

    return say


@pytest.mark.parametrize(
    ("program", "prog", "command"),
    [("train.py", "python train.py", "train.py"), ("bin/captioner", "captioner train", "bin/captioner train")],
)
def test_the_command_to_go_on_starts_as_many_processes(again, program, prog, command):
    assert again(program, prog) == f"{prog} tiny --resume 'runs/a b'"
    found = again(program, prog, WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    assert found == f"accelerate launch --multi_gpu --num_processes 2 {command} tiny --resume 'runs/a b'"


@pytest.mark.parametrize("told", [{"LOCAL_WORLD_SIZE": "2"}, {"LOCAL_WORLD_SIZE": "4", "ACCELERATE_USE_FSDP": "true"}])
def test_options_of_the_launcher_that_no_process_knows_are_asked_for(again, told):
    found = again("train.py", "python train.py", WORLD_SIZE="4", **told)
    assert found == "train.py tiny --resume 'runs/a b', with the same `accelerate launch` options"
