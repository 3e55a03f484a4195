"""`captioner VERB`."""

import subprocess
import sys

import pytest

import captioner
from captioner.commands import verbs


def test_without_a_verb_the_verbs_are_listed(capsys):
    assert verbs.main([]) == 2
    assert verbs.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {verb} " in shown for verb in verbs.VERBS)


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_every_verb_has_a_help_with_its_name(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        verbs.main([verb, "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "example" in shown
    assert {"caption": "caption"}.get(verb, f"captioner {verb}") in shown
    assert verb in ("tokenizer", "train") or ".py" not in shown  # theirs tell whose settings they share


def test_an_unknown_verb_names_the_near_one(told):
    assert verbs.main(["evalute", "x"]) == 2
    assert told().startswith("error: captioner evalute: no such verb; did you mean evaluate? there are prepare, ")


def test_the_version(capsys):
    assert verbs.main(["--version"]) == 0
    assert capsys.readouterr().out == f"captioner {captioner.__version__}\n"


def test_a_verb_gives_its_status(told):
    assert verbs.main(["evaluate", "nowhere/at/all"]) == 2
    assert told().startswith("error: nowhere/at/all is neither a folder with an export nor a Hub id")


def test_nothing_heavy_is_loaded_for_the_list_of_verbs():
    script = (
        "import sys; from captioner.commands.verbs import main; main(['--help']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, check=False).returncode == 0
