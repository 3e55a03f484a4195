"""What may not follow a caption: the rules that forbid tokens, applied to the log-probabilities of a step.

A forbidden token's becomes minus infinity, and the others are not normalised again: what is forbidden changes no other
token's probability. The end token stays reachable: the rules that forbid it yield where nothing else is left.
"""

from collections import defaultdict

import torch
from torch import Tensor

from captioner.decoding.hypotheses import Phrases, SpecialTokens
from captioner.decoding.running import NOTHING
from captioner.settings import DecodingSettings


class Rules:
    """The rules of one decoding."""

    def __init__(
        self, settings: DecodingSettings, special: SpecialTokens, phrases: Phrases, device: torch.device
    ) -> None:
        self.settings, self.special = settings, special
        words = [phrase[0] for phrase in phrases.banned if len(phrase) == 1]
        self._never = torch.tensor([*special.never_generated, *words], device=device)
        self._prefix = torch.tensor(phrases.prefix, dtype=torch.long, device=device)
        self._banned = _group([(phrase[:-1], phrase[-1]) for phrase in phrases.banned if len(phrase) > 1], device)
        self._bad_endings = _group([(phrase, special.end) for phrase in phrases.bad_endings], device)

    def apply(self, values: Tensor, tokens: Tensor, lengths: Tensor, *, shortest: int) -> None:
        """Forbid what the rules forbid, in place.

        Args:
            values: log-probabilities of the next token [slots x beams, vocabulary].
            tokens: captions so far [slots, beams, longest].
            lengths: how long those of each slot are [slots].
            shortest: the smallest of the lengths.
        """
        captions = tokens.flatten(0, 1)  # [rows, longest]
        lengths = lengths.repeat_interleave(tokens.shape[1])  # [rows]
        if self.settings.repetition_penalty != 1:
            self._make_repetition_dearer(values, captions)
        wanted = values.gather(1, self._wanted(lengths)) if shortest < len(self._prefix) else None
        early = shortest < self.settings.min_length
        end = values[:, self.special.end].clone() if early or self._bad_endings else None
        values.index_fill_(1, self._never, -torch.inf)
        self._forbid_repeated_ngrams(values, captions, lengths)
        _forbid_after(self._banned, values, captions, lengths)
        _forbid_after(self._bad_endings, values, captions, lengths)
        if early:
            values[lengths < self.settings.min_length, self.special.end] = -torch.inf
        if end is not None:
            stuck = values.amax(dim=-1).isneginf()
            values[:, self.special.end] = end.where(stuck, values[:, self.special.end])
        if wanted is not None:
            forced = lengths < len(self._prefix)
            values.masked_fill_(forced[:, None], -torch.inf)
            values[forced, self._wanted(lengths)[forced, 0]] = wanted[forced, 0]

    def _wanted(self, lengths: Tensor) -> Tensor:
        """The prefix's next token [rows, 1]; where it is over, its last one."""
        return self._prefix[lengths.clamp(max=len(self._prefix) - 1)][:, None]

    def _make_repetition_dearer(self, values: Tensor, captions: Tensor) -> None:
        """Multiply the log-probabilities of a caption's own tokens, after Keskar et al. 2019 (arXiv 1909.05858)."""
        used = captions.where(captions != NOTHING, self.special.pad)
        values.scatter_(1, used, self.settings.repetition_penalty * values.gather(1, used))

    def _forbid_repeated_ngrams(self, values: Tensor, captions: Tensor, lengths: Tensor) -> None:
        size = self.settings.no_repeat_ngram
        if not size or captions.shape[1] < size:
            return
        windows = captions.unfold(1, size, 1)  # [rows, windows, size]
        last = _last_tokens(captions, lengths, size - 1)
        repeats = (windows[:, :, :-1] == last[:, None]).all(dim=-1)
        repeats &= (windows[:, :, -1] != NOTHING) & (lengths >= size)[:, None]
        rows, places = repeats.nonzero(as_tuple=True)
        values[rows, windows[rows, places, -1]] = -torch.inf


def _last_tokens(captions: Tensor, lengths: Tensor, count: int) -> Tensor:
    """The last tokens of each caption [rows, count]; of captions that are too short, any."""
    places = lengths[:, None] - count + torch.arange(count, device=captions.device)
    return captions.gather(1, places.clamp(min=0))


Forbidden = dict[int, tuple[Tensor, Tensor]]
"""Length of contexts -> the contexts [number, length], and the token that each one forbids [number]."""


def _group(pairs: list[tuple[tuple[int, ...], int]], device: torch.device) -> Forbidden:
    by_length = defaultdict(list)
    for context, token in pairs:
        by_length[len(context)].append((context, token))
    return {
        length: tuple(torch.tensor(column, device=device) for column in zip(*found, strict=True))
        for length, found in by_length.items()
    }


def _forbid_after(forbidden: Forbidden, values: Tensor, captions: Tensor, lengths: Tensor) -> None:
    for length, (contexts, tokens) in forbidden.items():
        if captions.shape[1] < length:
            continue
        last = _last_tokens(captions, lengths, length)
        matches = (last[:, None] == contexts).all(dim=-1) & (lengths >= length)[:, None]  # [rows, contexts]
        rows, found = matches.nonzero(as_tuple=True)
        values[rows, tokens[found]] = -torch.inf
