"""Encoders from folders and from the Hub, and what is said of those that cannot be loaded."""

import logging
import types
import warnings

import pytest
import transformers
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from small_encoders import PATCHED, copy_without

from captioner.errors import ConfigError, HubError
from captioner.models import encoder_files
from captioner.models.encoders import load_encoder
from captioner.settings import EncoderSettings


def test_loading_is_silent_and_restores_the_library_settings(clip_folder, capfd):
    verbosity = transformers.utils.logging.get_verbosity()
    bars = transformers.utils.logging.is_progress_bar_enabled()
    with warnings.catch_warnings(record=True) as caught:
        load_encoder(EncoderSettings(name=str(clip_folder)))
    assert capfd.readouterr() == ("", "")
    assert caught == []
    assert transformers.utils.logging.get_verbosity() == verbosity
    assert transformers.utils.logging.is_progress_bar_enabled() == bars


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "encoder.config is no JSON"),
        ("[]", "encoder.config has no model_type"),
        ('{"model_type": "vitt"}', "model_type='vitt' is unknown to transformers; did you mean 'vit'"),
        ('{"model_type": "vit", "hidden_size": "wide"}', "cannot build vit from it .*hidden_size"),
    ],
)
def test_wrong_config_is_an_error(config, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_encoder(EncoderSettings(config=config))
    assert "\n" not in str(caught.value)


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"no such folder; give a folder with config.json, or a Hub id"):
        load_encoder(EncoderSettings(name=str(tmp_path / "nothing")))


def test_folder_without_config_is_an_error(clip_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"no config.json in it"):
        load_encoder(copy_without(clip_folder, tmp_path, "config.json"))


def test_folder_without_weights_is_an_error(clip_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"no model.safetensors in it; fetch the weights"):
        load_encoder(copy_without(clip_folder, tmp_path, "model.safetensors"))


def test_pickled_weights_are_refused(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path, "model.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ConfigError, match=r"weights are in pytorch_model.bin and only safetensors.*save_pretrained"):
        load_encoder(settings)


def test_folder_without_preprocessing_is_an_error(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path, "preprocessor_config.json")
    with pytest.raises(ConfigError, match=r"no usable preprocessor_config.json in it") as caught:
        load_encoder(settings)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_an_error(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"its weights cannot be loaded .*fetch them again"):
        load_encoder(settings)


def test_damaged_config_is_an_error(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path)
    (tmp_path / "config.json").write_text("{,}")
    with pytest.raises(ConfigError, match=r"config.json cannot be used"):
        load_encoder(settings)


def test_weights_of_another_model_are_an_error(clip_folder, tmp_path):
    settings = copy_without(clip_folder, tmp_path)
    transformers.ViTConfig(**PATCHED, image_size=32).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"its weights lack \d+ tensors of vit.*fetch weights and config.json"):
        load_encoder(settings)


def hub_error(kind):
    response = types.SimpleNamespace(status_code=404, headers={}, request=None)
    return kind("refused\nby the Hub", response=response)


@pytest.mark.parametrize(
    ("error", "type_", "message"),
    [
        (hub_error(RepositoryNotFoundError), HubError, "no such folder here and no such repository on the Hub"),
        (hub_error(GatedRepoError), HubError, "access is granted on its Hub page"),
        (hub_error(RevisionNotFoundError), HubError, "the Hub knows no revision v9; correct encoder.revision"),
        (LocalEntryNotFoundError("offline"), HubError, "the Hub cannot be reached; connect and run again"),
        (HFValidationError("bad"), ConfigError, "no Hub id either"),
        (HTTPError("slow\nline"), HubError, r"download failed \(slow line\); run again"),
    ],
)
def test_hub_errors_are_one_line(monkeypatch, error, type_, message):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr(encoder_files, "snapshot_download", refuse)
    with pytest.raises(type_, match=message) as caught:
        load_encoder(EncoderSettings(name="someone/encoder", revision="v9"))
    assert "\n" not in str(caught.value)


def test_hub_revision_is_pinned_and_recorded(clip_folder, tmp_path, monkeypatch):
    snapshot = tmp_path / ("a" * 40)
    copy_without(clip_folder, snapshot)
    asked = []

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        return str(snapshot)

    monkeypatch.setattr(encoder_files, "snapshot_download", download)
    encoder = load_encoder(EncoderSettings(name="someone/encoder", revision="v1"))
    assert encoder.revision == "a" * 40
    assert set(asked) == {("someone/encoder", "v1")}


def test_converted_weights_are_taken_where_the_default_branch_has_none(clip_folder, tmp_path, monkeypatch, caplog):
    pickled, converted = tmp_path / "pickled", tmp_path / ("b" * 40)
    copy_without(clip_folder, pickled, "model.safetensors")
    copy_without(clip_folder, converted)
    monkeypatch.setattr(
        encoder_files,
        "snapshot_download",
        lambda name, *, revision, allow_patterns: str(converted if revision == "refs/pr/15" else pickled),
    )

    def discussion(title, status, reference):
        return types.SimpleNamespace(title=title, status=status, git_reference=reference)

    requests = [
        discussion("Something else", "open", "refs/pr/3"),
        discussion(encoder_files.CONVERSION_TITLE, "closed", "refs/pr/4"),
        discussion(encoder_files.CONVERSION_TITLE, "open", "refs/pr/15"),
    ]
    api = types.SimpleNamespace(get_repo_discussions=lambda name, *, author, discussion_type: iter(requests))
    monkeypatch.setattr(encoder_files, "HfApi", lambda: api)
    with caplog.at_level(logging.WARNING, logger="captioner"):
        encoder = load_encoder(EncoderSettings(name="someone/encoder"))
    assert encoder.revision == "b" * 40
    assert "refs/pr/15 (pin it with encoder.revision)" in caplog.text
    requests.clear()
    with pytest.raises(ConfigError, match=r"no model.safetensors in it.*refs/pr/NUMBER"):
        load_encoder(EncoderSettings(name="someone/encoder"))
