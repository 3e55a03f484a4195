import pytest
from hub_stand_in import LOOPBACK
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled
from tiny_exports import EXPORT_FILES

from captioner import Captioner
from captioner.errors import CheckpointError, HubError
from captioner.publish import export, push

pytestmark = LOOPBACK


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
    address = push(run, "me/captioner")
    repository = hub.repositories["me/captioner"]
    assert address == f"{hub.address}/me/captioner/commit/{repository.head}"
    assert repository.private
    assert set(repository.files) == EXPORT_FILES
    for name, content in repository.files.items():
        assert b"/home/me/private" not in content, name
    assert repository.files["model.safetensors"] == (run / "best" / "model.safetensors").read_bytes()


def test_what_was_pushed_is_a_whole_captioner_with_a_card_that_tells_how_to_use_it(run, hub, pictures):
    push(run / "best", "me/captioner", private=False)
    assert not hub.repositories["me/captioner"].private
    pulled = Captioner.from_pretrained("me/captioner")
    assert pulled.caption(pictures) == Captioner.from_pretrained(run).caption(pictures)
    assert pulled.metrics == {"validation_at_best": {"step": 5, "epoch": 1, "CIDEr-D": 0.25}}
    card = hub.repositories["me/captioner"].files["README.md"].decode()
    assert 'Captioner.from_pretrained("me/captioner")' in ModelCard(card).text


def test_a_captioner_pushes_itself_and_keeps_its_settings(tiny_captioner, hub):
    before = tiny_captioner.settings
    scores = {"metrics": {"CIDEr-D": 0.5}, "images": 3, "decoding": {"beams": 3}, "model": "/home/me/private/run"}
    tiny_captioner.metrics = {"test": scores}
    assert "/me/captioner/commit/" in tiny_captioner.push_to_hub("me/captioner", private=True)
    files = hub.repositories["me/captioner"].files
    assert set(files) == EXPORT_FILES
    assert tiny_captioner.settings is before
    assert tiny_captioner.metrics == {"test": scores}
    assert b"/home/me/private" not in b"".join(files.values())


def test_without_a_token(run, monkeypatch):
    monkeypatch.setattr("captioner.hub.get_token", lambda: None)
    assert "not logged in to the Hub; run `hf auth login` or set HF_TOKEN" in refused(run)


@pytest.mark.parametrize("call", ["create_repo", "create_commit"])
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
    assert {path.name for path in (run / "best").iterdir()} == EXPORT_FILES
