import argparse
from dataclasses import fields

import pytest

from captioner.commands.decoding_arguments import add_decoding_flags, given_decoding
from captioner.settings import DecodingSettings

VALUES = {int: ("7", 7), float: ("0.25", 0.25), str: ("a cat", "a cat")}


def make_parser(**options):
    parser = argparse.ArgumentParser(prog="it")
    add_decoding_flags(parser, **options)
    return parser


def test_every_setting_has_a_flag_of_its_type_and_meaning():
    words, expected = [], {}
    for field in fields(DecodingSettings):
        text, value = VALUES.get(field.type, ("int8", "int8"))
        words += [f"--{field.name.replace('_', '-')}", text]
        expected[field.name] = value
    parser = make_parser()
    assert given_decoding(parser.parse_args(words)) == expected
    text = " ".join(parser.format_help().split())
    assert "Width of the beam; 1 decodes greedily." in text
    assert "--precision {auto,fp32,bf16,int8}" in text


def test_only_what_is_given_counts():
    assert given_decoding(make_parser().parse_args(["--beams", "4", "--prefix", ""])) == {"beams": 4, "prefix": ""}


def test_a_short_help_knows_all_flags():
    parser = make_parser(leave_out=["batch_size"], shown=["beams"])
    text = parser.format_help()
    assert "--beams" in text
    assert "--top-k" not in text
    assert given_decoding(parser.parse_args(["--top-k", "3"])) == {"top_k": 3}
    with pytest.raises(SystemExit):
        parser.parse_args(["--batch-size", "3"])
