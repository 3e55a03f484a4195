"""Decoding settings as a call asks for them."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from captioner.decoding_checks import override_decoding
from captioner.errors import ConfigError
from captioner.settings import DecodingSettings, Settings
from captioner.settings_checks import check_settings, nearest_name


def resolve_decoding(
    settings: Settings, decoding: DecodingSettings | None, candidates: int, changes: Mapping[str, Any]
) -> DecodingSettings:
    """The settings that hold, with beams or samples enough for the candidates unless their number is given.

    Args:
        settings: a captioner's own.
        decoding: all decoding settings, instead of its own.
        candidates: number of captions an image.
        changes: single decoding settings that go over those; None changes nothing.

    Raises:
        ConfigError: the settings are wrong or have no effect, or give no such number of candidates.
    """
    names = [field.name for field in fields(DecodingSettings)]
    for name in changes:
        if name not in names:
            near = nearest_name(name, names)
            raise ConfigError(f"{name} is no decoding setting; {f'did you mean {near}?' if near else 'see help'}")
    given = {name: value for name, value in changes.items() if value is not None}
    found = replace(decoding, **given) if decoding else override_decoding(settings.decoding, given)
    if candidates < 1:
        raise ConfigError(f"candidates={candidates} is not a number of captions; use 1 or more")
    check_settings(replace(settings, decoding=found))
    width = "samples" if found.samples else "beams"
    if candidates > getattr(found, width) and width not in given and found.beam_groups == 1:
        found = replace(found, **{width: candidates})
        check_settings(replace(settings, decoding=found))
    if candidates > getattr(found, width):
        raise ConfigError(
            f"{getattr(found, width)} {width} cannot give {candidates} candidates; use {width}={candidates} or more"
        )
    return found
