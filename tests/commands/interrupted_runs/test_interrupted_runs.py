"""`captioner train` that is killed, refused, resumed in another way, or finds less than it left behind."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from breaking import LONG, before_loss, contents, cut_power, read_lines, score, send
from safetensors.torch import load_file
from tiny_shards import write_shards
from tiny_workshop import write_photos

from captioner import publish, scoring, whole_writes
from captioner.commands import prepare
from captioner.evaluation import result_files
from captioner.run_folder import exported_step, read_settings
from captioner.training import checkpoint

ROOT = Path(__file__).parents[3]


def test_a_kill_does_not_bring_back_the_steps_that_were_given_up(workshop, copied, monkeypatch):
    with monkeypatch.context() as patch:
        before_loss(patch, 3, cut_power)
        with pytest.raises(SystemError):
            workshop.train("--resume", str(copied / "step-00000006"), "--optim.lr", "1e-4")
    assert [line["step"] for line in read_lines(copied)] == [*range(1, 9)]
    assert workshop.train("--resume", str(copied)) == 0
    assert [line["step"] for line in read_lines(copied)] == [*range(1, 13)]
    assert all(line["learning_rate"] <= 1e-4 for line in read_lines(copied)[6:])
    assert read_settings(copied)[1].optim.lr == 1e-4


def test_the_best_of_steps_that_were_given_up_is_not_the_best(workshop, copied, monkeypatch):
    assert exported_step(copied) == 12
    score(monkeypatch, [0.5, 0.5])
    assert workshop.train("--resume", str(copied / "step-00000006"), "--optim.lr", "1e-4") == 0
    assert (checkpoint.find_checkpoint(copied)[1]["best"], exported_step(copied)) == (2.0, 6)
    exported = load_file(copied / "best" / "model.safetensors")
    saved = load_file(copied / "step-00000006" / "model.safetensors")
    assert all(exported[name].equal(saved[name]) for name in exported.keys() & saved.keys())
    assert len(exported.keys() & saved.keys()) > 10


def test_a_resume_that_is_refused_gives_nothing_up(workshop, copied, told):
    before = contents(copied)
    assert workshop.train("--resume", str(copied / "step-00000006"), "--decoder.width", "32") == 2
    told()
    assert contents(copied) == before


def test_a_run_goes_on_under_its_own_name(workshop, copied, told):
    (copied / ".step-00000015.writing").mkdir()  # as if another process were saving
    before = contents(copied.parent)
    assert workshop.train("--resume", str(copied), "--trainer.run", "other") == 2
    assert told().startswith(
        f"error: --resume {copied} goes on in {copied}, not in {copied.parent / 'other'}: drop --trainer.run and "
    )
    assert contents(copied.parent) == before
    assert (copied / ".step-00000015.writing").exists()
    assert not (copied.parent / "other").exists()


@pytest.mark.parametrize("lost", [["evaluation-test.json"], ["best"]])
def test_a_finished_model_without_checkpoints_is_not_begun_anew(workshop, copied, told, lost):
    for path in [*copied.glob("step-*"), *(copied / name for name in lost)]:
        whole_writes.remove(path)
    before = contents(copied)
    words = ["--trainer.folder", str(copied.parent), "--trainer.run", "copied"]
    assert workshop.train(*words, "--resume", "auto") == 2
    assert told().startswith(f"error: {copied} has an evaluated best model and no checkpoint to go on from: start")
    assert contents(copied) == before
    assert workshop.train(*words, "--trainer.overwrite") == 0


def test_two_processes_do_not_train_one_run(workshop, copied, told):
    code = "import sys, time; from pathlib import Path; from captioner.training.run_lock import locked_run\n"
    code += "with locked_run(Path(sys.argv[1])): print(flush=True); time.sleep(600)"
    words, environment = [sys.executable, "-c", code, str(copied)], {**os.environ, "PYTHONPATH": str(ROOT)}
    before = contents(copied)
    (copied / ".step-00000015.writing").mkdir()  # as if it were saving
    names = ["--trainer.folder", str(copied.parent), "--trainer.run", "copied"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as holder:
        try:
            holder.stdout.readline()
            for way in (["--resume", "auto"], ["--trainer.overwrite"], ["--resume", str(copied)]):
                assert workshop.train(*names, *way) == 2
                assert told().startswith(f"error: {copied} is being trained by process {holder.pid} on ")
            assert (copied / ".step-00000015.writing").exists()
        finally:
            holder.kill()
    (copied / ".lock").unlink()
    assert contents(copied) == before


def test_a_finished_run_without_its_export_is_exported_again(workshop, copied):
    weights = (copied / "best" / "model.safetensors").read_bytes()
    shutil.rmtree(copied / "best")
    assert workshop.train("--resume", str(copied)) == 0
    assert exported_step(copied) == 12
    assert (copied / "best" / "model.safetensors").read_bytes() == weights


def test_a_run_whose_export_found_no_space_is_finished_once_there_is_some(workshop, tmp_path, monkeypatch, capsys):
    words = ["--trainer.folder", str(tmp_path), "--trainer.run", "full"]

    def fill_disk(captioner, folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(publish, "export", fill_disk)
        assert workshop.train(*words) == 2
        error = capsys.readouterr().err.splitlines()[-1]
    run = tmp_path / "full"
    assert error == (
        f"error: {run / 'best'} could not be written, see above; mend that and go on with: "
        f"captioner train tiny --resume {run}"
    )
    assert workshop.train("--resume", str(run)) == 0
    assert exported_step(run) == 2


def test_another_dataset_of_the_same_name_is_refused(workshop, copied, tmp_path, told, capsys):
    write_photos(tmp_path / "photos")
    rows = [json.loads(line) for line in (tmp_path / "photos" / "captions.jsonl").read_text().splitlines()]
    rows[0]["captions"] = ["something else"]
    (tmp_path / "photos" / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["folder", "--root", str(tmp_path / "photos"), "--data-folder", str(tmp_path / "data")]
    assert prepare.main(words) == 0
    before = contents(copied)
    capsys.readouterr()
    assert workshop.train("--resume", str(copied), "--data.folder", str(tmp_path / "data"), "--optim.lr", "1e-4") == 2
    line = told()
    assert line.startswith(f"error: {copied / 'step-00000012'} was trained with another dataset of the name photos (")
    assert contents(copied) == before


def test_a_polite_kill_with_a_full_disk_is_no_success(workshop, tmp_path, monkeypatch, capsys):
    def fill_disk(tensors, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill_disk)
    before_loss(monkeypatch, 2, send(signal.SIGTERM))
    assert workshop.train("--trainer.folder", str(tmp_path), "--trainer.run", "full") == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stopped by SIGTERM; its newest state could not be saved; there is no checkpoint either; start it anew with "
        "the same command"
    )


def fill_disk_after(patch, step):
    """Let no checkpoint after that of a step find space."""
    save_file = checkpoint.save_file

    def save(tensors, path):
        if f"step-{step:08d}" not in path.parent.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_file(tensors, path)

    patch.setattr(checkpoint, "save_file", save)


def test_the_best_model_of_steps_that_could_not_be_saved_stays(workshop, tmp_path, monkeypatch, capsys):
    def write_nothing(path, *contents):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = tmp_path / "full"
    with monkeypatch.context() as patch:
        score(patch, [1.0, 2.0, 3.0, 1.0])
        fill_disk_after(patch, 3)
        patch.setattr(result_files, "write_result", write_nothing)
        assert workshop.train("--trainer.folder", str(tmp_path), "--trainer.run", "full", *LONG) == 2
    *_, said, error = capsys.readouterr().err.splitlines()
    command = f"captioner evaluate {run / 'best'} --update-card"
    assert said == f"the steps after step 3 are not saved; {run / 'best'} is whole, evaluate it with: {command}"
    assert error.endswith(f"(No space left on device); free some space and go on with: {command}")
    before = contents(run / "best")
    with monkeypatch.context() as patch:
        before_loss(patch, 2, cut_power)
        with pytest.raises(SystemError):
            workshop.train("--resume", str(run))
    assert exported_step(run) == 9
    assert contents(run / "best") == before
    score(monkeypatch, [2.0, 3.0, 1.0])
    assert workshop.train("--resume", str(run)) == 0
    assert exported_step(run) == 9


def test_a_run_whose_last_steps_are_not_saved_is_no_success(workshop, tmp_path, monkeypatch):
    fill_disk_after(monkeypatch, 3)
    assert workshop.train("--trainer.folder", str(tmp_path), "--trainer.run", "full", *LONG) == 1
    assert (tmp_path / "full" / "evaluation-test.json").exists()


def test_a_stop_after_steps_that_are_not_saved_is_no_success(workshop, tmp_path, monkeypatch, capsys):
    fill_disk_after(monkeypatch, 3)
    monkeypatch.setattr(scoring, "evaluate_captioner", send(signal.SIGTERM))
    assert workshop.train("--trainer.folder", str(tmp_path), "--trainer.run", "full", *LONG) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(f"evaluate it with: captioner evaluate {tmp_path / 'full' / 'best'} --update-card")
    )


def test_figures_of_a_model_that_is_trained_on_do_not_stay(workshop, copied, monkeypatch):
    assert (copied / "evaluation-test.json").exists()
    with monkeypatch.context() as patch:
        before_loss(patch, 2, cut_power)
        with pytest.raises(SystemError):
            workshop.train("--resume", str(copied), "--trainer.epochs", "5")
    assert not (copied / "evaluation-test.json").exists()
    assert workshop.train("--resume", str(copied)) == 0
    assert (copied / "evaluation-test.json").exists()
    assert not [*copied.glob(".*")]


def test_the_command_to_go_on_with_can_be_typed_as_it_is(workshop, tmp_path, monkeypatch, capsys):
    before_loss(monkeypatch, 2, send(signal.SIGTERM))
    run = tmp_path / "a folder" / "it's"
    assert workshop.train("--trainer.folder", str(run.parent), "--trainer.run", run.name, *LONG) == 0
    command = capsys.readouterr().err.splitlines()[-1].partition("; go on with: ")[2]
    typed = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert typed == ["captioner", "train", "tiny", "--resume", str(run)]


def test_damaged_settings_and_tokenizer_are_repaired_from_the_checkpoint(workshop, copied, capsys):
    before = contents(copied)
    text = (copied / "settings.json").read_text()
    (copied / "settings.json").write_text(text.replace('"lr": 0.01', '"lr": 0.03'))
    (copied / "tokenizer.json").write_bytes(before["tokenizer.json"].replace(b'"pict"', b'"pjct"'))
    assert (copied / "tokenizer.json").read_bytes() != before["tokenizer.json"]
    assert workshop.train("--resume", str(copied)) == 0
    said = capsys.readouterr().err
    assert f"{copied / 'settings.json'} is damaged, edited or missing: the settings are those of {copied}" in said
    assert f"{copied / 'tokenizer.json'} is damaged or missing: taken from {copied / 'step-00000012'}" in said
    assert (copied / "tokenizer.json").read_bytes() == before["tokenizer.json"]
    assert read_settings(copied)[1].optim.lr == 0.01


def test_other_shards_are_refused_before_anything_is_recorded(workshop, tmp_path, told, capsys):
    pattern = write_shards(tmp_path / "shards", "tar", [4, 3])
    words = ["--trainer.folder", str(tmp_path), "--trainer.run", "stream", "--data.streaming", pattern]
    assert workshop.train(*words, "--trainer.max-steps", "2", "--trainer.epochs", "9") == 0
    write_shards(tmp_path / "shards", "tar", [4, 3, 2])
    run = tmp_path / "stream"
    before = contents(run)
    capsys.readouterr()
    assert workshop.train("--resume", str(run), "--optim.lr", "0.5", "--trainer.max-steps", "4") == 2
    assert "the shards are not those that the run was stopped in" in told()
    assert contents(run) == before
