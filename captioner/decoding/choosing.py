"""Which tokens captions go on with: the likeliest, drawn ones, or those of beam search.

A chooser looks at the log-probabilities of a step and says how each slot's captions grow and which of them end.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from captioner.decoding.running import RunningCaptions
from captioner.decoding.vocabulary import cumulative_probabilities, draw, top_candidates
from captioner.settings import DecodingSettings


@dataclass(frozen=True)
class Choice:
    """How the captions of every slot go on; tensors are [slots, beams] but for the ended ones, a row each."""

    origins: Tensor
    """The beam that each beam goes on from."""
    tokens: Tensor
    values: Tensor
    """Log-probabilities of the tokens."""
    scores: Tensor
    """Sums of all log-probabilities; minus infinity where a beam holds no caption any more."""
    ended: Tensor
    """Captions that now end: slot, group and beam [ended, 3], a slot's likeliest first."""
    end_values: Tensor
    """Log-probabilities of their end tokens [ended]."""


class Chooser(Protocol):
    """Beams of a slot are ``groups`` equal parts, each of which collects finished captions of its own."""

    beams: int
    groups: int
    spacing: int
    """Of so many neighbouring beams, which begin alike, only the first counts at first."""

    def choose(self, log_probabilities: Tensor, captions: RunningCaptions, last: Tensor) -> Choice:
        """Choose the next tokens.

        Args:
            log_probabilities: what the rules left [slots, beams, vocabulary].
            captions: so far; its first slots are those of the log-probabilities.
            last: which slots reach the maximum length with this token [slots].
        """


class Walk:
    """Each caption goes its own way: by the likeliest token, or by tokens drawn from their probabilities."""

    groups = spacing = 1

    def __init__(self, settings: DecodingSettings, end: int, device: torch.device) -> None:
        """Every image gets the same numbers from the seed, so that its captions do not depend on its batch."""
        self.beams, self._settings, self._end = settings.samples or 1, settings, end
        generator = torch.Generator().manual_seed(settings.seed)
        shape = (self.beams, settings.max_length)
        self._uniforms = torch.rand(shape, generator=generator, dtype=torch.double).to(device)

    def choose(self, log_probabilities: Tensor, captions: RunningCaptions, last: Tensor) -> Choice:
        slots, beams, _ = log_probabilities.shape
        if self._settings.samples:
            tokens = self._draw(log_probabilities, captions.lengths[:slots])
        else:
            tokens = log_probabilities.argmax(dim=-1)
        values = log_probabilities.gather(2, tokens[:, :, None])[:, :, 0]
        scores = captions.scores[:slots] + values
        ends = (tokens == self._end) & scores.isfinite()
        places = ends.nonzero()  # [ended, 2]: slot and beam
        ended = torch.stack([places[:, 0], torch.zeros_like(places[:, 0]), places[:, 1]], dim=1)
        origins = torch.arange(beams, device=tokens.device).expand(slots, beams)
        return Choice(origins, tokens, values, scores.masked_fill(ends, -torch.inf), ended, values[ends])

    def _draw(self, log_probabilities: Tensor, lengths: Tensor) -> Tensor:
        settings = self._settings
        cumulated, tokens = cumulative_probabilities(
            log_probabilities.flatten(0, 1) / settings.temperature, top_k=settings.top_k, top_p=settings.top_p
        )
        uniforms = self._uniforms[:, lengths].t().flatten()  # [slots x beams]
        return draw(cumulated, tokens, uniforms).view(log_probabilities.shape[:2])


class BeamSearch:
    """The likeliest captions of all that continue a slot's beams; in groups, which avoid each other's words.

    With several groups it is diverse beam search (Vijayakumar et al. 2018, https://arxiv.org/abs/1610.02424): a group
    counts ``diversity`` against a token for every beam of earlier groups that goes on with it now. That decides what is
    chosen, not how captions are scored.
    """

    def __init__(self, settings: DecodingSettings, end: int) -> None:
        self.beams, self.groups = settings.beams, settings.beam_groups
        self.spacing = self.beams // self.groups
        self._diversity, self._end = settings.diversity, end

    def choose(self, log_probabilities: Tensor, captions: RunningCaptions, last: Tensor) -> Choice:
        slots = len(log_probabilities)
        width = self.spacing
        chosen: list[Choice] = []
        taken = torch.zeros_like(log_probabilities[:, 0]) if self.groups > 1 else None  # [slots, vocabulary]
        for group in range(self.groups):
            part = slice(group * width, (group + 1) * width)
            found = self._choose_in_group(log_probabilities[:, part], captions.scores[:slots, part], taken, last, group)
            chosen.append(found)
            if taken is not None:
                taken.scatter_add_(1, found.tokens, found.scores.isfinite().to(taken.dtype) * self._diversity)
        if len(chosen) == 1:
            return chosen[0]
        columns = [[getattr(one, name) for one in chosen] for name in ("origins", "tokens", "values", "scores")]
        return Choice(
            *(torch.cat(column, dim=1) for column in columns),
            torch.cat([one.ended for one in chosen]),
            torch.cat([one.end_values for one in chosen]),
        )

    def _choose_in_group(
        self, log_probabilities: Tensor, scores: Tensor, taken: Tensor | None, last: Tensor, group: int
    ) -> Choice:
        beams = log_probabilities.shape[1]
        offset = group * beams
        wanted = log_probabilities if taken is None else log_probabilities - taken[:, None]
        # Twice as many as there are beams are enough if all of them end.
        totals, origins, tokens = top_candidates(wanted.contiguous(), scores, 2 * beams)
        if taken is not None:
            totals = totals + taken.gather(1, tokens)
        values = totals - scores.gather(1, origins)
        ends = tokens == self._end
        likely = torch.arange(ends.shape[1], device=ends.device) < beams
        places = (ends & likely & totals.isfinite()).nonzero()
        slots, ranks = places.t()
        ended = torch.stack([slots, torch.full_like(slots, group), origins[slots, ranks] + offset], dim=1)
        # Captions that the maximum length cuts off count like those that end: only the likely ones.
        order = torch.arange(ends.shape[1], device=ends.device).masked_fill(ends, 2 * ends.shape[1])
        best = order.topk(min(beams, ends.shape[1]), dim=1, largest=False, sorted=True).indices
        kept = totals.masked_fill(ends | (last[:, None] & ~likely), -torch.inf).gather(1, best)
        if best.shape[1] < beams:  # a vocabulary of fewer tokens than beams
            best = torch.cat([best, best[:, :1].expand(-1, beams - best.shape[1])], dim=1)
            kept = torch.nn.functional.pad(kept, (0, beams - kept.shape[1]), value=-torch.inf)
        return Choice(
            origins.gather(1, best) + offset,
            tokens.gather(1, best).masked_fill_(kept.isneginf(), self._end),
            values.gather(1, best),
            kept,
            ended,
            values[slots, ranks],
        )


def choose_chooser(settings: DecodingSettings, end: int, device: torch.device) -> Chooser:
    """The way of choosing that the settings ask for."""
    if settings.samples or settings.beams == 1:
        return Walk(settings, end, device)
    return BeamSearch(settings, end)
