"""`captioner train` that SIGTERM or SIGINT ends: its status, and what it says."""

import os
import signal

import pytest
from breaking import before_loss, contents, send

from captioner import resources, scoring, uploads
from captioner.training import tracking


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
class TestASignalOutsideOfTraining:
    def test_before_a_run_has_begun(self, workshop, tmp_path, monkeypatch, told, number, status):
        monkeypatch.setattr(resources, "load_encoder", send(number))
        assert workshop.train("--trainer.folder", str(tmp_path), "--trainer.run", "new") == status
        assert told() == (
            f"stopped by {number.name}; training had not begun, what is prepared is kept; start it with the same "
            "command\n"
        )
        assert not (tmp_path / "new").exists()

    def test_before_a_run_goes_on(self, workshop, copied, monkeypatch, told, number, status):
        before = contents(copied)
        monkeypatch.setattr(resources, "load_encoder", send(number))
        assert workshop.train("--resume", str(copied)) == status
        assert told() == (
            f"stopped by {number.name}; training had not begun, what is prepared is kept; start it with the same "
            "command\n"
        )
        assert contents(copied) == before

    def test_while_the_trackers_open(self, workshop, tmp_path, monkeypatch, capsys, number, status):
        words = ["--trainer.folder", str(tmp_path), "--trainer.run", "new"]
        with monkeypatch.context() as patch:
            patch.setattr(tracking, "open_trackers", send(number))
            assert workshop.train(*words) == status
        assert "; training had not begun, what is prepared is kept; start it" in capsys.readouterr().err
        assert workshop.train(*words) == 0

    def test_while_the_trackers_close(self, workshop, tmp_path, monkeypatch, capsys, number, status):
        monkeypatch.setattr(tracking.Trackers, "close", send(number))
        assert workshop.train("--trainer.folder", str(tmp_path), "--trainer.run", "new") == status
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"stopped by {number.name}; the run is trained and not evaluated yet; evaluate it with: "
            f"captioner train tiny --resume {tmp_path / 'new'}"
        )

    def test_while_the_trackers_of_a_stopped_run_close(self, workshop, copied, monkeypatch, capsys, number, status):
        before_loss(monkeypatch, 2, send(number))
        monkeypatch.setattr(tracking.Trackers, "close", send(number))
        assert workshop.train("--resume", str(copied / "step-00000006")) == status
        assert (copied / "step-00000008").exists()
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"stopped by {number.name}; go on with: captioner train tiny --resume {copied}"
        )

    def test_while_the_last_upload_runs(self, workshop, copied, monkeypatch, capsys, number, status):
        for name in ("submit", "stop"):
            monkeypatch.setattr(uploads.BackgroundUploads, name, lambda *words, **options: None)
        monkeypatch.setattr(uploads.BackgroundUploads, "finish", send(number))
        assert workshop.train("--resume", str(copied), "--hub.repo-id", "me/captioner") == status
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"stopped by {number.name}; the run is trained and evaluated, only its upload is not done; upload it with: "
            f"captioner push {copied / 'best'} me/captioner"
        )

    def test_in_the_evaluation(self, workshop, copied, monkeypatch, capsys, number, status):
        monkeypatch.setattr(scoring, "evaluate_captioner", send(number))
        assert workshop.train("--resume", str(copied)) == status
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"stopped by {number.name}; the run is trained and not evaluated yet; evaluate it with: "
            f"captioner train tiny --resume {copied}"
        )
        monkeypatch.undo()
        assert workshop.train("--resume", str(copied)) == 0


def test_a_second_signal_loses_the_steps_since_the_newest_checkpoint_and_says_so(workshop, copied, monkeypatch, capsys):
    def insist():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)

    before_loss(monkeypatch, 2, insist)
    assert workshop.train("--resume", str(copied / "step-00000006")) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "stopped by SIGTERM; the steps since the newest checkpoint are lost; go on with: "
        f"captioner train tiny --resume {copied}"
    )
