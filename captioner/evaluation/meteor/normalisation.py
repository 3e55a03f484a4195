"""A caption as METEOR's words: punctuation apart, dashes within words gone, contractions split, lower case.

METEOR's ``-norm`` does this to captions that COCO's evaluation has tokenized already, and does more to them than one
would think: ``'s`` becomes ``'`` and ``s``.
"""

import re
from collections.abc import Mapping

_LETTERS = "A-Za-z\u0160\u017d\u0161\u017e\u0178\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e"
_LETTERS += "\u0400-\u0527\ua640-\ua66e\ua67e-\ua697\u1d00-\u1d7f"
_SPACES = " \u00a0\u2000-\u200a\u202f\u205f\u3000"

_STEPS = [
    (re.compile(pattern, re.ASCII), replacement)
    for pattern, replacement in (
        (rf"([^0-9{_LETTERS}\s.'`,\-\u2018\u2019])", r" \1 "),
        (r"\.{2,}", r" \g<0> "),
        # A comma stays where it has a digit on both sides.
        (r"([^0-9]),([^0-9])", r"\1 , \2"),
        (r"([0-9]),([^0-9])", r"\1 , \2"),
        (r"([^0-9]),([0-9])", r"\1 , \2"),
        (r"[`\u2018\u2019]", "'"),
        (r"[\u201c\u201d]|''", ' " '),
        (r"\u2013|--", "-"),
        (rf"([0-9{_LETTERS}.])-([0-9{_LETTERS}])", r"\1 \2"),
        (rf"([^{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([^0-9{_LETTERS}])'([{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([^{_LETTERS}])", r"\1 ' \2"),
        (rf"([{_LETTERS}])'([{_LETTERS}])", r"\1 '\2"),
        (r"([0-9])'s", r"\1 's"),
    )
]
_CONTROLS = "".join(map(chr, range(33)))
_BREAKS = re.compile(r"[ \t\n\r\f]+")
_ALL_BREAKS = re.compile(rf"[{_SPACES}\t\n\r\f]+")
_LETTER = re.compile(f"[{_LETTERS}]")


def normalise(caption: str, prefixes: Mapping[str, bool]) -> list[str]:
    """Return the words of a caption, as METEOR's normalizer makes them.

    prefixes: words that keep the dot after them; true for those that do so only before a number.
    """
    line = f" {caption} "
    for pattern, replacement in _STEPS:
        line = pattern.sub(replacement, line)
    words = [word for word in _BREAKS.split(line) if word]
    line = " ".join(map(_treat_dot, words, [*words[1:], ""], [prefixes] * len(words)))
    return [word for word in _ALL_BREAKS.split(line.strip(_CONTROLS).lower()) if word]


def _treat_dot(word: str, following: str, prefixes: Mapping[str, bool]) -> str:
    """Keep a word's last dot, split it off, or drop all of its dots (u.s. becomes us)."""
    stem = word[:-1]
    if not word.endswith(".") or not stem.strip("."):
        return word
    if "." in stem and _LETTER.search(stem):
        return word.replace(".", "")
    before_number = prefixes.get(stem)
    if before_number is False or "a" <= following[:1] <= "z":
        return word
    if before_number and "0" <= following[:1] <= "9":
        return word
    return f"{stem} ."
