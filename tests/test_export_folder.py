"""A captioner to a folder and back, and the names that stand for such a folder."""

import json
import os
from dataclasses import replace

import pytest
import torch
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
from safetensors.torch import load_file
from tiny_exports import EXPORT_FILES, refuse
from tiny_models import TINY_ENCODERS, make_calibration, make_captioner

import captioner.export_reading
import captioner.hub
from captioner import Captioner
from captioner.errors import CheckpointError, HubError
from captioner.models import encoder_files
from captioner.models.encoders import encoder_from_config
from captioner.models.image_processors import ImageProcessor
from captioner.settings import DecodingSettings, EncoderSettings, ExportSettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def save_encoder(folder, *, seed=0):
    """A tiny ViT as transformers saves it, with its preprocessing."""
    torch.manual_seed(seed)
    encoder = encoder_from_config(TINY_ENCODERS["vit"] | {"image_size": 32})
    encoder.model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(ImageProcessor.plain(32).to_dict()))
    return folder


@pytest.fixture
def asked_revisions(tmp_path, monkeypatch):
    """A Hub that holds one encoder, owner/tiny; returns the revisions that were asked for."""
    asked, folder = [], save_encoder(tmp_path / "hub" / COMMIT)

    def download(name, *, revision, allow_patterns):
        assert name == "owner/tiny"
        asked.append(revision)
        return str(folder)

    monkeypatch.setattr(encoder_files, "snapshot_download", download)
    return asked


def with_hub_encoder(settings, **export_settings):
    return replace(settings, encoder=EncoderSettings(name="owner/tiny"), export=ExportSettings(**export_settings))


class TestExport:
    def test_a_saved_captioner_says_the_same(self, tiny_captioner, tiny_export, pictures):
        loaded = Captioner.from_pretrained(tiny_export)
        assert loaded.caption(pictures, beams=3, candidates=2) == tiny_captioner.caption(
            pictures, beams=3, candidates=2
        )
        assert loaded.metrics == tiny_captioner.metrics
        assert not loaded.model.training

    def test_its_confidence_goes_with_it(self, tiny_captioner, pictures, tmp_path):
        tiny_captioner.calibration = make_calibration(tiny_captioner, pictures)
        tiny_captioner.save_pretrained(tmp_path / "best")
        loaded = Captioner.from_pretrained(tmp_path / "best")
        assert loaded.caption(pictures, candidates=2) == tiny_captioner.caption(pictures, candidates=2)
        assert loaded.calibration.origin == {"split": "x"}

    def test_it_is_the_same_through_any_number_of_hands(self, tiny_captioner, tiny_export, tmp_path):
        Captioner.from_pretrained(tiny_export).save_pretrained(tmp_path / "again")
        first, second = (
            {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (tiny_export, tmp_path / "again")
        )
        assert first == second
        assert set(first) == EXPORT_FILES

    def test_tied_weights_are_stored_once_and_tied_again(self, tiny_export):
        assert "decoder.output.weight" not in load_file(tiny_export / "model.safetensors")
        decoder = Captioner.from_pretrained(tiny_export).model.decoder
        assert decoder.output.weight is decoder.token_embedding.weight

    def test_untied_weights_are_stored_both(self, tiny_settings, tiny_tokenizer, pictures, tmp_path):
        settings = replace(tiny_settings, decoder=replace(tiny_settings.decoder, tie_embeddings=False))
        untied = make_captioner(settings, tiny_tokenizer)
        untied.save_pretrained(tmp_path)
        assert Captioner.from_pretrained(tmp_path).caption(pictures) == untied.caption(pictures)

    def test_no_path_of_this_machine_is_in_it_but_that_of_the_prepared_datasets(self, tiny_export):
        for path in tiny_export.iterdir():
            content = path.read_bytes().replace(b"/home/me/private/data", b"")
            assert b"/home/me" not in content, path.name
        assert Captioner.from_pretrained(tiny_export).settings.data.folder == "/home/me/private/data"

    def test_a_frozen_encoder_of_the_hub_is_stored_by_name_and_commit(
        self, tiny_settings, tiny_tokenizer, pictures, tmp_path, asked_revisions
    ):
        made = make_captioner(with_hub_encoder(tiny_settings), tiny_tokenizer)
        made.save_pretrained(tmp_path / "best")
        assert not any(name.startswith("encoder.") for name in load_file(tmp_path / "best" / "model.safetensors"))
        asked_revisions.clear()
        loaded = Captioner.from_pretrained(tmp_path / "best")
        assert set(asked_revisions) == {COMMIT}
        assert loaded.caption(pictures) == made.caption(pictures)
        loaded.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again/config.json").read_text() == (tmp_path / "best/config.json").read_text()

    def test_other_encoder_weights_than_those_of_the_training_are_refused(
        self, tiny_settings, tiny_tokenizer, tmp_path, asked_revisions
    ):
        make_captioner(with_hub_encoder(tiny_settings), tiny_tokenizer).save_pretrained(tmp_path / "best")
        save_encoder(tmp_path / "hub" / COMMIT, seed=1)
        assert "the weights of the encoder owner/tiny are not those it was trained with; set" in refuse(
            tmp_path / "best"
        )

    @pytest.mark.parametrize("source", ["bundled", "local", "local through two hands"])
    def test_an_encoder_that_travels_with_the_export_is_needed_no_more(
        self, source, tiny_settings, tiny_tokenizer, pictures, tmp_path, asked_revisions, monkeypatch
    ):
        local = save_encoder(tmp_path / "tiny-vit")
        settings = {
            "bundled": with_hub_encoder(tiny_settings, bundle_encoder=True),
            "local": replace(tiny_settings, encoder=EncoderSettings(name=str(local))),
        }[source.split()[0]]
        made = make_captioner(settings, tiny_tokenizer)
        made.save_pretrained(tmp_path / "best")
        local.rename(tmp_path / "gone")
        monkeypatch.setattr(captioner.export_reading, "load_encoder", None)
        if "two" in source:  # as after training, when the test metrics are put into the export
            Captioner.from_pretrained(tmp_path / "best").save_pretrained(tmp_path / "best")
        loaded = Captioner.from_pretrained(tmp_path / "best")
        assert loaded.caption(pictures) == made.caption(pictures)
        assert loaded.settings.encoder.name == ("owner/tiny" if source == "bundled" else "tiny-vit")

    def test_a_run_stands_for_its_best(self, tiny_export, pictures):
        assert Captioner.from_pretrained(tiny_export.parent).caption(pictures[0]).text
        assert "has no config.json" in refuse(tiny_export.parent.parent)


class TestName:
    @pytest.mark.parametrize("name", ["./missing", "/missing", "~missing/best", "checkpoints/scenes/best", "missing"])
    def test_that_is_neither_a_folder_nor_a_hub_id(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # the repository may hold a trained checkpoints/scenes/best
        with pytest.raises(CheckpointError) as caught:
            Captioner.from_pretrained(name)
        assert str(caught.value) == f"{name} is neither a folder with an export nor a Hub id like me/captioner"

    def test_of_a_file(self, tiny_export):
        assert "is a file; name the folder of an export, like" in refuse(tiny_export / "model.safetensors")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (LocalEntryNotFoundError("cannot find it\non disk"), "it cannot be reached; connect and try again"),
            (HFValidationError("not\na repo"), "not a repo"),
            (HTTPError("the line broke"), "it cannot be reached (the line broke); connect and try again"),
        ],
    )
    def test_that_the_hub_does_not_deliver(self, monkeypatch, error, reason):
        def download(name, **options):
            raise error

        monkeypatch.setattr(captioner.hub, "snapshot_download", download)
        with pytest.raises(HubError) as caught:
            Captioner.from_pretrained("me/captioner")
        expected = f"me/captioner is no folder here, and could not be had from the Hub: {reason}"
        assert str(caught.value) == expected

    def test_that_the_hub_delivers(self, monkeypatch, tiny_export, pictures):
        asked = {}

        def download(name, **options):
            asked.update(options, name=name)
            return str(tiny_export)

        monkeypatch.setattr(captioner.hub, "snapshot_download", download)
        loaded = Captioner.from_pretrained("me/captioner", revision="v1", token="secret")
        assert loaded.caption(pictures[0]).text
        assert asked == {
            "name": "me/captioner",
            "revision": "v1",
            "token": "secret",
            "allow_patterns": ["*.json", "model.safetensors"],
            "ignore_patterns": ["training/*"],
        }


def test_newest_best(tmp_path):
    assert captioner.export_reading.newest_best(tmp_path) is None
    for age, run in enumerate(("a", "c", "b")):
        folder = tmp_path / run / "best"
        folder.mkdir(parents=True)
        if run != "b":  # an export that is not whole
            (folder / "config.json").touch()
            os.utime(folder / "config.json", (age, age))
    assert captioner.export_reading.newest_best(tmp_path) == tmp_path / "c" / "best"


def test_decoding_settings_of_an_older_export_are_taken_as_they_took_effect(tiny_export):
    path = tiny_export / "config.json"
    config = json.loads(path.read_text())
    config["settings"]["decoding"] |= {"temperature": 0.7, "diversity": 2.0, "min_length": 8, "max_length": 8}
    path.write_text(json.dumps(config))
    decoding = Captioner.from_pretrained(tiny_export).settings.decoding
    assert decoding == DecodingSettings(min_length=7, max_length=8, batch_size=3)
