"""Flags for every decoding setting, made from the settings' fields: ``--beams 5`` goes over the model's own setting."""

import argparse
import ast
import inspect
import itertools
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

from captioner.settings import DecodingSettings

SCREEN = 76
"""Characters of a line of help."""


def add_decoding_flags(
    parser: argparse.ArgumentParser, *, leave_out: Sequence[str] = (), explained: Sequence[str] | None = None
) -> None:
    """Add a flag for every field of DecodingSettings to a command.

    Arguments:
        parser: the command's arguments.
        leave_out: fields that the command has a flag for already.
        explained: the fields that ``--help`` explains, where a screen has no room for all; others are only named.
    """
    shown = [field for field in fields(DecodingSettings) if field.name not in leave_out]
    others = [_flag(field.name) for field in shown if explained is not None and field.name not in explained]
    text = "without them the model's own settings hold"
    if others:
        text += f"; `captioner evaluate --help` explains also {' '.join(others)}"
    group = parser.add_argument_group("decoding", textwrap.fill(text, SCREEN, break_on_hyphens=False))
    meanings = _field_docstrings()
    for field in shown:
        choices = get_args(field.type) if get_origin(field.type) is Literal else None
        group.add_argument(
            _flag(field.name),
            type=str if choices else field.type,
            choices=choices,
            metavar=None if choices else {int: "N", float: "X", str: "TEXT"}[field.type],
            help=argparse.SUPPRESS if _flag(field.name) in others else meanings[field.name].replace("%", "%%"),
        )


def given_decoding(options: argparse.Namespace) -> Mapping[str, Any]:
    """The decoding settings that the command line gives, by their names."""
    names = [field.name for field in fields(DecodingSettings)]
    return {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _field_docstrings() -> dict[str, str]:
    """What the docstring under each field of DecodingSettings says."""
    body = ast.parse(inspect.getsource(DecodingSettings)).body[0].body
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
