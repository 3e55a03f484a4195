"""`captioner push`; what is uploaded is in test_publish.py."""

import pytest
from huggingface_hub import HfApi, RepoUrl
from huggingface_hub.errors import HTTPError

import captioner.api
from captioner.commands import push


@pytest.fixture
def uploads(monkeypatch) -> list[tuple]:
    """Stands in for the Hub, and writes down what is asked of it."""
    asked: list[tuple] = []

    def create_repo(api, repo_id, *, private=None, **options):
        asked.append((repo_id, private))
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(api, *, repo_id, folder_path, **options):
        asked.append((repo_id, sorted(path.name for path in folder_path.iterdir() if path.is_file())))
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(captioner.api, "get_token", lambda: "hf_token")
    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return asked


@pytest.mark.parametrize(("words", "private"), [([], True), (["--public"], False)])
def test_a_run_is_uploaded_and_its_address_printed(trained, uploads, words, private, capsys):
    assert push.main([str(trained), "me/captioner", *words]) == 0
    assert capsys.readouterr().out == "https://huggingface.co/me/captioner/commit/1\n"
    assert uploads[0] == ("me/captioner", private)
    assert {"model.safetensors", "config.json", "README.md"} <= set(uploads[1][1])


def test_training_uploads_where_a_repository_is_named(workshop, trained, uploads, capsys):
    assert workshop.train("--trainer.run", "shared", "--hub.repo-id", "me/captioner", "--hub.no-private") == 0
    assert "Uploaded to https://huggingface.co/me/captioner/commit/1" in capsys.readouterr().out
    assert uploads[0] == ("me/captioner", False)


def test_an_unreachable_hub_is_one_line(export, uploads, monkeypatch, told):
    def fail(*arguments, **options):
        raise HTTPError("[Errno -2] Name or service not known")

    monkeypatch.setattr(HfApi, "create_repo", fail)
    assert push.main([str(export), "me/captioner"]) == 2
    line = told()
    assert line.startswith("error: me/captioner was not uploaded: ")
    assert f"the export is safe, try again with `captioner push {export} me/captioner`" in line


def test_without_a_token(export, monkeypatch, told):
    monkeypatch.setattr(captioner.api, "get_token", lambda: None)
    assert push.main([str(export), "me/captioner"]) == 2
    assert "run `hf auth login` or set HF_TOKEN" in told()


def test_a_missing_run_is_not_looked_for_on_the_hub(told):
    assert push.main(["checkpoints/nowhere", "me/captioner"]) == 2
    assert told() == ("error: checkpoints/nowhere: no such folder; name a run or an export, like checkpoints/scenes\n")


def test_a_run_without_an_export(tmp_path, told):
    assert push.main([str(tmp_path), "me/captioner"]) == 2
    assert told().startswith(f"error: {tmp_path} has no config.json")
