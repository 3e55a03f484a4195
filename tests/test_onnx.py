"""Captioners as ONNX files: the step's graph against the decoder, and ONNX Runtime's captions against torch's."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TINY_ENCODERS, make_captioner

from captioner import Captioner
from captioner.commands import export as command
from captioner.data.training_images import TrainingImages
from captioner.errors import CheckpointError, ConfigError
from captioner.onnx_captioner import OnnxCaptioner
from captioner.onnx_export import EncoderGraph, StepGraph
from captioner.settings import EncoderSettings


@pytest.fixture
def folder(tiny_settings, tiny_tokenizer, tmp_path) -> Path:
    """An export of a captioner with a class token."""
    config = json.dumps(TINY_ENCODERS["vit"] | {"image_size": 32})
    settings = replace(tiny_settings, encoder=EncoderSettings(config=config, image_size=32, trainable=True))
    captioner = make_captioner(settings, tiny_tokenizer)
    captioner.training_images = TrainingImages.of(["1.jpg"], dataset="photos", fingerprint="f")
    captioner.save_pretrained(tmp_path / "best")
    return tmp_path / "best"


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_steps_give_what_the_decoder_gives_at_once(tiny_settings, tiny_tokenizer, pictures, positions):
    settings = replace(tiny_settings, decoder=replace(tiny_settings.decoder, positions=positions))
    captioner = make_captioner(settings, tiny_tokenizer)
    decoder, pixels = captioner.model.decoder, captioner.processor(pictures[:2])
    tokens = torch.tensor([[1, 7, 9, 20], [1, 8, 8, 30]])
    with torch.inference_mode():
        expected = decoder(tokens, captioner.model.remember(pixels))
        cross = EncoderGraph(captioner.model)(pixels)
        keys = torch.full((2, 2, 4, 12, 8), 1e4)  # rows, layers, heads, places, head; what is unread must not matter
        values = keys.clone()
        for place in range(4):
            positions = torch.tensor([place, place])
            logits, key, value = StepGraph(decoder)(tokens[:, place], positions, keys, values, *cross)
            assert torch.allclose(logits, expected[:, place], atol=1e-4)
            keys[:, :, :, place], values[:, :, :, place] = key, value


def say_the_same(found: OnnxCaptioner, expected: Captioner, images: list[Image.Image]) -> None:
    """Check captions and scores, greedy and with beams."""
    for settings in ({"beams": 1}, {"beams": 3, "batch_size": 7}, {"beams": 4, "length_penalty": 1.3, "min_length": 4}):
        wanted = expected.caption(images, precision="fp32", **settings)
        got = found.caption(images, **settings)
        assert [one.tokens for one in got] == [one.tokens for one in wanted]
        assert [one.score for one in got] == pytest.approx([one.score for one in wanted], abs=1e-4)
        assert len({one.tokens for one in wanted}) > 1


def draw_noise(count: int) -> list[Image.Image]:
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((40, 30)) for _ in range(count)]


@pytest.mark.slow
def test_onnx_runtime_says_the_same_of_a_hundred_images(folder, tmp_path, capsys):
    assert command.main([str(folder), "--format", "onnx", "--output", str(tmp_path / "onnx")]) == 0
    assert "encoder.onnx and decoder_step.onnx" in capsys.readouterr().out
    say_the_same(OnnxCaptioner(tmp_path / "onnx", threads=1), Captioner.from_pretrained(folder), draw_noise(100))


@pytest.fixture
def onnx_folder(folder, tmp_path, monkeypatch) -> Path:
    """The same graphs by torch's older exporter, which takes a moment; the slow test has the one that is used."""
    export = torch.onnx.export

    def export_quickly(module, inputs, path, *, input_names, output_names, **_):
        rows = {name: {0: "rows"} for name in (*input_names, *output_names)}
        names = {"input_names": input_names, "output_names": output_names}
        export(module, inputs, path, **names, dynamic_axes=rows, dynamo=False)

    monkeypatch.setattr(torch.onnx, "export", export_quickly)
    assert command.main([str(folder), "--output", str(tmp_path / "onnx")]) == 0
    return tmp_path / "onnx"


def test_onnx_runtime_says_the_same_of_a_few_images(folder, onnx_folder):
    expected, found, images = Captioner.from_pretrained(folder), OnnxCaptioner(onnx_folder, threads=1), draw_noise(9)
    say_the_same(found, expected, images)
    assert list(found.stream(images[0]))[-1] == found.caption(images[0]).text
    assert dict(found.caption_each(images)).keys() == set(range(9))
    (onnx_folder / "encoder.onnx").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="its ONNX files are missing or damaged; export it again"):
        OnnxCaptioner(onnx_folder)


def test_what_onnx_files_cannot_do_is_told(folder, onnx_folder, tmp_path):
    captioner = OnnxCaptioner.from_pretrained(onnx_folder)
    image = Image.new("RGB", (20, 16))
    assert captioner.to("cpu") is captioner
    assert captioner.training_images == TrainingImages.of(["1.jpg"], dataset="photos", fingerprint="f")
    assert captioner.caption(image, precision="fp32") == captioner.caption(image)
    for ask in (
        lambda: captioner.to("cuda"),
        lambda: captioner.explain(image),
        lambda: captioner.save_pretrained(tmp_path / "saved"),
        lambda: captioner.push_to_hub("me/captioner"),
        lambda: captioner.generate_model_card(),
        lambda: captioner.caption(image, precision="int8"),
    ):
        with pytest.raises(ConfigError, match=r"^ONNX files .*use Captioner\.from_pretrained with the export"):
            ask()
    assert not (tmp_path / "saved").exists()


def test_a_precision_of_the_export_is_left_behind(folder, onnx_folder):
    config = json.loads((onnx_folder / "config.json").read_text())
    config["settings"]["decoding"]["precision"] = "bf16"
    (onnx_folder / "config.json").write_text(json.dumps(config))
    image = Image.new("RGB", (20, 16))
    expected = Captioner.from_pretrained(folder).caption(image, precision="fp32")
    assert OnnxCaptioner(onnx_folder).caption(image).tokens == expected.tokens


def test_a_folder_that_holds_something_is_left_alone(folder, capsys, monkeypatch):
    monkeypatch.setattr("captioner.onnx_export.PACKAGES", ())
    assert command.main([str(folder), "--output", str(folder)]) == 2
    assert capsys.readouterr().err == f"error: {folder} is not empty; name a new folder\n"


def test_missing_packages_are_named(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("captioner.onnx_export.PACKAGES", ("no_such_package",))
    assert command.main([str(folder), "--output", str(tmp_path / "onnx")]) == 2
    expected = "error: exporting to ONNX needs no_such_package; run `pip install 'captioner[onnx]'`\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "onnx").exists()
