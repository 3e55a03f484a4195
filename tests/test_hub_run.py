"""A run made from an export on the Hub."""

import json
from dataclasses import replace

import pytest
from hub_stand_in import LOOPBACK
from safetensors.torch import load_file
from tiny_models import TINY_ENCODERS, make_captioner

from captioner.errors import ConfigError, HubError
from captioner.hub_run import names_repository, open_repository
from captioner.run_folder import read_settings
from captioner.training.checkpoint import find_checkpoint

pytestmark = LOOPBACK


@pytest.fixture
def shared(tiny_captioner, hub):
    """A captioner whose encoder was trained, on the Hub."""
    tiny_captioner.push_to_hub("me/captioner", private=True)
    return tiny_captioner


def begin_from_hub(name, folder, **groups):
    """Begin with the settings that are on the Hub, but some."""
    origin = open_repository(name)
    groups = {"trainer": {"folder": str(folder)}, **groups}
    changed = {group: replace(getattr(origin.settings, group), **values) for group, values in groups.items()}
    return origin.begin(replace(origin.settings, **changed))


def test_the_run_begins_with_the_weights_and_settings_of_the_hub(shared, tmp_path):
    run = begin_from_hub("me/captioner", tmp_path)
    assert run == tmp_path / "captioner"
    folder, state = find_checkpoint(run)
    assert (state["step"], state["epoch"], state["best"]) == (0, 0, None)
    weights = load_file(folder / "model.safetensors")
    assert all(weights[name].equal(tensor) for name, tensor in shared.model.state_dict().items() if name in weights)
    assert {name.split(".")[0] for name in weights} == {"encoder", "projection", "decoder"}
    _, settings = read_settings(run)
    assert (settings.trainer.run, settings.trainer.folder) == ("captioner", str(tmp_path))
    assert settings.decoder == shared.settings.decoder
    assert settings.hub.repo_id == ""


def test_a_frozen_encoder_is_no_part_of_what_is_trained(tiny_settings, tiny_tokenizer, hub, tmp_path):
    frozen = {"config": json.dumps(TINY_ENCODERS["vit"]), "trainable": False}
    encoder = type(tiny_settings.encoder)(**frozen, image_size=32)
    made = make_captioner(type(tiny_settings)(**{**vars(tiny_settings), "encoder": encoder}), tiny_tokenizer)
    made.push_to_hub("me/frozen", private=True)
    folder, _ = find_checkpoint(begin_from_hub("me/frozen", tmp_path))
    assert {name.split(".")[0] for name in load_file(folder / "model.safetensors")} == {"projection", "decoder"}


def test_a_run_of_that_name_is_left_alone(shared, tmp_path):
    begin_from_hub("me/captioner", tmp_path)
    with pytest.raises(ConfigError, match="holds a run already: go on with --resume"):
        begin_from_hub("me/captioner", tmp_path)


def test_one_of_several_processes_makes_no_run(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="work for one process"):
        begin_from_hub("me/captioner", tmp_path)
    assert list(tmp_path.glob("captioner*")) == []


def test_what_is_not_on_the_hub(hub, tmp_path):
    with pytest.raises(HubError, match="me/nothing is no folder here"):
        begin_from_hub("me/nothing", tmp_path)
    assert list(tmp_path.glob("nothing*")) == []


def test_names_of_repositories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert names_repository("me/captioner")
    for name in ("auto", "runs/mistyped", "checkpoints/of-another-folder", "./a/b", "/a/b", "a/b/c", "~/a", "../a"):
        assert not names_repository(name)
