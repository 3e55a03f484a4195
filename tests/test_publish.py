import pytest
from huggingface_hub import HfApi, ModelCard, RepoUrl
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

import captioner.api
from captioner import Captioner
from captioner.errors import CheckpointError, HubError
from captioner.publish import export, push

pytestmark = pytest.mark.usefixtures("one_thread")

FILES = {
    "README.md",
    "config.json",
    "metrics.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


class LocalHub:
    """Stands in for the Hub: keeps what is uploaded."""

    def __init__(self):
        self.repositories, self.files = {}, {}

    def create_repo(self, api, repo_id, *, private=None, exist_ok=False):
        assert exist_ok
        self.repositories.setdefault(repo_id, private)
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, api, *, repo_id, folder_path, **options):
        assert repo_id in self.repositories
        paths = [path for path in folder_path.rglob("*") if path.is_file()]
        self.files |= {str(path.relative_to(folder_path)): path.read_bytes() for path in paths}
        return f"https://huggingface.co/{repo_id}/commit/1"


@pytest.fixture
def hub(monkeypatch):
    hub = LocalHub()
    monkeypatch.setattr(captioner.api, "get_token", lambda: "hf_token")
    monkeypatch.setattr(HfApi, "create_repo", lambda api, **options: hub.create_repo(api, **options))
    monkeypatch.setattr(HfApi, "upload_folder", lambda api, **options: hub.upload_folder(api, **options))
    return hub


@pytest.fixture
def run(tiny_captioner, tmp_path):
    """A run with an export and with what stays at home."""
    tiny_captioner.metrics = {"validation_at_best": {"step": 5, "epoch": 1, "CIDEr-D": 0.25}}
    export(tiny_captioner, tmp_path / "run" / "best")
    (tmp_path / "run" / "settings.json").write_text("{}")
    return tmp_path / "run"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(run):
    """The one line that says why a push failed, with nothing lost."""
    before = contents(run)
    with pytest.raises(HubError) as caught:
        push(run, "me/captioner")
    assert contents(run) == before
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("me/captioner was not uploaded: ")
    assert message.endswith(f"; the export is safe, try again with `captioner push {run} me/captioner`")
    return message


def test_a_push_uploads_the_export_and_nothing_else(run, hub):
    assert push(run, "me/captioner") == "https://huggingface.co/me/captioner/commit/1"
    assert hub.repositories == {"me/captioner": True}
    assert set(hub.files) == FILES
    for name, content in hub.files.items():
        assert b"/home/me/private" not in content, name
    assert hub.files["model.safetensors"] == (run / "best" / "model.safetensors").read_bytes()


def test_what_was_pushed_is_a_whole_captioner_with_a_card_that_tells_how_to_use_it(run, hub, pictures, tmp_path):
    push(run / "best", "me/captioner", private=False)
    assert hub.repositories == {"me/captioner": False}
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    pulled = Captioner.from_pretrained(tmp_path)
    assert pulled.caption(pictures) == Captioner.from_pretrained(run).caption(pictures)
    assert pulled.metrics == {"validation_at_best": {"step": 5, "epoch": 1, "CIDEr-D": 0.25}}
    assert 'Captioner.from_pretrained("me/captioner")' in ModelCard.load(tmp_path / "README.md").text


def test_a_captioner_pushes_itself_and_keeps_its_settings(tiny_captioner, hub):
    before = tiny_captioner.settings
    assert tiny_captioner.push_to_hub("me/captioner", private=True).endswith("/commit/1")
    assert set(hub.files) == FILES
    assert tiny_captioner.settings is before
    assert b"/home/me/private" not in b"".join(hub.files.values())


def test_without_a_token(run, monkeypatch):
    monkeypatch.setattr(captioner.api, "get_token", lambda: None)
    assert "not logged in to the Hub; run `hf auth login` or set HF_TOKEN" in refused(run)


# The Hub's library leaves its temporary folder to the garbage collector when an upload fails.
@pytest.mark.filterwarnings("ignore:Implicitly cleaning up <TemporaryDirectory:ResourceWarning")
@pytest.mark.parametrize("call", ["create_repo", "upload_folder"])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (HTTPError("[Errno -2] Name or service\nnot known"), "[Errno -2] Name or service not known"),
        (OfflineModeIsEnabled("offline"), "it cannot be reached; connect and try again"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_with_a_hub_that_fails(run, hub, monkeypatch, call, error, reason):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(HfApi, call, fail)
    assert reason in refused(run)


def test_a_name_that_is_no_repository(run, hub):
    with pytest.raises(HubError, match="was not uploaded: Repo id must be in the form"):
        push(run, "me/too/many")


def test_an_export_that_is_not_whole_is_not_pushed(run, hub):
    (run / "best" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors"):
        push(run, "me/captioner")
    assert hub.repositories == {}


def test_an_export_replaces_the_older_one_whole_or_not_at_all(tiny_captioner, run, monkeypatch):
    before = contents(run)
    monkeypatch.setattr(tiny_captioner.tokenizer, "save", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        export(tiny_captioner, run / "best")
    assert contents(run) == before
    monkeypatch.undo()
    tiny_captioner.metrics = {}
    export(tiny_captioner, run / "best")
    assert Captioner.from_pretrained(run).metrics == {}
    assert {path.name for path in (run / "best").iterdir()} == FILES
