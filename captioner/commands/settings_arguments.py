"""The command line of the commands that take settings, made from the settings' dataclasses with tyro.

``[PRESET] [--group.setting VALUE]…``: the preset gives the defaults. What tyro explains in boxes of several lines
becomes one ConfigError here, which names the flag, the value and the remedy.
"""

import argparse
import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, get_args, get_origin

from captioner.errors import ConfigError
from captioner.settings import Settings, setting_types, setting_values
from captioner.settings_checks import check_settings, describe_type, nearest_name

DEFAULT_PRESET = "scenes"


class ExtraFlags(argparse.ArgumentParser):
    """A command's own flags beside the settings: ``add_argument("--resume", metavar="PATH", help="…")``."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError instead of leaving the process."""
        raise ConfigError(f"{message.removeprefix('argument ')}; see --help")

    def names(self) -> list[str]:
        """Return the flags, as in ``["--resume"]``."""
        return list(self._option_string_actions)


def parse_settings(
    argv: Sequence[str],
    *,
    presets: Mapping[str, Settings],
    prog: str,
    description: str,
    examples: Sequence[str] = (),
    extra: ExtraFlags | None = None,
    base: Settings | Callable[[argparse.Namespace], Settings | None] | None = None,
) -> tuple[str, Settings, argparse.Namespace]:
    """Read a preset's name and the settings to change from the command line.

    Arguments:
        argv: the arguments, without the program's name.
        presets: name -> settings; the first argument picks one, else ``scenes`` or the first there is.
        prog: the command as the user types it, as in ``python train.py``.
        description: what the command does, in a sentence, for ``--help``.
        examples: arguments after the command's name, for ``--help``.
        extra: the command's own flags; what they were given comes back as the last of the three results.
        base: settings that replace the preset's as the defaults, such as those of a run that is resumed; or a
            function that returns them (or None) for the values of the extra flags.

    Returns the preset's name, the checked settings, and the values of the extra flags.
    Raises ConfigError for an unknown preset or flag and for wrong values; leaves with status 0 after ``--help``.
    """
    extra = extra or ExtraFlags()
    preset, arguments = _split_preset(argv, presets)
    flags, arguments = extra.parse_known_args(arguments)
    replaced = base(flags) if callable(base) else base
    default = replaced or presets[preset]
    if {"-h", "--help"} & set(arguments):
        _print_help(default, preset=preset, presets=presets, prog=prog, texts=(description, examples), extra=extra)
    settings = _parse_with_tyro(arguments, default=default, prog=prog, extra=extra, presets=presets)
    check_settings(settings, defaults=default)
    return preset, settings, flags


def format_flags(before: Settings, after: Settings) -> list[str]:
    """Return the arguments that turn one settings value into another, as in ``["--optim.lr", "0.001"]``."""
    words: list[str] = []
    for (path, old), (_, new) in zip(setting_values(before), setting_values(after), strict=True):
        if old == new:
            continue
        if isinstance(new, bool):
            words.append(_switches(path)[0 if new else 1])
        elif str(new).startswith("-"):
            words.append(f"{_flag(path)}={new}")
        else:
            words += [_flag(path), *map(str, new if isinstance(new, tuple) else (new,))]
    return words


def _split_preset(argv: Sequence[str], presets: Mapping[str, Settings]) -> tuple[str, list[str]]:
    if not argv or argv[0].startswith("-"):
        return DEFAULT_PRESET if DEFAULT_PRESET in presets else next(iter(presets)), list(argv)
    if argv[0] not in presets:
        near = nearest_name(argv[0], presets)
        offer = f"did you mean {near}? " if near else ""
        raise ConfigError(f"{argv[0]}: no such preset; {offer}there are {', '.join(presets)}")
    return argv[0], list(argv[1:])


def _parse_with_tyro(
    arguments: Sequence[str], *, default: Settings, prog: str, extra: ExtraFlags, presets: Mapping[str, Settings]
) -> Settings:
    import tyro

    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            settings, unknown = tyro.cli(Settings, args=arguments, default=default, prog=prog, return_unknown_args=True)
        if not unknown:
            return settings
    except SystemExit as leave:
        if not leave.code:
            raise
    defaults = dict(setting_values(default))
    problems = list(_diagnose(arguments, defaults=defaults, others=extra.names(), presets=presets))
    # Where tyro minds something that we do not find, its own words in one line are better than none.
    raise ConfigError(*problems or [" ".join(re.sub("[\u2500-\u257f]", " ", captured.getvalue()).split())])


def _diagnose(
    arguments: Sequence[str], *, defaults: Mapping[str, Any], others: Sequence[str], presets: Mapping[str, Settings]
) -> Iterator[str]:
    paths = {_flag(path): path for path in defaults}
    switches = {flag: path for path in defaults for flag in _switches(path)}
    rest = list(arguments)
    while rest:
        token = rest.pop(0)
        flag, equals, value = token.partition("=")
        flag = flag.replace("_", "-")
        given = [value] if equals else _take_values(rest)
        if not token.startswith("-"):
            rest[:0] = given
            yield _explain_stray(token, presets)
        elif flag in switches:
            if given:
                on, off = _switches(switches[flag])
                yield f"{flag} {given[0]}: the flag takes no value; use {on} or {off}"
        elif flag not in paths:
            yield _explain_unknown(flag, [*paths, *switches, *others])
        else:
            path = paths[flag]
            kind = setting_types()[path]
            count = len(get_args(kind)) if get_origin(kind) is tuple else 1
            rest[:0] = given[count:]
            yield from _explain_values(flag, given[:count], kind=kind, default=defaults[path])


def _take_values(rest: list[str]) -> list[str]:
    values = []
    while rest and (not rest[0].startswith("-") or re.match(r"-\.?\d", rest[0])):
        values.append(rest.pop(0))
    return values


def _explain_stray(token: str, presets: Mapping[str, Settings]) -> str:
    if token in presets:
        return f"{token}: put the preset before the flags"
    return f"{token}: belongs to no flag; settings are given as --group.setting VALUE"


def _explain_unknown(flag: str, known: Sequence[str]) -> str:
    # "--lr" means "--optim.lr" more than any flag that is merely spelt alike.
    leaf = flag.lstrip("-")
    near = next((name for name in known if name.rpartition(".")[2] == leaf), None) or nearest_name(flag, known)
    return f"{flag}: no such flag; {f'did you mean {near}?' if near else 'see --help for all'}"


def _explain_values(flag: str, values: Sequence[str], *, kind: Any, default: Any) -> Iterator[str]:
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    such = f", such as {shown}" if shown != "" else ""
    kinds = get_args(kind) if get_origin(kind) is tuple else (kind,)
    if len(values) < len(kinds):
        yield f"{flag}: the value is missing; it takes {describe_type(kind)}{such}"
        return
    for value, one in zip(values, kinds, strict=True):
        if get_origin(one) is Literal and value not in get_args(one):
            near = nearest_name(value, get_args(one))
            yield f"{flag} {value}: {f'did you mean {near}? ' if near else ''}it takes {describe_type(one)}"
        elif one in (int, float) and not _reads_as(value, one):
            yield f"{flag} {value}: not {describe_type(one)}; use one{such}"


def _reads_as(text: str, kind: type) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _flag(path: str) -> str:
    return "--" + path.replace("_", "-")


def _switches(path: str) -> tuple[str, ...]:
    if setting_types()[path] is not bool:
        return ()
    group, leaf = _flag(path).split(".")
    return f"{group}.{leaf}", f"{group}.no-{leaf}"


def _print_help(
    default: Settings,
    *,
    preset: str,
    presets: Mapping[str, Settings],
    prog: str,
    texts: tuple[str, Sequence[str]],
    extra: ExtraFlags,
) -> NoReturn:
    import tyro

    description, examples = texts
    paragraphs = [
        description,
        f"presets: {', '.join(presets)} (without one: {_split_preset([], presets)[0]})",
        "\n".join(["examples:", *(f"  {prog} {example}".rstrip() for example in examples)]) if examples else "",
        extra.format_help().strip(),
        f"The defaults below are those of {preset}.",
    ]
    text = "\n\n".join(filter(None, paragraphs))
    tyro.cli(Settings, args=["--help"], default=default, prog=f"{prog} [PRESET]", description=text)
    raise AssertionError("tyro leaves after --help")
