"""Uploads through the real client to a Hub on loopback, whole and with what a Hub does wrong."""

import json
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from hub_stand_in import LOOPBACK, TOKEN
from huggingface_hub.utils import _http

from captioner.errors import HubError
from captioner.hub import UploadError, download, upload

pytestmark = LOOPBACK

CARD = "---\nlibrary_name: captioner\n---\n# A captioner\n"


@pytest.fixture
def folder(tmp_path):
    """What is uploaded: a card, some JSON, and weights that go by Git LFS."""
    folder = tmp_path / "export"
    folder.mkdir()
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    return folder


@pytest.fixture
def no_pauses(monkeypatch):
    """The client itself waits between its own attempts; returns the seconds that it wanted to."""
    waited = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=waited.append))
    return waited


def failure(folder) -> UploadError:
    with pytest.raises(UploadError) as caught:
        upload(folder, "me/captioner")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("me/captioner was not uploaded: ")
    assert TOKEN not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("private", [True, False])
def test_a_folder_is_uploaded_whole(hub, folder, private):
    address = upload(folder, "me/captioner", private=private, commit_message="The first")
    repository = hub.repositories["me/captioner"]
    assert address == f"{hub.address}/me/captioner/commit/{repository.head}"
    assert repository.private is private
    assert repository.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert repository.messages == ["The first"]
    assert [request for request in hub.requests if "lfs" in request or "store" in request] == [
        "POST /me/captioner.git/info/lfs/objects/batch",
        next(f"PUT /store/{oid}" for oid in hub.objects),
    ]


def test_unchanged_weights_are_not_sent_again(hub, folder):
    upload(folder, "me/captioner")
    (folder / "config.json").write_text('{"new": 1}')
    upload(folder, "me/captioner")
    assert hub.repositories["me/captioner"].files["config.json"] == b'{"new": 1}'
    assert sum(request.startswith("PUT /store") for request in hub.requests) == 1


@pytest.mark.parametrize("path", ["/repos/create", "/validate-yaml", "/preupload", "/objects/batch", "/commit/"])
@pytest.mark.parametrize(
    ("status", "lasting", "reason"),
    [
        (401, True, r"does not accept the token \(401\); run `hf auth login` or set HF_TOKEN"),
        (403, True, r"may not write there \(403\)"),
        (404, True, r"knows no such owner or repository \(404\)"),
        (429, False, r"it asks for patience \(429\); try again in some minutes"),
        (500, False, r"it has a fault of its own \(500\); try again later"),
    ],
)
@pytest.mark.usefixtures("no_pauses")
def test_a_refusal_is_one_line_and_says_whether_to_try_again(hub, folder, path, status, lasting, reason):
    hub.fail(path, status)
    error = failure(folder)
    if path == "/validate-yaml":  # of which the client reads the answer before its status
        lasting, reason = False, "it gave an answer that is no JSON"
    assert error.lasting is lasting
    assert re.search(reason, str(error))


@pytest.mark.parametrize("path", ["/repos/create", "/validate-yaml", "/preupload", "/objects/batch", "/commit/"])
def test_an_answer_of_something_else_than_a_hub_is_one_line(hub, folder, path):
    hub.fail(path, 200)
    error = failure(folder)
    assert not error.lasting
    assert str(error).endswith(
        "it gave an answer that is no JSON, as a proxy or a Hub with a fault does; try again later"
    )


@pytest.mark.parametrize("status", [429, 500, 503])
def test_weights_that_the_store_refuses_once_are_sent_again(hub, folder, no_pauses, status):
    hub.fail("/store/", status, times=1)
    upload(folder, "me/captioner")
    assert hub.repositories["me/captioner"].files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert len(no_pauses) == 1


@pytest.mark.usefixtures("no_pauses")
def test_weights_that_the_store_never_takes(hub, folder):
    hub.fail("/store/", 500)
    assert not failure(folder).lasting
    assert hub.repositories["me/captioner"].files == {}


def test_a_hub_that_asks_for_patience(hub, folder):
    hub.fail("/repos/create", 429, headers={"Retry-After": "77"})
    assert failure(folder).wait == 77


@pytest.mark.usefixtures("no_pauses")
def test_a_hub_that_is_down(hub, folder):
    hub.close()
    error = failure(folder)
    assert not error.lasting
    assert "it cannot be reached ([Errno 111] Connection refused); connect and try again" in str(error)


def test_without_a_token(hub, folder, monkeypatch):
    monkeypatch.setattr("captioner.hub.get_token", lambda: None)
    error = failure(folder)
    assert error.lasting
    assert "not logged in to the Hub; run `hf auth login` or set HF_TOKEN" in str(error)
    assert hub.requests == []


def test_a_wrong_token(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    error = failure(folder)
    assert error.lasting
    assert "hf_of_somebody_else" not in str(error)


def test_a_name_that_is_no_repository(hub, folder):
    with pytest.raises(UploadError, match="Repo id must be in the form") as caught:
        upload(folder, "me/too/many")
    assert caught.value.lasting


def run(folder, *words):
    command = [sys.executable, "-m", "captioner.hub", str(folder), "me/captioner", *words]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, "it does not let this token in (401); run `hf auth login` or set HF_TOKEN with one that may"),
        (403, "it does not let this token in (403); run `hf auth login` or set HF_TOKEN with one that may"),
        (429, "it asks for patience (429); try again in some minutes"),
        (500, "it has a fault of its own (500); try again later"),
        (200, "it gave an answer that is no JSON, as a proxy or a Hub with a fault does; try again later"),
    ],
)
@pytest.mark.usefixtures("no_pauses")
def test_a_refused_download_is_one_line_with_its_reason(hub, status, reason):
    hub.fail("/api/models", status)
    with pytest.raises(HubError) as caught:
        download("me/captioner")
    assert str(caught.value) == f"me/captioner is no folder here, and could not be had from the Hub: {reason}"


def test_the_training_of_before_goes_in_the_same_commit(hub, folder):
    steps = [folder / "training" / f"step-{number}" for number in (1, 2)]
    for step in steps:
        step.mkdir(parents=True)
        (step / "model.safetensors").write_bytes(step.name.encode())
        upload(folder, "me/captioner")
        (step / "model.safetensors").unlink()
        step.rmdir()
    first, second = (
        {name for name in files if "/" in name} for files in hub.repositories["me/captioner"].commits.values()
    )
    assert first == {"training/step-1/model.safetensors"}
    assert second == {"training/step-2/model.safetensors"}
    (folder / "training").rmdir()
    (folder / "config.json").write_text("[]")
    upload(folder, "me/captioner")  # an export alone leaves the checkpoint where it is
    assert second < set(hub.repositories["me/captioner"].files)


def test_in_a_process_of_its_own(hub, folder):
    answer = run(folder, "--public", "--message", "Step 5")
    repository = hub.repositories["me/captioner"]
    assert answer == {"address": f"{hub.address}/me/captioner/commit/{repository.head}"}
    assert (repository.private, repository.messages) == (False, ["Step 5"])
    hub.fail("/preupload", 403)
    answer = run(folder)
    assert answer["lasting"]
    assert answer["error"].startswith("me/captioner was not uploaded: the token may not write there (403)")


def test_the_process_imports_no_model():
    code = "import sys, captioner.hub; print({'torch', 'transformers', 'datasets'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
