"""Uploads beside a training: what they send, in which order, and what they do when the Hub does not do as asked."""

import json
import threading
import time

import pytest
import torch
from hub_stand_in import LOOPBACK, TOKEN

from captioner import Captioner
from captioner.hub import UploadError, upload
from captioner.publish import export
from captioner.run_folder import write_settings
from captioner.settings import HubSettings, Settings
from captioner.training.checkpoint import find_checkpoint, prune_checkpoints, save_checkpoint
from captioner.uploads import BackgroundUploads

pytestmark = LOOPBACK

HUB = HubSettings(repo_id="me/captioner")


@pytest.fixture
def best(tiny_captioner, tmp_path):
    """A run's export, of step 1."""
    return write_best(tiny_captioner, tmp_path / "run" / "best", step=1)


def write_best(captioner, folder, *, step):
    captioner.metrics = {"validation_at_best": {"step": step, "epoch": step, "CIDEr-D": step / 10}}
    export(captioner, folder)
    return folder


def step_of(files) -> int:
    return json.loads(files["metrics.json"])["validation_at_best"]["step"]


class Attempts:
    """Stands in for the Hub: fails with the given errors first, and holds an attempt up while ``gate`` is closed."""

    def __init__(self, *errors):
        self.errors, self.steps, self.folders = list(errors), [], []
        self.gate, self.changed = threading.Event(), threading.Condition()
        self.gate.set()

    def __call__(self, folder, message):
        before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        with self.changed:
            self.steps.append(step_of(before))
            self.folders.append(folder)
            self.changed.notify_all()
        assert self.gate.wait(60)
        assert {
            path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
        } == before  # no later best tears it
        if self.errors and (error := self.errors.pop(0)):
            raise error
        return "https://hub/commit/1"

    def wait_for(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.steps) >= count, timeout=60)


def begin(best, attempts, waits=(0.01,)):
    return BackgroundUploads(HUB, best.parent, attempt=attempts, waits=waits, final_waits=(0.01, 0.01))


def leftovers(best):
    return [path.name for path in best.parent.iterdir() if path != best]


def test_every_new_best_is_uploaded_as_it_was_and_an_overtaken_one_left_out(best, tiny_captioner):
    attempts = Attempts()
    uploads = begin(best, attempts)
    attempts.gate.clear()
    uploads.submit(best, "step 1")
    attempts.wait_for(1)
    for step in (2, 3):
        uploads.submit(write_best(tiny_captioner, best, step=step), f"step {step}")
    assert attempts.steps == [1]
    attempts.gate.set()
    assert uploads.finish(write_best(tiny_captioner, best, step=4), "the end")
    assert attempts.steps[0] == 1
    assert attempts.steps[-1] == 4
    assert 2 not in attempts.steps
    assert leftovers(best) == []


def test_a_failure_is_tried_again(best, caplog):
    attempts = Attempts(UploadError("the Hub is down"), UploadError("the Hub is down"), None)
    uploads = begin(best, attempts)
    uploads.submit(best, "step 1")
    attempts.wait_for(3)
    uploads.finish(best, "the end")
    assert attempts.steps == [1, 1, 1, 1]
    assert [message for message in caplog.messages if "down" in message] == [
        "the Hub is down; training goes on, and it is tried again later"  # said once
    ]


def test_a_refusal_is_not_repeated_before_the_next_best(best, tiny_captioner):
    attempts = Attempts(UploadError("no (403)", lasting=True))
    uploads = begin(best, attempts)
    uploads.submit(best, "step 1")
    attempts.wait_for(1)
    time.sleep(0.1)
    assert attempts.steps == [1]
    uploads.submit(write_best(tiny_captioner, best, step=2), "step 2")
    attempts.wait_for(2)
    assert uploads.finish(best, "the end")


@pytest.mark.parametrize(("lasting", "attempts_at_end"), [(True, 1), (False, 3)])
def test_what_could_not_be_uploaded_is_tried_again_at_the_end_and_reported(best, caplog, lasting, attempts_at_end):
    attempts = Attempts(*[UploadError("me/captioner was not uploaded: no", lasting=lasting) for _ in range(9)])
    assert not begin(best, attempts).finish(best, "the end")
    assert len(attempts.steps) == attempts_at_end
    assert caplog.messages[-1] == (
        f"me/captioner was not uploaded: no; the export is safe, upload it with `captioner push {best} me/captioner`"
    )
    assert leftovers(best) == []


def test_the_wait_that_the_hub_asks_for_is_kept(best):
    attempts = Attempts(UploadError("slow down (429)", wait=3600.0))
    uploads = begin(best, attempts)
    uploads.submit(best, "step 1")
    attempts.wait_for(1)
    time.sleep(0.1)
    assert attempts.steps == [1]
    uploads.stop(best)


def test_stopping_does_not_wait_and_says_what_is_missing(best, caplog):
    attempts = Attempts()
    attempts.gate.clear()
    uploads = begin(best, attempts)
    uploads.submit(best, "step 1")
    attempts.wait_for(1)
    uploads.stop(best)
    assert caplog.messages == [
        "me/captioner does not have the best model yet; the export is safe, "
        f"upload it with `captioner push {best} me/captioner`"
    ]
    attempts.gate.set()


def write_checkpoint(run, tokenizer, *, step):
    """A checkpoint of a run, as training leaves it."""
    if not (run / "settings.json").exists():
        write_settings(run, Settings(hub=HUB), preset="scenes")
        tokenizer.save(run / "tokenizer.json")
    return save_checkpoint(run, step=step, model={"a": torch.ones(step)}, optimizer={}, state={"position": 0})


@pytest.mark.parametrize("error", [UploadError("down"), UploadError("no (403)", lasting=True)])
def test_a_hub_that_fails_is_not_asked_again_for_every_checkpoint(best, tiny_tokenizer, error):
    attempts = Attempts(error)
    uploads = begin(best, attempts, waits=(3600.0,))
    for step in range(1, 6):
        uploads.submit(best, f"step {step}", checkpoint=write_checkpoint(best.parent, tiny_tokenizer, step=step))
        attempts.wait_for(1)
    time.sleep(0.1)
    assert len(attempts.steps) == 1
    assert len(list(best.parent.glob(".upload-*"))) == 1  # the newest alone waits
    assert uploads.finish(best, "the end")
    assert len(attempts.steps) == 2
    assert not list(best.parent.glob(".upload-*"))


def test_a_checkpoint_that_is_pruned_meanwhile_is_uploaded_whole(best, tiny_tokenizer):
    attempts = Attempts()
    uploads = begin(best, attempts)
    attempts.gate.clear()
    uploads.submit(best, "step 1", checkpoint=write_checkpoint(best.parent, tiny_tokenizer, step=1))
    attempts.wait_for(1)
    for step in (2, 3):
        write_checkpoint(best.parent, tiny_tokenizer, step=step)
    prune_checkpoints(best.parent, keep=1)
    assert find_checkpoint(attempts.folders[0] / "training")[1]["step"] == 1
    attempts.gate.set()
    assert uploads.finish(best, "the end")  # though there is nothing of step 1 left to copy


def test_what_is_missing_of_a_run_is_named_with_the_command_for_it(best, tiny_tokenizer, caplog):
    attempts = Attempts(*[UploadError("me/captioner was not uploaded: no", lasting=True)] * 2)
    uploads = begin(best, attempts)
    uploads.submit(best, "step 1", checkpoint=write_checkpoint(best.parent, tiny_tokenizer, step=1))
    attempts.wait_for(1)
    assert not uploads.finish(best, "the end")
    assert caplog.messages[-1] == (
        "me/captioner was not uploaded: no; the run is safe, "
        f"upload it with `captioner push {best.parent} me/captioner --checkpoint`"
    )


def test_the_last_wait_has_an_end(best):
    attempts = Attempts()
    attempts.gate.clear()
    uploads = begin(best, attempts)
    assert not uploads.finish(best, "the end", within=0.05)
    attempts.gate.set()


def test_a_hub_that_asks_for_too_much_patience_is_left_alone_at_the_end(best):
    attempts = Attempts(UploadError("slow down (429)", wait=3600.0))
    assert not begin(best, attempts).finish(best, "the end")
    assert len(attempts.steps) == 1


def test_a_torn_export_is_a_warning(best, caplog):
    (best / "model.safetensors").unlink()
    assert not begin(best, Attempts()).submit(best, "step 1")
    assert "has no model.safetensors" in caplog.text


def test_a_copy_that_a_killed_process_left_behind_is_removed(best):
    (best.parent / ".upload-abc").mkdir()
    begin(best, Attempts())
    assert leftovers(best) == []


class TestWithTheRealClient:
    def test_what_arrives_is_a_captioner_and_holds_nothing_private(self, best, hub, pictures):
        (best / "notes.txt").write_text("mine")
        assert BackgroundUploads(HUB, best.parent).finish(best, "the end")
        repository = hub.repositories["me/captioner"]
        assert repository.private
        assert repository.messages == ["the end"]
        assert set(repository.files) == {path.name for path in best.iterdir()} - {"notes.txt"}
        sent = b"".join(hub.bodies)
        for secret in ("/home/me/private", str(best.parent.parent), TOKEN):
            assert secret.encode() not in sent
        pulled = Captioner.from_pretrained("me/captioner")
        assert pulled.caption(pictures) == Captioner.from_pretrained(best).caption(pictures)
        assert pulled.settings.hub.repo_id == "me/captioner"

    @pytest.mark.parametrize("status", [401, 403, 429, 500])
    def test_refusals(self, best, hub, caplog, status):
        hub.fail("/repos/create", status)
        uploads = BackgroundUploads(
            HUB, best.parent, attempt=lambda folder, message: upload(folder, HUB.repo_id), final_waits=()
        )
        assert not uploads.finish(best, "the end")
        assert str(status) in caplog.messages[-1]
        assert f"`captioner push {best} me/captioner`" in caplog.messages[-1]
        assert hub.repositories == {}

    def test_a_hub_that_does_not_answer_is_left_behind(self, best, hub, caplog):
        hub.fail("/repos/create", hangs=True)
        uploads = BackgroundUploads(HUB, best.parent)
        uploads.submit(best, "step 1")
        hub.wait_for("/repos/create")
        uploads.stop(best)
        uploads._thread.join(60)
        assert not uploads._thread.is_alive()  # its process is gone, although the Hub never answered
        assert "me/captioner does not have the best model yet" in caplog.text
        assert leftovers(best) == []

    def test_a_hub_that_comes_back(self, best, hub, tiny_captioner):
        hub.fail("/repos/create", 500, times=1)
        uploads = BackgroundUploads(HUB, best.parent, waits=(0.01,))
        uploads.submit(best, "step 1")
        hub.wait_for("/repos/create", count=2)
        assert uploads.finish(write_best(tiny_captioner, best, step=2), "the end")
        assert step_of(hub.repositories["me/captioner"].files) == 2
