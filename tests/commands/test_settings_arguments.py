"""The command line made from the settings: presets, overrides, one line for each mistake, help."""

import sys
from dataclasses import replace

import pytest
import tyro

from captioner.commands.settings_arguments import ExtraFlags, format_flags, parse_settings
from captioner.errors import ConfigError
from captioner.settings import DataSettings, DecoderSettings, OptimSettings, Settings
from captioner.settings_json import changed_settings

PRESETS = {
    "scenes": Settings(),
    "flickr8k": Settings(data=DataSettings(name="flickr8k"), optim=OptimSettings(lr=8e-4)),
}


def parse(*argv: str, **options):
    return parse_settings(argv, presets=PRESETS, prog="python train.py", description="Train a captioner.", **options)


def make_extra() -> ExtraFlags:
    extra = ExtraFlags()
    extra.add_argument("--resume", metavar="PATH", help="Continue the run in this folder.")
    return extra


def test_no_argument_means_the_scenes_preset():
    assert parse()[:2] == ("scenes", Settings())


def test_first_preset_is_taken_where_there_is_no_scenes():
    preset, settings, _ = parse_settings([], presets={"mine": PRESETS["flickr8k"]}, prog="x", description="")
    assert (preset, settings) == ("mine", PRESETS["flickr8k"])


def test_flags_change_the_preset():
    preset, settings, _ = parse(
        "flickr8k", "--optim.betas", "0.8", "0.9", "--decoder.max_length=48", "--tracking.wandb"
    )
    assert preset == "flickr8k"
    assert list(changed_settings(PRESETS["flickr8k"], settings).values()) == [
        "decoder.max_length: 64 -> 48",
        "optim.betas: (0.9, 0.98) -> (0.8, 0.9)",
        "tracking.wandb: False -> True",
    ]


@pytest.mark.parametrize(
    "argv", [["--optim.lr", "1e-3"], ["--optim.lr=1e-3"], ["--optim.lr", "7", "--optim.lr", "1e-3"]]
)
def test_value_is_given_behind_a_space_or_an_equals_sign(argv):
    assert parse(*argv)[1].optim.lr == 1e-3


def test_hyphens_and_underscores_are_the_same():
    assert parse("--tokenizer.vocabulary-size", "300")[1] == parse("--tokenizer.vocabulary_size", "300")[1]
    assert parse("--tokenizer.no-lowercase")[1].tokenizer.lowercase is False


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--optim.lr", "abc"], "--optim.lr abc: not a number; use one, such as 0.0003"),
        (["--optim.lr=abc"], "--optim.lr abc: not a number; use one, such as 0.0003"),
        (["flickr8k", "--optim.lr", "abc"], "--optim.lr abc: not a number; use one, such as 0.0008"),
        (["--decoder.width", "3.5"], "--decoder.width 3.5: not a whole number; use one, such as 512"),
        (["--optim.betas", "a", "0.9"], "--optim.betas a: not a number; use one, such as 0.9 0.98"),
        (["--optim.betas", "0.9"], "--optim.betas: the value is missing; it takes 2 numbers, such as 0.9 0.98"),
        (["--optim.lr"], "--optim.lr: the value is missing; it takes a number, such as 0.0003"),
        (["--data.root"], "--data.root: the value is missing; it takes a text"),
        (["--optim.lrr", "3"], "--optim.lrr: no such flag; did you mean --optim.lr?"),
        (["--lr", "3"], "--lr: no such flag; did you mean --optim.lr?"),
        (["--no-lowercase"], "--no-lowercase: no such flag; did you mean --tokenizer.no-lowercase?"),
        (["--resum", "x"], "--resum: no such flag; did you mean --resume?"),
        (["-x"], "-x: no such flag; see --help for all"),
        (
            ["--schedule.kind", "cosin"],
            "--schedule.kind cosin: did you mean cosine? it takes one of cosine, linear, constant",
        ),
        (["--schedule.kind", "x"], "--schedule.kind x: it takes one of cosine, linear, constant"),
        (
            ["--tracking.wandb", "yes"],
            "--tracking.wandb yes: the flag takes no value; use --tracking.wandb or --tracking.no-wandb",
        ),
        (["--resume"], "--resume: expected one argument; see --help"),
        (["flickr8"], "flickr8: no such preset; did you mean flickr8k? there are scenes, flickr8k"),
        (["qqq"], "qqq: no such preset; there are scenes, flickr8k"),
        (["--decoder.width", "64", "flickr8k"], "flickr8k: put the preset before the flags"),
        (["scenes", "64"], "64: belongs to no flag; settings are given as --group.setting VALUE"),
        (["--optim.lr", "-1"], "optim.lr=-1.0 is not above 0; the default is 0.0003"),
        (["flickr8k", "--optim.lr", "-1"], "optim.lr=-1.0 is not above 0; the default is 0.0008"),
    ],
)
def test_mistake_is_told_in_one_line_with_flag_value_and_remedy(argv, problem, capfd):
    with pytest.raises(ConfigError) as caught:
        parse(*argv, extra=make_extra())
    assert caught.value.problems == (problem,)
    assert capfd.readouterr() == ("", "")


def test_several_mistakes_are_told_together():
    with pytest.raises(ConfigError) as caught:
        parse("--optim.lr", "a", "--decoder.widht", "3", "--schedule.kind", "x", "stray")
    assert [problem.split()[0] for problem in caught.value.problems] == [
        "--optim.lr",
        "--decoder.widht:",
        "--schedule.kind",
        "stray:",
    ]


def test_an_objection_only_tyro_understands_becomes_one_line(monkeypatch):
    def object_to_everything(*_args, **_options):
        sys.stderr.write("╭─ Error ─╮\n│ no such  │\n│ thing   │\n╰─────────╯\n")
        raise SystemExit(2)

    monkeypatch.setattr(tyro, "cli", object_to_everything)
    with pytest.raises(ConfigError) as caught:
        parse()
    assert str(caught.value) == "Error no such thing"


def test_extra_flags_are_given_back():
    preset, settings, flags = parse("flickr8k", "--resume", "runs/a", "--decoder.width", "64", extra=make_extra())
    assert (preset, settings.decoder.width, flags.resume) == ("flickr8k", 64, "runs/a")
    assert parse(extra=make_extra())[2].resume is None


def test_base_replaces_the_preset_as_the_default():
    saved = Settings(decoder=DecoderSettings(width=64), optim=OptimSettings(lr=0.1))
    _, settings, _ = parse("flickr8k", "--optim.lr", "0.2", base=saved)
    assert settings == replace(saved, optim=OptimSettings(lr=0.2))


def test_base_may_depend_on_the_extra_flags():
    saved = Settings(decoder=DecoderSettings(width=64))

    def find(flags):
        return saved if flags.resume else None

    assert parse("flickr8k", "--resume", "runs/a", extra=make_extra(), base=find)[1] == saved
    assert parse("flickr8k", extra=make_extra(), base=find)[1] == PRESETS["flickr8k"]


def test_help_lists_presets_examples_own_flags_and_all_settings(capfd):
    with pytest.raises(SystemExit) as caught:
        parse("flickr8k", "--help", extra=make_extra(), examples=["", "flickr8k --optim.lr 1e-3"])
    assert caught.value.code == 0
    shown, told = capfd.readouterr()
    assert told == ""
    assert shown.startswith("usage: python train.py [PRESET] [-h] [OPTIONS]\n\nTrain a captioner.\n")
    assert "presets: scenes, flickr8k (without one: scenes)" in shown
    assert "examples:\n  python train.py\n  python train.py flickr8k --optim.lr 1e-3\n" in shown
    assert "--resume PATH" in shown
    assert "--optim.lr FLOAT" in shown
    assert "(default: 0.0008)" in shown
    assert "Width of the residual stream." in shown


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--optim.lr", "0.5", "--optim.betas", "0.5", "0.75", "--tracking.wandb", "--tokenizer.no-lowercase"],
        ["--encoder.name=-odd name", "--encoder.revision", "", "--decoder.layers", "2"],
    ],
)
def test_formatted_flags_lead_to_the_same_settings(argv):
    settings = parse("flickr8k", *argv)[1]
    assert parse(*format_flags(Settings(), settings))[1] == settings
    assert format_flags(settings, settings) == []
