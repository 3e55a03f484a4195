"""Exports that something befell: each is refused in one line that says what to do."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_exports import refuse


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "metrics.json"])
def test_json(tiny_export, name):
    (tiny_export / name).write_text((tiny_export / name).read_text()[:-3])
    assert f"{name} is not valid JSON" in refuse(tiny_export)
    (tiny_export / name).write_text("[]")
    assert f"{name} holds no JSON object; export it again" in refuse(tiny_export)
    (tiny_export / name).unlink()
    assert f"has no {name}: it is not a whole captioner export; name a folder like" in refuse(tiny_export)


def test_config_of_another_library(tiny_export):
    (tiny_export / "config.json").write_text('{"model_type": "vit"}')
    assert refuse(tiny_export) == f"{tiny_export} is not a captioner export: its config.json is another library's"


def test_config_of_another_version(tiny_export):
    edit_json(tiny_export / "config.json", format=2, captioner_version="9.0.0")
    assert "was exported in format 2 by captioner 9.0.0, this one reads format 1; install that" in refuse(tiny_export)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"settings": {"decoder": {"width": 33}}}, "decoder.width=33 is not divisible by heads=8; use 32 or 40"),
        ({"settings": {"decoder": {"wide": 32}}}, "decoder.wide: no such setting in this version"),
        ({"settings": None}, "'NoneType' object has no attribute 'items'"),
        ({"encoder": {"model_type": "vitt"}}, "model_type='vitt' is unknown to transformers"),
        ({"encoder": 3}, "'int' object is not iterable"),
    ],
)
def test_config_with_wrong_values(tiny_export, changes, reason):
    edit_json(tiny_export / "config.json", **changes)
    message = refuse(tiny_export)
    assert "config.json is damaged or of another version" in message
    assert reason in message


def test_config_without_a_value(tiny_export):
    config = json.loads((tiny_export / "config.json").read_text())
    del config["encoder_fingerprint"]
    (tiny_export / "config.json").write_text(json.dumps(config))
    message = refuse(tiny_export)
    assert "config.json is damaged or of another version ('encoder_fingerprint'); export it again" in message


def test_preprocessing_of_an_unknown_kind(tiny_export):
    edit_json(tiny_export / "preprocessor_config.json", image_processor_type="Magic")
    assert "image_processor_type='Magic' is no Pillow image processor" in refuse(tiny_export)


@pytest.mark.parametrize("content", ["{}", '{"alone": {"weights": []}, "among": null}', '{"alone": 3, "among": 4}'])
def test_confidence(tiny_export, content):
    (tiny_export / "confidence.json").write_text(content)
    assert f"write it anew with `captioner calibrate {tiny_export}`" in refuse(tiny_export)


def test_tokenizer(tiny_export, tiny_tokenizer):
    (tiny_export / "tokenizer.json").write_text(tiny_tokenizer.to_json()[:-40])
    assert "is not a whole export" in refuse(tiny_export)
    (tiny_export / "tokenizer.json").unlink()
    assert "tokenizer.json: no such tokenizer" in refuse(tiny_export)


def test_tokenizer_of_another_export(tiny_export):
    edit_json(tiny_export / "config.json", vocabulary_size=4000)
    assert "tokens and the model 4000; export it again" in refuse(tiny_export)


def test_weights_that_are_missing(tiny_export):
    (tiny_export / "model.safetensors").unlink()
    assert "has no model.safetensors: the export is incomplete; export it again" in refuse(tiny_export)


@pytest.mark.parametrize("size", [0, 4, 2000, -1])
def test_weights_that_are_torn(tiny_export, size):
    path = tiny_export / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "model.safetensors is damaged or does not fit its config.json" in refuse(tiny_export)


def test_weights_of_another_model(tiny_export):
    path = tiny_export / "model.safetensors"
    tensors = load_file(path)
    name = "decoder.norm.weight"
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    assert f"model.safetensors does not fit its config.json (first: {name}); export it again" in refuse(tiny_export)
    save_file({**tensors, "extra": torch.zeros(1)}, path)
    assert "(first: extra)" in refuse(tiny_export)
    save_file({**tensors, name: torch.zeros(3)}, path)
    assert f"size mismatch for {name}" in refuse(tiny_export)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.bin"])
def test_a_pickle_is_never_opened(tiny_export, name):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tiny_export / "sprung",)

    (tiny_export / "model.safetensors").unlink()
    (tiny_export / name).write_bytes(pickle.dumps(Trap()))
    refuse(tiny_export)
    assert not (tiny_export / "sprung").exists()
    pickle.loads((tiny_export / name).read_bytes())  # the trap does work
    assert (tiny_export / "sprung").exists()
