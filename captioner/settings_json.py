"""Settings as JSON, read back with every problem told; what differs between two of them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from typing import Any

from captioner.errors import ConfigError
from captioner.settings import Settings, setting_types, setting_values
from captioner.settings_checks import describe_type, has_type, nearest_name


def settings_to_dict(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the settings as nested dictionaries that JSON can hold."""
    return json.loads(json.dumps(asdict(settings)))


def settings_from_dict(content: Mapping[str, Any]) -> Settings:
    """Rebuild settings from ``settings_to_dict``'s dictionaries; settings that are not in them keep their defaults.

    Raises ConfigError with every unknown name and every value of a wrong type.
    """
    types = setting_types()
    groups = {group.name: group.type for group in fields(Settings)}
    problems: list[str] = []
    values: dict[str, dict[str, Any]] = {name: {} for name in groups}
    for group, leaves in content.items():
        if group not in groups:
            problems.append(_unknown_setting(group, groups))
        elif not isinstance(leaves, Mapping):
            problems.append(f"{group}={leaves!r} is not a group of settings; it has {', '.join(_leaf_names(group))}")
        else:
            for leaf, value in leaves.items():
                path = f"{group}.{leaf}"
                value = tuple(value) if isinstance(value, list) else value
                if path not in types:
                    problems.append(_unknown_setting(path, types))
                elif not has_type(value, types[path]):
                    problems.append(f"{path}={value!r} is not {describe_type(types[path])}")
                else:
                    values[group][leaf] = value
    if problems:
        raise ConfigError(*problems)
    return Settings(**{name: kind(**values[name]) for name, kind in groups.items()})


def changed_settings(before: Settings, after: Settings) -> dict[str, str]:
    """Return a line for every setting that differs by its path, as in ``optim.lr: 0.0003 -> 0.001``."""
    pairs = zip(setting_values(before), setting_values(after), strict=True)
    return {path: f"{path}: {old!r} -> {new!r}" for (path, old), (_, new) in pairs if old != new}


def _unknown_setting(path: str, known: Iterable[str]) -> str:
    near = nearest_name(path, known)
    remedy = f"did you mean {near}?" if near else "remove it"
    return f"{path}: no such setting in this version of captioner; {remedy}"


def _leaf_names(group: str) -> list[str]:
    return [path.split(".")[1] for path in setting_types() if path.startswith(f"{group}.")]
