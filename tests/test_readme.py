"""README.md holds what works: its commands, flags, presets, imports and links exist."""

import ast
import contextlib
import importlib
import inspect
import io
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from captioner import Captioner
from captioner.commands import caption, verbs
from captioner.data.sources import SOURCES
from captioner.presets import PRESETS
from captioner.settings import DecodingSettings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TWO_COMMANDS = ("pip install -e . && python train.py", "pip install -e '.[test]' && pytest")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
OTHER_PROGRAMS = {"pip", "pytest", "cat"}
SCRIPTS_WITH_PRESETS = {"train.py", "train_tokenizer.py"}


def read_commands() -> Iterator[tuple[str, ...]]:
    """Yield the words of every command in the shell blocks, without comments and environment variables."""
    for language, block in BLOCKS:
        if language != "bash":
            continue
        for line in block.splitlines():
            for part in re.split(r"&&|\|", line):
                words = shlex.split(part, comments=True)
                while words and re.match(r"[A-Z_]+=", words[0]):
                    words.pop(0)
                if words and words[0] not in OTHER_PROGRAMS:
                    yield tuple(words)


COMMANDS = sorted(set(read_commands()))


def split_program(words: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return the program, as in ``captioner push``, ``train.py`` or ``-m benchmarks.x``, and its arguments."""
    if words[:2] == ("python", "-m"):
        return f"-m {words[2]}", words[3:]
    if words[0] == "captioner":
        return f"captioner {words[1]}", words[2:]
    return (words[1], words[2:]) if words[0] == "python" else (words[0], words[1:])


@pytest.fixture(scope="module")
def read_help(module_monkeypatch):
    """Return a program's help as text, each read once."""
    module_monkeypatch.setenv("COLUMNS", "300")
    module_monkeypatch.syspath_prepend(ROOT)  # where a script finds config.py

    @cache
    def read(program: str) -> str:
        if program == "caption":
            main, arguments = caption.main, ["--help"]
        elif program.startswith("captioner "):
            main, arguments = verbs.main, [program.split()[1], "--help"]
        elif program.startswith("-m "):
            main, arguments = importlib.import_module(program.removeprefix("-m ")).main, ["--help"]
        else:
            main, arguments = runpy.run_path(str(ROOT / program))["main"], ["--help"]
        return capture(main, arguments)

    yield read
    sys.modules.pop("config", None)


@pytest.fixture(scope="module")
def module_monkeypatch():
    """A monkeypatch that lasts for this module."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def capture(main, arguments: list[str]) -> str:
    """Return what a command prints before it leaves with status 0."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as leave:
        main(arguments)
    assert not leave.value.code
    return printed.getvalue()


def flags_of(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z.-]*", text))


@pytest.mark.parametrize("command", TWO_COMMANDS)
def test_each_of_the_two_commands_stands_alone_and_once(command):
    assert README.count(command) == 1
    assert ("bash", f"{command}\n") in BLOCKS


def test_readme_holds_commands_of_every_program():
    programs = {split_program(words)[0] for words in COMMANDS}
    assert {"train.py", "train_tokenizer.py", "prepare_dataset.py", "caption", "captioner evaluate"} <= programs


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_command_exists_with_its_flags(words, read_help):
    program, arguments = split_program(words)
    known = flags_of(read_help(program))
    assert {word for word in arguments if word.startswith("--")} - {"--help"} <= known
    positional = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if program in SCRIPTS_WITH_PRESETS and positional:
        assert positional in PRESETS
    if program == "prepare_dataset.py":
        assert positional in SOURCES


def test_flags_and_verbs_in_the_text_exist(read_help):
    programs = ["caption", "train.py", "prepare_dataset.py", *(f"captioner {verb}" for verb in verbs.VERBS)]
    known = {"--debug", *(flag for program in programs for flag in flags_of(read_help(program)))}
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    inline = [text for text in re.findall(r"`([^`]+)`", prose) if not text.startswith("accelerate ")]
    assert {flag for text in inline for flag in flags_of(text)} - known == set()
    named = {match[1] for text in inline if (match := re.match(r"captioner (\w+)", text))}
    assert named - set(verbs.VERBS) == set()


def test_presets_in_the_text_are_the_shipped_ones():
    sentence = re.search(r"The presets are (.*?)\.", README)
    assert re.findall(r"`([\w-]+)`", sentence[1]) == list(PRESETS)


def test_python_blocks_import_and_call_what_exists():
    for language, block in BLOCKS:
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), node.module
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "caption":
                known = {*inspect.signature(Captioner.caption).parameters, *DecodingSettings.__dataclass_fields__}
                assert {keyword.arg for keyword in node.keywords} <= known


def test_json_blocks_are_json():
    lines = [line for language, block in BLOCKS if language == "json" for line in block.splitlines()]
    assert lines
    assert all(isinstance(json.loads(line), dict) for line in lines)


@pytest.mark.parametrize("document", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "checkpoints/README.md"])
def test_linked_files_exist(document):
    path = ROOT / document
    targets = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (path.parent / target).exists()] == []
