"""Decoding settings that do not fit each other, and decoding settings put over others."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from captioner.errors import ConfigError
from captioner.settings import DecodingSettings

NEUTRAL = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": 0,
    "beams": 1,
    "beam_groups": 1,
    "diversity": 0.0,
}
"""Values that ask for nothing, of the settings that only some ways of decoding have."""
FOR_SAMPLES, FOR_SEARCHES = ("temperature", "top_k", "top_p", "seed"), ("beams", "beam_groups", "diversity")
DEFAULTS = DecodingSettings()


def idle_problems(decoding: DecodingSettings) -> Iterator[str]:
    """Tell of every setting that was changed and has no effect beside the others, with its remedy."""
    for name, remedy in _idle(decoding):
        if getattr(decoding, name) != getattr(DEFAULTS, name):
            yield f"decoding.{name}={getattr(decoding, name)} {remedy}"


def override_decoding(decoding: DecodingSettings, given: Mapping[str, Any]) -> DecodingSettings:
    """The settings with the given ones over them; those that have no effect any more become the defaults.

    Groups that another number of beams cannot be split into become the default too. Raises ConfigError where a given
    one has no effect.
    """
    found = replace(decoding, **given)
    if "beams" in given and "beam_groups" not in given and not _divides(found.beam_groups, found.beams):
        found = replace(found, beam_groups=DEFAULTS.beam_groups)
    idle = dict(_idle(found))
    problems = [f"decoding.{name}={given[name]} {remedy}" for name, remedy in idle.items() if name in given]
    if problems:
        raise ConfigError(*problems)
    return replace(found, **{name: getattr(DEFAULTS, name) for name in idle})


def settings_in_effect(decoding: DecodingSettings) -> DecodingSettings:
    """Settings of an older export, which were not held against each other, as they took effect."""
    shortest = min(decoding.min_length, max(decoding.max_length - 1, 0))
    return replace(override_decoding(decoding, {}), min_length=shortest)


def _divides(groups: int, beams: Any) -> bool:
    """Whether beams can be split into groups; what is no number of beams is refused elsewhere."""
    return not isinstance(beams, int) or beams % groups == 0


def _idle(decoding: DecodingSettings) -> Iterator[tuple[str, str]]:
    """The settings without effect that ask for something, each with the remedy."""
    if decoding.samples:
        idle = dict.fromkeys(FOR_SEARCHES, "has no effect on samples; drop it, or decoding.samples")
    else:
        idle = dict.fromkeys(FOR_SAMPLES, "has no effect on a search; set decoding.samples too, or drop it")
        if decoding.beam_groups == 1:
            idle["diversity"] = "has no effect on beams without groups; set decoding.beam_groups too, or drop it"
    for name, remedy in idle.items():
        if getattr(decoding, name) != NEUTRAL[name]:
            yield name, remedy
