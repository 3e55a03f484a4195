import io
import os
import subprocess
import sys
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from tiny_models import end_captions, make_calibration

import captioner.api
from captioner import Caption, Captioner
from captioner.confidence import describe_alone
from captioner.decoding.describe import describe_decoding
from captioner.errors import CaptionerError, ConfigError, ImageError
from captioner.settings import DecodingSettings, Settings


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
        caption = end_captions(tiny_captioner).caption(pictures[0], decoding=decoding)
        assert 0 < caption.confidence < 1
        assert caption.confidence == pytest.approx(numpy.exp(caption.score))

    def test_calibrated_confidence_looks_at_all_that_was_found(self, tiny_captioner, pictures):
        end_captions(tiny_captioner)
        tiny_captioner.calibration = make_calibration(tiny_captioner, pictures)
        candidates = tiny_captioner.caption(pictures[0], candidates=3)
        assert [one.confidence for one in candidates] == tiny_captioner.calibration.confidences(candidates)
        assert tiny_captioner.caption(pictures[0]).confidence == candidates[0].confidence
        greedy = tiny_captioner.caption(pictures[0], beams=1)
        assert greedy.confidence == tiny_captioner.calibration.alone.probability(describe_alone(greedy))

    def test_a_prefix_and_a_cut_in_the_confidence(self, tiny_captioner, pictures):
        tiny_captioner.calibration = make_calibration(tiny_captioner, pictures)
        cut = tiny_captioner.caption(pictures[0], max_length=3, beams=1)
        assert (cut.truncated, cut.confidence) == (True, 0.0)
        end_captions(tiny_captioner, words=5)
        free = tiny_captioner.caption(pictures[0], beams=1)
        prefix = tiny_captioner.tokenizer.encode("a red dog")
        forced = tiny_captioner.caption(pictures[0], prefix="a red dog", beams=1, min_length=7, max_length=12)
        assert not free.truncated
        assert not forced.truncated
        assert (free.forced, forced.forced) == (0, len(prefix))
        chosen = forced.log_probabilities[len(prefix) :]
        assert describe_alone(forced) == [sum(chosen) / len(chosen), min(chosen), sum(chosen), len(chosen)]
        assert 0 < forced.confidence == tiny_captioner.calibration.alone.probability(describe_alone(forced))

    def test_decoding_that_confidence_was_not_fitted_to_is_told(self, tiny_captioner, pictures):
        assert tiny_captioner.calibration_mismatch(beams=5) is None
        fitted = describe_decoding(tiny_captioner.settings.decoding)
        tiny_captioner.calibration = replace(make_calibration(tiny_captioner, pictures), origin={"decoding": fitted})
        for same in ({}, {"max_length": 5}, {"precision": "fp32", "batch_size": 1}, {"beams": 3}, {"candidates": 3}):
            assert tiny_captioner.calibration_mismatch(**same) is None
        for other in ({"beams": 5}, {"samples": 3}, {"prefix": "a"}, {"length_penalty": 1.0}, {"candidates": 5}):
            assert tiny_captioner.calibration_mismatch(**other) == fitted

    @pytest.mark.parametrize("precision", ["auto", "fp32", "bf16"])
    def test_the_precision_that_confidence_was_fitted_in_does_not_matter(self, tiny_captioner, pictures, precision):
        own = replace(tiny_captioner.settings.decoding, precision=precision)
        origin = {"decoding": describe_decoding(own)}
        tiny_captioner.calibration = replace(make_calibration(tiny_captioner, pictures), origin=origin)
        for other in ("auto", "fp32", "int8"):
            assert tiny_captioner.calibration_mismatch(precision=other) is None
        assert tiny_captioner.calibration_mismatch(beams=5, precision=precision) == origin["decoding"]

    def test_a_caption_that_was_cut_says_so(self, tiny_captioner, pictures):
        caption = tiny_captioner.caption(pictures[0], decoding=DecodingSettings(max_length=2))
        assert caption.truncated
        assert len(caption.tokens) == 2

    def test_the_capital_letter_is_a_setting(self, tiny_captioner, pictures):
        text = tiny_captioner.caption(pictures[0], prefix="a red dog").text
        assert text.startswith("A red dog")
        settings = tiny_captioner.settings
        tiny_captioner.settings = replace(settings, tokenizer=replace(settings.tokenizer, capitalise=False))
        assert tiny_captioner.caption(pictures[0], prefix="a red dog").text == "a" + text[1:]

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


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, captioner; from captioner import Settings; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(captioner.__file__).parent.parent)}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not {"torch", "transformers", "datasets", "huggingface_hub", "numpy", "PIL"} & set(output.stdout.split())


def test_the_public_names():
    assert captioner.Captioner is Captioner
    assert captioner.Settings is Settings
    with pytest.raises(AttributeError, match="module 'captioner' has no attribute 'Captoiner'"):
        _ = captioner.Captoiner


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": 1, "temperature": 1e-40},
        {"samples": 1, "temperature": 1e300},
        {"samples": 1, "seed": 10**23},
        {"length_penalty": 300.0},
        {"temperature": 0.7},
        {"beams": 6, "beam_groups": 3, "samples": 3},
        {"min_length": 8},
        {"candidates": 10**15},
        {"prefix": "a red dog", "banned_words": "cat,red"},
    ],
)
def test_decoding_that_cannot_work_is_refused(tiny_captioner, pictures, wrong):
    with pytest.raises(ConfigError, match=r"^\S.*(;|drop)"):
        tiny_captioner.caption(pictures[0], **wrong)


def test_a_captioners_own_samples_give_way_to_a_search(tiny_captioner, pictures):
    plain = tiny_captioner.caption(pictures[0])
    own = tiny_captioner.settings
    tiny_captioner.settings = replace(own, decoding=replace(own.decoding, samples=3, temperature=0.7, seed=2))
    assert tiny_captioner.caption(pictures[0]).tokens != plain.tokens
    assert tiny_captioner.caption(pictures[0], samples=0) == plain
