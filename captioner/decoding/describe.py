"""Decoding settings in words, as they stand beside every score."""

from collections.abc import Mapping
from typing import Any

from captioner.settings import DecodingSettings


def describe_run(summary: Mapping[str, Any]) -> str:
    """How the captions of an evaluation were decoded, in one line, with the precision that ran and where.

    Arguments:
        summary: of an evaluation, as an export's metrics.json has it; older ones do not say what ran.
    """
    ran = f"{summary['precision']} on {summary['device']}" if "device" in summary else ""
    return describe_decoding(DecodingSettings(**summary["decoding"]), arithmetic=ran)


def describe_decoding(decoding: DecodingSettings, *, arithmetic: str = "") -> str:
    """The settings that decide a caption, in one line; those without effect are left out.

    Arguments:
        decoding: the settings.
        arithmetic: what the precision turned out to be, instead of that of the settings.
    """
    parts = list(_describe_search(decoding))
    parts.append(f"{decoding.min_length} to {decoding.max_length} tokens")
    if decoding.no_repeat_ngram:
        parts.append(f"no repeated {decoding.no_repeat_ngram}-grams")
    if decoding.repetition_penalty != 1:
        parts.append(f"repetition penalty {decoding.repetition_penalty:g}")
    for name, words in (("prefix", decoding.prefix), ("without", decoding.banned_words)):
        if words:
            parts.append(f'{name} "{words}"')
    if decoding.bad_endings:
        parts.append(f'not ending with "{decoding.bad_endings}"')
    if arithmetic or decoding.precision != "auto":
        parts.append(arithmetic or decoding.precision)
    return ", ".join(parts)


def _describe_search(decoding: DecodingSettings) -> list[str]:
    penalty = f"length penalty {decoding.length_penalty:g}"
    if decoding.samples:
        parts = [f"the best of {decoding.samples} samples" if decoding.samples > 1 else "one sample"]
        parts += [f"temperature {decoding.temperature:g}"] if decoding.temperature != 1 else []
        parts += [f"top-k {decoding.top_k}"] if decoding.top_k else []
        parts += [f"top-p {decoding.top_p:g}"] if decoding.top_p != 1 else []
        return [*parts, f"seed {decoding.seed}", *([penalty] if decoding.samples > 1 else [])]
    if decoding.beams == 1:
        return ["greedy"]
    if decoding.beam_groups > 1:
        groups = f"{decoding.beams} beams in {decoding.beam_groups} groups, diversity {decoding.diversity:g}"
        return [f"diverse beam search, {groups}", penalty]
    return [f"beam search, {decoding.beams} beams", penalty]
