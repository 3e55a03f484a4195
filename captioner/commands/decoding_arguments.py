"""Flags for every decoding setting, made from the settings' fields: ``--beams 5`` goes over the model's own setting."""

import argparse
import ast
import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin

from captioner.settings import DecodingSettings


def add_decoding_flags(
    parser: argparse.ArgumentParser, *, leave_out: Sequence[str] = (), shown: Sequence[str] | None = None
) -> None:
    """Add a flag for every field of DecodingSettings to a command.

    Arguments:
        parser: the command's arguments.
        leave_out: fields that the command has a flag for already.
        shown: the only fields that ``--help`` explains, where a screen has no room for all.
    """
    others = "; `captioner evaluate --help` explains the other settings" if shown else ""
    group = parser.add_argument_group("decoding", f"the model's own settings hold where none is given{others}")
    meanings = _field_docstrings()
    for field in fields(DecodingSettings):
        if field.name not in leave_out:
            choices = get_args(field.type) if get_origin(field.type) is Literal else None
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=str if choices else field.type,
                choices=choices,
                metavar=None if choices else {int: "N", float: "X", str: "TEXT"}[field.type],
                help=meanings[field.name].replace("%", "%%") if not shown or field.name in shown else argparse.SUPPRESS,
            )


def given_decoding(options: argparse.Namespace) -> Mapping[str, Any]:
    """The decoding settings that the command line gives, by their names."""
    names = [field.name for field in fields(DecodingSettings)]
    return {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}


def _field_docstrings() -> dict[str, str]:
    """What the docstring under each field of DecodingSettings says."""
    body = ast.parse(inspect.getsource(DecodingSettings)).body[0].body
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
