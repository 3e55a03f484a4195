"""`captioner train`: what a run leaves behind, going on with it, and stopping it."""

import errno
import json
import pickle
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from captioner import Captioner, publish
from captioner.commands import train
from captioner.run_folder import read_settings


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
    assert any("validation/CIDEr-D" in line for line in lines)
    assert {path.name for path in (trained / "step-00000002").iterdir()} == {
        "model.safetensors",
        "optimizer.safetensors",
        "state.json",
        *("settings.json", "tokenizer.json", "tokenizer_config.json"),
    }


def test_the_export_holds_the_figures_of_the_test_split(export):
    captioner = Captioner.from_pretrained(export)
    assert captioner.metrics["test"]["images"] == 3
    assert captioner.metrics["test"]["decoding"]["beams"] == 2
    assert {"BLEU-4", "ROUGE-L", "CIDEr-D"} <= captioner.metrics["test"]["metrics"].keys()
    assert captioner.metrics["validation_at_best"]["step"] == 2


def test_a_run_tells_what_it_did_and_what_is_next(workshop, capsys):
    assert (
        workshop.train("--trainer.run", "telling", "--trainer.validation-images", "1", "--task.metrics", "CIDEr-D") == 0
    )
    captured = capsys.readouterr()
    run = workshop.checkpoints / "telling"
    first, *scores = captured.out.split("\n\n")[0].splitlines()
    assert first.startswith("test: 3 images, ")
    assert scores[0].startswith("  CIDEr-D ")
    assert not any("BLEU" in line for line in scores)
    assert f"A held-out picture, {run / '8.png'}:\n  " in captured.out
    assert f"  captioner evaluate {run / 'best'} --split test" in captured.out
    assert (run / "8.png").exists()
    assert f"Training {run} on 6 images with 12 captions" in captured.err
    assert "2 steps, which are 0.67 epochs of 3 batches (padding " in captured.err


def test_a_run_is_not_written_over(workshop, trained, told):
    before = contents(trained)
    assert workshop.train("--trainer.run", "trained") == 2
    line = told()
    assert line.startswith(f"error: {trained} holds a run already: go on with --resume {trained}")
    assert "--trainer.overwrite" in line
    assert contents(trained) == before


def test_overwriting_replaces_the_run(workshop, copied):
    (copied / "mine.txt").write_text("precious")
    (copied / "report").mkdir()
    words = ["--trainer.run", "copied", "--trainer.folder", str(copied.parent), "--trainer.overwrite"]
    assert workshop.train(*words, "--trainer.max-steps", "1") == 0
    assert (copied / "mine.txt").read_text() == "precious"
    assert not (copied / "report").exists()
    assert [path.name for path in copied.glob("step-*")] == ["step-00000001"]


@pytest.mark.parametrize("words", [[], ["--trainer.overwrite"]])
def test_a_folder_that_is_no_run_is_not_written_over(workshop, tmp_path, told, words):
    (tmp_path / "mine" / "best").mkdir(parents=True)
    (tmp_path / "mine" / "precious.txt").write_text("precious")
    assert workshop.train("--trainer.folder", str(tmp_path), "--trainer.run", "mine", *words) == 2
    assert told() == (
        f"error: {tmp_path / 'mine'} is there already and holds no run; name another folder with --trainer.run\n"
    )
    assert contents(tmp_path) == {"mine/precious.txt": b"precious"}


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


def test_settings_that_do_not_fit_a_resumed_run_leave_it_as_it_was(workshop, copied, told):
    before = contents(copied)
    words = ["--decoder.width", "32", "--projection.kind", "mlp"]
    assert workshop.train("--resume", str(copied), *words) == 2
    line = told()
    assert "the run cannot go on with decoder.width: 16 -> 32" in line
    assert "the run cannot go on with projection.kind: 'linear' -> 'mlp'" in line
    assert contents(copied) == before


def test_a_torn_newest_checkpoint_is_passed_over(workshop, copied, capsys):
    assert workshop.train("--resume", str(copied), "--trainer.max-steps", "3") == 0
    (copied / "step-00000003" / "model.safetensors").write_bytes(b"torn")
    capsys.readouterr()
    assert workshop.train("--resume", str(copied), "--trainer.max-steps", "3") == 0
    assert f"{copied / 'step-00000003'} is damaged" in capsys.readouterr().err


def test_the_best_of_a_run_names_the_run_to_go_on_with(workshop, copied):
    assert workshop.train("--resume", str(copied / "best"), "--trainer.max-steps", "3") == 0
    assert (copied / "step-00000003").is_dir()
    resumed = json.loads((copied / "settings.json").read_text())["resumed"]
    assert [(entry["step"], entry["changed"][-1]) for entry in resumed] == [(2, "trainer.max_steps: 2 -> 3")]


def test_automatic_resuming_starts_and_then_goes_on(workshop, tmp_path):
    words = ["--resume", "auto", "--trainer.folder", str(tmp_path), "--trainer.run", "r", "--optim.lr", "0.02"]
    assert workshop.train(*words, "--trainer.max-steps", "1") == 0
    assert workshop.train(*words, "--trainer.max-steps", "2") == 0
    assert [line["step"] for line in read_lines(tmp_path / "r") if "train/loss" in line] == [1, 2]
    assert read_settings(tmp_path / "r")[1].optim.lr == 0.02
    for folder in (tmp_path / "r").glob("step-*"):  # killed before its first checkpoint, with an export already
        shutil.rmtree(folder)
    (tmp_path / "r" / "evaluation-test.json").unlink()
    metrics = json.loads((tmp_path / "r" / "best" / "metrics.json").read_text())
    del metrics["test"]
    (tmp_path / "r" / "best" / "metrics.json").write_text(json.dumps(metrics))
    assert workshop.train(*words, "--trainer.max-steps", "1") == 0
    assert [line["step"] for line in read_lines(tmp_path / "r") if "train/loss" in line] == [1]


def test_automatic_resuming_does_not_begin_anew_over_damaged_checkpoints(workshop, copied, capsys):
    (copied / "step-00000002" / "state.json").write_text("torn")
    words = ["--resume", "auto", "--trainer.run", "copied", "--trainer.folder", str(copied.parent)]
    assert workshop.train(*words) == 2
    assert f"{copied} holds no whole checkpoint to resume" in capsys.readouterr().err
    assert (copied / "step-00000002").is_dir()


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", ["best/config.json", "best/model.safetensors"])
def test_pickles_in_a_run_are_never_opened(workshop, copied, monkeypatch, tmp_path, capsys, name):
    monkeypatch.chdir(tmp_path)
    (copied / name).write_bytes(pickle.dumps(Bomb()))
    assert workshop.train("--resume", str(copied)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert Path(name).name in error
    assert not Path("exploded").exists()


OWN = ("settings.json", "tokenizer.json", "tokenizer_config.json", "metrics.jsonl", "timings.jsonl")


@pytest.mark.parametrize("name", [*OWN, "best/metrics.json"])
def test_pickles_in_a_run_are_passed_over(workshop, copied, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    (copied / name).write_bytes(pickle.dumps(Bomb()))
    assert workshop.train("--resume", str(copied)) == 0
    assert not Path("exploded").exists()


@pytest.mark.parametrize("name", ["index.json", "train-00000.safetensors"])
def test_pickles_in_a_feature_cache_are_never_opened(workshop, monkeypatch, tmp_path, capsys, name):
    data = tmp_path / "data"
    shutil.copytree(workshop.data, data)
    words = ["--trainer.folder", str(tmp_path), "--trainer.run", "cached", "--encoder.no-trainable"]
    words += ["--data.folder", str(data)]
    assert workshop.train(*words) == 0
    [path] = (data / "photos" / "features").rglob(name)
    path.write_bytes(pickle.dumps(Bomb()))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert workshop.train("--resume", str(tmp_path / "cached")) == 2
    assert f"error: {path}: " in capsys.readouterr().err.splitlines()[-1]
    assert not Path("exploded").exists()


def test_a_full_disk_at_the_end_says_how_to_go_on(workshop, copied, monkeypatch, capsys):
    def fill_disk(captioner, folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(publish, "export", fill_disk)
    assert workshop.train("--resume", str(copied)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == (
        f"error: the test figures could not be written to {copied / 'best'} (No space left on device); "
        f"free some space and go on with: captioner train tiny --resume {copied}"
    )
