import io
import json
import os
import pickle
import subprocess
import sys
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from huggingface_hub.errors import HFValidationError, HTTPError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from tiny_models import TINY_ENCODERS, make_captioner

import captioner.api
import captioner.export_folder
from captioner import Caption, Captioner
from captioner.confidence import Calibration, describe_alone
from captioner.errors import CaptionerError, CheckpointError, ConfigError, HubError, ImageError
from captioner.models import encoder_files
from captioner.models.encoders import encoder_from_config
from captioner.models.image_processors import ImageProcessor
from captioner.settings import DecodingSettings, EncoderSettings, ExportSettings, Settings

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def export(tiny_captioner, tmp_path):
    """The folder of a whole export."""
    tiny_captioner.metrics = {"test": {"metrics": {"CIDEr-D": 0.5}, "images": 3, "decoding": {"beams": 3}}}
    tiny_captioner.save_pretrained(tmp_path / "best")
    return tmp_path / "best"


def save_encoder(folder, *, seed=0):
    """A tiny ViT as transformers saves it, with its preprocessing."""
    torch.manual_seed(seed)
    encoder = encoder_from_config(TINY_ENCODERS["vit"] | {"image_size": 32})
    encoder.model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(ImageProcessor.plain(32).to_dict()))
    return folder


@pytest.fixture
def hub(tmp_path, monkeypatch):
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


def make_calibration(captioner, pictures):
    return Calibration.fit(captioner.caption(pictures, candidates=3), [True, False, True, True, False], {"split": "x"})


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refuse(folder):
    """The one line that says why an export cannot be loaded."""
    with pytest.raises(CheckpointError) as caught:
        Captioner.from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


class TestCaption:
    def test_every_way_to_give_an_image_gives_the_same_caption(self, tiny_captioner, pictures, tmp_path):
        path = tmp_path / "picture.png"
        pictures[0].save(path)
        expected = tiny_captioner.caption(pictures[0])
        assert isinstance(expected, Caption)
        assert expected.text
        for image in (path, str(path), path.read_bytes(), numpy.asarray(pictures[0]), io.BytesIO(path.read_bytes())):
            assert tiny_captioner.caption(image) == expected

    def test_a_list_gives_a_list_in_its_order_however_it_is_batched(self, tiny_captioner, pictures):
        alone = [tiny_captioner.caption(picture) for picture in pictures]
        assert len({caption.tokens for caption in alone}) > 1
        for batch_size in (3, None):
            found = tiny_captioner.caption(pictures, batch_size=batch_size)
            assert [caption.tokens for caption in found] == [caption.tokens for caption in alone]
            assert [one.score for one in found] == pytest.approx([one.score for one in alone], abs=1e-5)
        assert tiny_captioner.caption(tuple(pictures[:1])) == tiny_captioner.caption(pictures[:1])
        assert tiny_captioner.caption([]) == []

    def test_a_stream_of_images_is_captioned_while_it_is_read(self, tiny_captioner, pictures):
        read = []

        def reading():
            for place in range(20):
                read.append(place)
                yield pictures[place % 5]

        ends = {"no_repeat_ngram": 1, "max_length": 12}
        expected = tiny_captioner.caption(pictures, **ends)
        stream = tiny_captioner.caption_each(reading(), batch_size=3, **ends)
        assert read == []
        found = [next(stream)]
        assert len(read) <= 6  # those in slots, and at most another batch
        found += stream
        assert sorted(place for place, _ in found) == list(range(20)) == read
        assert all(caption.tokens == expected[place % 5].tokens for place, caption in found)

    def test_a_stream_says_which_image_it_could_not_read(self, tiny_captioner, pictures):
        with pytest.raises(ImageError, match="image 4 of the list"):
            list(tiny_captioner.caption_each(iter([*pictures[:3], b""]), batch_size=2))
        with pytest.raises(ConfigError, match="beam is no decoding setting"):
            tiny_captioner.caption_each([], beam=3)

    def test_candidates_are_the_best_captions_of_the_beam(self, tiny_captioner, pictures):
        (first, second) = tiny_captioner.caption(pictures[:2], candidates=3, beams=5)
        for candidates in (first, second):
            assert len({caption.tokens for caption in candidates}) == 3
            assert [one.score for one in candidates] == sorted((one.score for one in candidates), reverse=True)
        assert first[0] == tiny_captioner.caption(pictures[0], beams=5)
        assert len(tiny_captioner.caption(pictures[0], candidates=5)) == 5  # more than its own three beams

    def test_confidence_that_is_not_calibrated_is_the_geometric_mean_of_the_probabilities(
        self, tiny_captioner, pictures
    ):
        decoding = DecodingSettings(beams=1, length_penalty=1.0, max_length=8)
        caption = tiny_captioner.caption(pictures[0], decoding=decoding)
        assert 0 < caption.confidence < 1
        assert caption.confidence == pytest.approx(numpy.exp(caption.score))

    def test_calibrated_confidence_looks_at_all_that_was_found(self, tiny_captioner, pictures):
        tiny_captioner.calibration = make_calibration(tiny_captioner, pictures)
        candidates = tiny_captioner.caption(pictures[0], candidates=3)
        assert [one.confidence for one in candidates] == tiny_captioner.calibration.confidences(candidates)
        assert tiny_captioner.caption(pictures[0]).confidence == candidates[0].confidence
        greedy = tiny_captioner.caption(pictures[0], beams=1)
        assert greedy.confidence == tiny_captioner.calibration.alone.probability(describe_alone(greedy))

    def test_a_caption_that_was_cut_says_so(self, tiny_captioner, pictures):
        caption = tiny_captioner.caption(pictures[0], decoding=DecodingSettings(max_length=2, min_length=2))
        assert caption.truncated
        assert len(caption.tokens) == 2

    def test_the_capital_letter_is_a_setting(self, tiny_captioner, pictures):
        text = tiny_captioner.caption(pictures[0]).text
        settings = tiny_captioner.settings
        tiny_captioner.settings = replace(settings, tokenizer=replace(settings.tokenizer, capitalise=False))
        assert tiny_captioner.caption(pictures[0]).text.lower() == text.lower()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"beams": 0}, "decoding.beams=0 is too small; use 1 or more"),
            ({"candidates": 0}, "candidates=0 is not a number of captions; use 1 or more"),
            ({"beams": 2, "candidates": 3}, "2 beams cannot give 3 candidates; use beams=3 or more"),
            ({"batch_size": 0}, "decoding.batch_size=0 is too small; use 1 or more"),
            ({"beams": "3"}, "decoding.beams='3' is not a whole number"),
            (
                {"decoding": DecodingSettings(max_length=13)},
                "decoding.max_length=13 is above decoder.max_length=12; lower the first or raise the second",
            ),
        ],
    )
    def test_wrong_options_are_refused(self, tiny_captioner, pictures, options, message):
        with pytest.raises(ConfigError) as caught:
            tiny_captioner.caption(pictures[0], **options)
        assert str(caught.value) == message

    def test_an_unreadable_image_is_named(self, tiny_captioner, pictures, tmp_path):
        path = tmp_path / "picture.jpg"
        with pytest.raises(ImageError, match=r"picture\.jpg: no such file"):
            tiny_captioner.caption([pictures[0], path])
        path.write_text("not a picture")
        with pytest.raises(ImageError, match=r"picture\.jpg: is not an image in a known format; convert it"):
            tiny_captioner.caption(path)
        with pytest.raises(ImageError, match="image 3 of the list: is not an image in a known format"):
            tiny_captioner.caption([*pictures[:2], b"not a picture"])
        with pytest.raises(ImageError, match="the given image: NoneType is not an image; give a path"):
            tiny_captioner.caption(None)

    def test_the_image_behind_an_address_is_fetched(self, tiny_captioner, pictures, monkeypatch):
        file = io.BytesIO()
        pictures[0].save(file, format="PNG")
        answers = {"https://x.org/a.png": file.getvalue(), "https://x.org/b.png": b"<html>"}

        def answer(address, timeout):
            if address not in answers:
                raise urllib.error.URLError("no route to host")
            return io.BytesIO(answers[address])

        monkeypatch.setattr(captioner.api.urllib.request, "urlopen", answer)
        assert tiny_captioner.caption("https://x.org/a.png") == tiny_captioner.caption(pictures[0])
        with pytest.raises(ImageError, match=r"https://x\.org/b\.png: is not an image"):
            tiny_captioner.caption("https://x.org/b.png")
        with pytest.raises(ImageError, match=r"https://x\.org/c\.png: cannot be fetched .*no route.*; download it"):
            tiny_captioner.caption("https://x.org/c.png")

    def test_weights_that_are_no_numbers_are_an_error_not_a_caption(self, tiny_captioner, pictures):
        torch.nn.init.constant_(tiny_captioner.model.decoder.norm.weight, torch.nan)
        with pytest.raises(CaptionerError, match="probabilities are not finite"):
            tiny_captioner.caption(pictures[0])

    def test_moving_it_returns_it(self, tiny_captioner):
        assert tiny_captioner.to("cpu") is tiny_captioner
        assert tiny_captioner.device == torch.device("cpu")


class TestExport:
    def test_a_saved_captioner_says_the_same(self, tiny_captioner, export, pictures):
        loaded = Captioner.from_pretrained(export)
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

    def test_it_is_the_same_through_any_number_of_hands(self, tiny_captioner, export, tmp_path):
        Captioner.from_pretrained(export).save_pretrained(tmp_path / "again")
        first, second = (
            {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (export, tmp_path / "again")
        )
        assert first == second
        assert set(first) == {
            "README.md",
            "config.json",
            "metrics.json",
            "model.safetensors",
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        }

    def test_tied_weights_are_stored_once_and_tied_again(self, export):
        assert "decoder.output.weight" not in load_file(export / "model.safetensors")
        decoder = Captioner.from_pretrained(export).model.decoder
        assert decoder.output.weight is decoder.token_embedding.weight

    def test_untied_weights_are_stored_both(self, tiny_settings, tiny_tokenizer, pictures, tmp_path):
        settings = replace(tiny_settings, decoder=replace(tiny_settings.decoder, tie_embeddings=False))
        untied = make_captioner(settings, tiny_tokenizer)
        untied.save_pretrained(tmp_path)
        assert Captioner.from_pretrained(tmp_path).caption(pictures) == untied.caption(pictures)

    def test_no_path_of_this_machine_is_in_it_but_that_of_the_prepared_datasets(self, export):
        for path in export.iterdir():
            content = path.read_bytes().replace(b"/home/me/private/data", b"")
            assert b"/home/me" not in content, path.name
        assert Captioner.from_pretrained(export).settings.data.folder == "/home/me/private/data"

    def test_a_frozen_encoder_of_the_hub_is_stored_by_name_and_commit(
        self, tiny_settings, tiny_tokenizer, pictures, tmp_path, hub
    ):
        made = make_captioner(with_hub_encoder(tiny_settings), tiny_tokenizer)
        made.save_pretrained(tmp_path / "best")
        assert not any(name.startswith("encoder.") for name in load_file(tmp_path / "best" / "model.safetensors"))
        hub.clear()
        loaded = Captioner.from_pretrained(tmp_path / "best")
        assert set(hub) == {COMMIT}
        assert loaded.caption(pictures) == made.caption(pictures)
        loaded.save_pretrained(tmp_path / "again")
        assert (tmp_path / "again/config.json").read_text() == (tmp_path / "best/config.json").read_text()

    def test_other_encoder_weights_than_those_of_the_training_are_refused(
        self, tiny_settings, tiny_tokenizer, tmp_path, hub
    ):
        make_captioner(with_hub_encoder(tiny_settings), tiny_tokenizer).save_pretrained(tmp_path / "best")
        save_encoder(tmp_path / "hub" / COMMIT, seed=1)
        assert "the weights of the encoder owner/tiny are not those it was trained with; set" in refuse(
            tmp_path / "best"
        )

    @pytest.mark.parametrize("source", ["bundled", "local", "local through two hands"])
    def test_an_encoder_that_travels_with_the_export_is_needed_no_more(
        self, source, tiny_settings, tiny_tokenizer, pictures, tmp_path, hub, monkeypatch
    ):
        local = save_encoder(tmp_path / "tiny-vit")
        settings = {
            "bundled": with_hub_encoder(tiny_settings, bundle_encoder=True),
            "local": replace(tiny_settings, encoder=EncoderSettings(name=str(local))),
        }[source.split()[0]]
        made = make_captioner(settings, tiny_tokenizer)
        made.save_pretrained(tmp_path / "best")
        local.rename(tmp_path / "gone")
        monkeypatch.setattr(captioner.export_folder, "load_encoder", None)
        if "two" in source:  # as after training, when the test metrics are put into the export
            Captioner.from_pretrained(tmp_path / "best").save_pretrained(tmp_path / "best")
        loaded = Captioner.from_pretrained(tmp_path / "best")
        assert loaded.caption(pictures) == made.caption(pictures)
        assert loaded.settings.encoder.name == ("owner/tiny" if source == "bundled" else "tiny-vit")

    def test_a_run_stands_for_its_best(self, export, pictures):
        assert Captioner.from_pretrained(export.parent).caption(pictures[0]).text
        assert "has no config.json" in refuse(export.parent.parent)


class TestDamagedExport:
    @pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "metrics.json"])
    def test_json(self, export, name):
        (export / name).write_text((export / name).read_text()[:-3])
        assert f"{name} is not valid JSON" in refuse(export)
        (export / name).write_text("[]")
        assert f"{name} holds no JSON object; export it again" in refuse(export)
        (export / name).unlink()
        assert f"has no {name}: it is not a whole captioner export; name a folder like" in refuse(export)

    def test_config_of_another_library(self, export):
        (export / "config.json").write_text('{"model_type": "vit"}')
        assert refuse(export) == f"{export} is not a captioner export: its config.json is another library's"

    def test_config_of_another_version(self, export):
        edit_json(export / "config.json", format=2, captioner_version="9.0.0")
        assert "was exported in format 2 by captioner 9.0.0, this one reads format 1; install that" in refuse(export)

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
    def test_config_with_wrong_values(self, export, changes, reason):
        edit_json(export / "config.json", **changes)
        message = refuse(export)
        assert "config.json is damaged or of another version" in message
        assert reason in message

    def test_config_without_a_value(self, export):
        config = json.loads((export / "config.json").read_text())
        del config["encoder_fingerprint"]
        (export / "config.json").write_text(json.dumps(config))
        assert "config.json is damaged or of another version ('encoder_fingerprint'); export it again" in refuse(export)

    def test_preprocessing_of_an_unknown_kind(self, export):
        edit_json(export / "preprocessor_config.json", image_processor_type="Magic")
        assert "image_processor_type='Magic' is no Pillow image processor" in refuse(export)

    @pytest.mark.parametrize("content", ["{}", '{"alone": {"weights": []}, "among": null}', '{"alone": 3, "among": 4}'])
    def test_confidence(self, export, content):
        (export / "confidence.json").write_text(content)
        assert f"write it anew with `captioner calibrate {export}`" in refuse(export)

    def test_tokenizer(self, export, tiny_tokenizer):
        (export / "tokenizer.json").write_text(tiny_tokenizer.to_json()[:-40])
        assert "is not a whole export" in refuse(export)
        (export / "tokenizer.json").unlink()
        assert "tokenizer.json: no such tokenizer" in refuse(export)

    def test_tokenizer_of_another_export(self, export):
        edit_json(export / "config.json", vocabulary_size=4000)
        assert "tokens and the model 4000; export it again" in refuse(export)

    def test_weights_that_are_missing(self, export):
        (export / "model.safetensors").unlink()
        assert "has no model.safetensors: the export is incomplete; export it again" in refuse(export)

    @pytest.mark.parametrize("size", [0, 4, 2000, -1])
    def test_weights_that_are_torn(self, export, size):
        path = export / "model.safetensors"
        path.write_bytes(path.read_bytes()[:size])
        assert "model.safetensors is damaged or does not fit its config.json" in refuse(export)

    def test_weights_of_another_model(self, export):
        path = export / "model.safetensors"
        tensors = load_file(path)
        name = "decoder.norm.weight"
        save_file({key: value for key, value in tensors.items() if key != name}, path)
        assert f"model.safetensors does not fit its config.json (first: {name}); export it again" in refuse(export)
        save_file({**tensors, "extra": torch.zeros(1)}, path)
        assert "(first: extra)" in refuse(export)
        save_file({**tensors, name: torch.zeros(3)}, path)
        assert f"size mismatch for {name}" in refuse(export)

    @pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.bin"])
    def test_a_pickle_is_never_opened(self, export, name):
        class Trap:
            def __reduce__(self):
                return Path.touch, (export / "sprung",)

        (export / "model.safetensors").unlink()
        (export / name).write_bytes(pickle.dumps(Trap()))
        refuse(export)
        assert not (export / "sprung").exists()
        pickle.loads((export / name).read_bytes())  # the trap does work
        assert (export / "sprung").exists()


class TestName:
    @pytest.mark.parametrize("name", ["./missing", "/missing", "~missing/best", "checkpoints/scenes/best", "missing"])
    def test_that_is_neither_a_folder_nor_a_hub_id(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # the repository may hold a trained checkpoints/scenes/best
        with pytest.raises(CheckpointError) as caught:
            Captioner.from_pretrained(name)
        assert str(caught.value) == f"{name} is neither a folder with an export nor a Hub id like me/captioner"

    def test_of_a_file(self, export):
        assert "is a file; name the folder of an export, like" in refuse(export / "model.safetensors")

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (LocalEntryNotFoundError("cannot find it\non disk"), "it cannot be reached; connect and try again"),
            (HFValidationError("not\na repo"), "not a repo"),
            (HTTPError("the line broke"), "the line broke"),
        ],
    )
    def test_that_the_hub_does_not_deliver(self, monkeypatch, error, reason):
        def download(name, **options):
            raise error

        monkeypatch.setattr(captioner.export_folder, "snapshot_download", download)
        with pytest.raises(HubError) as caught:
            Captioner.from_pretrained("me/captioner")
        expected = f"me/captioner is no folder here, and could not be had from the Hub: {reason}"
        assert str(caught.value) == expected

    def test_that_the_hub_delivers(self, monkeypatch, export, pictures):
        asked = {}

        def download(name, **options):
            asked.update(options, name=name)
            return str(export)

        monkeypatch.setattr(captioner.export_folder, "snapshot_download", download)
        loaded = Captioner.from_pretrained("me/captioner", revision="v1", token="secret")
        assert loaded.caption(pictures[0]).text
        assert asked == {
            "name": "me/captioner",
            "revision": "v1",
            "token": "secret",
            "allow_patterns": ["*.json", "model.safetensors"],
        }


def test_importing_the_package_imports_nothing_heavy():
    code = (
        "import sys, time; before = time.process_time(); import captioner; from captioner import Settings;"
        "print(time.process_time() - before); print(*sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(captioner.__file__).parent.parent)}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    seconds, modules = output.stdout.splitlines()
    assert not {"torch", "transformers", "datasets", "huggingface_hub", "numpy", "PIL"} & set(modules.split())
    assert float(seconds) < 0.3


def test_the_public_names():
    assert captioner.Captioner is Captioner
    assert captioner.Settings is Settings
    with pytest.raises(AttributeError, match="module 'captioner' has no attribute 'Captoiner'"):
        _ = captioner.Captoiner


def test_newest_best(tmp_path):
    assert captioner.export_folder.newest_best(tmp_path) is None
    for age, run in enumerate(("a", "c", "b")):
        folder = tmp_path / run / "best"
        folder.mkdir(parents=True)
        if run != "b":  # an export that is not whole
            (folder / "config.json").touch()
            os.utime(folder / "config.json", (age, age))
    assert captioner.export_folder.newest_best(tmp_path) == tmp_path / "c" / "best"


def test_every_decoding_setting_may_be_given_by_name(tiny_captioner, pictures):
    image = pictures[0]
    samples = tiny_captioner.caption(image, samples=3, temperature=1.5, candidates=3)
    assert len(samples) == 3
    assert samples == tiny_captioner.caption(
        image, candidates=3, decoding=DecodingSettings(samples=3, temperature=1.5, max_length=8, batch_size=3)
    )
    with_prefix = tiny_captioner.caption(image, prefix="A red dog", beams=1)
    assert with_prefix.text.lower().startswith("a red dog")
    with pytest.raises(ConfigError, match=r"^beam is no decoding setting; did you mean beams\?$"):
        tiny_captioner.caption(image, beam=3)
    with pytest.raises(ConfigError, match=r"^2 samples cannot give 3 candidates; use samples=3 or more$"):
        tiny_captioner.caption(image, samples=2, candidates=3)
    with pytest.raises(ConfigError, match=r"beams=3 cannot be split into beam_groups=2"):
        tiny_captioner.caption(image, beam_groups=2)


def test_words_that_are_banned_are_not_said(tiny_captioner, pictures):
    (token,) = tiny_captioner.tokenizer.encode("a")
    free, bound = (
        tiny_captioner.caption(pictures[0], banned_words=words, samples=300, max_length=4, candidates=300)
        for words in ("", "zebra crossing, a")
    )
    assert any(token in one.tokens for one in free)
    assert not any(token in one.tokens for one in bound)


@pytest.mark.parametrize("changes", [{"beams": 1}, {"beams": 3}, {"samples": 1}])
def test_a_streamed_caption_grows_to_the_caption(tiny_captioner, pictures, changes):
    texts = list(tiny_captioner.stream(pictures[0], **changes))
    assert texts[-1] == tiny_captioner.caption(pictures[0], **changes).text
    assert len(texts) > 1
    assert len(set(texts)) > 1


def test_captions_follow_the_weights(tiny_captioner, pictures):
    """The decoder that was packed for the captions before is not used with other weights."""
    before = tiny_captioner.caption(pictures, beams=1)
    with torch.no_grad():
        tiny_captioner.model.decoder.token_embedding.weight.normal_()
    after = tiny_captioner.caption(pictures, beams=1)
    assert [one.tokens for one in before] != [one.tokens for one in after]
    fresh = Captioner(tiny_captioner.model, tiny_captioner.tokenizer, tiny_captioner.processor, tiny_captioner.settings)
    assert fresh.caption(pictures, beams=1) == after


def test_log_probabilities_come_with_the_tokens(tiny_captioner, pictures):
    for caption in tiny_captioner.caption(pictures, beams=1):
        assert len(caption.log_probabilities) == len(caption.tokens) + (not caption.truncated)
        assert all(value <= 0 for value in caption.log_probabilities)
