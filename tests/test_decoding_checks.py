"""Decoding settings that do not fit each other, and settings put over others."""

import pytest

from captioner.decoding_checks import idle_problems, override_decoding, settings_in_effect
from captioner.errors import ConfigError
from captioner.presets import PRESETS
from captioner.settings import DecodingSettings
from captioner.settings_checks import check_settings

SAMPLING_ONLY = "has no effect on a search; set decoding.samples too, or drop it"
SEARCH_ONLY = "has no effect on samples; drop it, or decoding.samples"
GROUPS_ONLY = "has no effect on beams without groups; set decoding.beam_groups too, or drop it"
CONTRADICTIONS = [
    ({"temperature": 0.7}, [f"decoding.temperature=0.7 {SAMPLING_ONLY}"]),
    (
        {"top_p": 0.5, "seed": 3},
        [f"decoding.top_p=0.5 {SAMPLING_ONLY}", f"decoding.seed=3 {SAMPLING_ONLY}"],
    ),
    ({"top_k": 5, "beams": 1}, [f"decoding.top_k=5 {SAMPLING_ONLY}"]),
    ({"diversity": 9.0}, [f"decoding.diversity=9.0 {GROUPS_ONLY}"]),
    (
        {"samples": 3, "beam_groups": 3, "beams": 6},
        [f"decoding.beams=6 {SEARCH_ONLY}", f"decoding.beam_groups=3 {SEARCH_ONLY}"],
    ),
    ({"samples": 3, "diversity": 0.8}, [f"decoding.diversity=0.8 {SEARCH_ONLY}"]),
]
HARMONY = [
    {},
    {"samples": 3, "temperature": 0.7, "top_k": 9, "top_p": 0.9, "seed": 3},
    {"beams": 6, "beam_groups": 3, "diversity": 0.8},
    {"temperature": 1.0, "top_p": 1.0, "seed": 0, "samples": 0, "diversity": 0.0},
    {"samples": 2, "beams": 1, "beam_groups": 1},
]


@pytest.mark.parametrize(("given", "problems"), CONTRADICTIONS)
def test_settings_without_effect_are_refused(given, problems):
    assert list(idle_problems(DecodingSettings(**given))) == problems
    with pytest.raises(ConfigError) as caught:
        override_decoding(DecodingSettings(), given)
    assert list(caught.value.problems) == problems


@pytest.mark.parametrize("given", HARMONY)
def test_settings_that_fit_are_taken_as_they_are(given):
    settings = DecodingSettings(**given)
    assert list(idle_problems(settings)) == []
    assert override_decoding(DecodingSettings(), given) == settings_in_effect(settings) == settings


def test_a_default_that_is_asked_for_in_vain_is_refused_too():
    assert list(idle_problems(DecodingSettings(samples=3))) == []
    with pytest.raises(ConfigError, match=r"^decoding\.beams=3 has no effect on samples"):
        override_decoding(DecodingSettings(), {"samples": 3, "beams": 3})


def test_what_was_inherited_and_has_no_effect_any_more_is_dropped():
    drawing = DecodingSettings(samples=4, temperature=0.7, seed=3)
    assert override_decoding(drawing, {"samples": 0, "beams": 5}) == DecodingSettings(beams=5)
    groups = DecodingSettings(beams=6, beam_groups=3, diversity=0.8)
    assert override_decoding(groups, {"samples": 4}) == DecodingSettings(samples=4)
    assert override_decoding(groups, {"beam_groups": 1}) == DecodingSettings(beams=6)


def test_groups_that_the_given_beams_cannot_be_split_into_are_dropped():
    own = DecodingSettings(beams=4, beam_groups=2, diversity=0.8)
    for beams in (1, 5):
        assert override_decoding(own, {"beams": beams}) == DecodingSettings(beams=beams)
    assert override_decoding(own, {"beams": 6}) == DecodingSettings(beams=6, beam_groups=2, diversity=0.8)
    with pytest.raises(ConfigError, match=r"^decoding\.diversity=0\.5 has no effect on beams without groups"):
        override_decoding(own, {"beams": 5, "diversity": 0.5})
    asked = override_decoding(own, {"beams": 5, "beam_groups": 2})
    assert (asked.beams, asked.beam_groups) == (5, 2)  # a contradiction of one's own is told by check_settings
    assert override_decoding(own, {"beams": "5"}).beams == "5"  # as is what is no number


def test_settings_of_an_older_export_are_read_as_they_took_effect():
    older = DecodingSettings(temperature=0.7, diversity=3.0, min_length=30, max_length=30)
    assert settings_in_effect(older) == DecodingSettings(min_length=29)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_no_idle_settings(name):
    check_settings(PRESETS[name])
    assert settings_in_effect(PRESETS[name].decoding) == PRESETS[name].decoding
