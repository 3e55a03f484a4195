"""``captioner VERB``: one name for all commands."""

import sys
from collections.abc import Sequence
from importlib import import_module

VERBS = {
    "prepare": "make a prepared dataset from a source",
    "tokenizer": "train a dataset's tokenizer",
    "train": "train, evaluate and export a captioner",
    "evaluate": "score an export on a split, or any system's captions",
    "compare": "test whether two scores differ by more than chance",
    "calibrate": "fit an export's confidence",
    "report": "write a run's curves, figures and captions as one HTML file",
    "caption": "caption images (the same as the command caption)",
    "export": "write an export in another format",
    "push": "upload an export to the Hugging Face Hub",
}

NAMED_BY_CALLER = ("tokenizer", "train")
"""Verbs that are scripts at the root too; their help and their advice name the command as it was typed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb that the first argument names; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb == "--version":
        import captioner

        print(f"captioner {captioner.__version__}")
        return 0
    if verb not in VERBS:
        from captioner.settings_checks import nearest_name

        near = nearest_name(verb, VERBS)
        offer = f"did you mean {near}? " if near else ""
        print(f"error: captioner {verb}: no such verb; {offer}there are {', '.join(VERBS)}", file=sys.stderr)
        return 2
    options = {"prog": f"captioner {verb}"} if verb in NAMED_BY_CALLER else {}
    return import_module(f"captioner.commands.{verb}").main(rest, **options)


def _usage() -> str:
    lines = [f"  {verb:<10} {meaning}" for verb, meaning in VERBS.items()]
    return "\n".join(["usage: captioner VERB [-h] …", "", *lines, "", "captioner VERB --help tells more of each."])
