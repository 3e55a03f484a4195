"""The captions that are being written: tokens and log-probabilities of every beam of every slot."""

import torch
from torch import Tensor

NOTHING = -1
"""Stands where a caption has no token yet."""


class RunningCaptions:
    """Captions of all slots, of which those in use stand in front; each slot has a length of its own."""

    def __init__(self, slots: int, beams: int, max_length: int, device: torch.device) -> None:
        self.tokens = torch.full((slots, beams, max_length), NOTHING, device=device)
        self.values = torch.zeros(slots, beams, max_length, device=device)
        self.scores = torch.zeros(slots, beams, device=device)
        """Sum of a caption's log-probabilities; minus infinity where a beam holds no caption."""
        self.newest = torch.zeros(slots, beams, dtype=torch.long, device=device)
        self.lengths = torch.zeros(slots, dtype=torch.long, device=device)

    def begin(self, slots: list[int], *, start: int, spacing: int) -> None:
        """Begin captions in slots; of every ``spacing`` beams, which begin alike, only the first counts."""
        self.tokens[slots] = NOTHING
        counting = torch.arange(self.scores.shape[1], device=self.scores.device) % spacing == 0
        self.scores[slots] = torch.where(counting, 0.0, -torch.inf)
        self.newest[slots] = start
        self.lengths[slots] = 0

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy slots over others."""
        for tensor in (self.tokens, self.values, self.scores, self.newest, self.lengths):
            tensor[targets] = tensor[sources]

    def extend(self, origins: Tensor, tokens: Tensor, values: Tensor, scores: Tensor) -> None:
        """Make every beam the caption of beam ``origins`` with one more token; all are [slots in use, beams]."""
        used = len(origins)
        index = origins[:, :, None].expand(-1, -1, self.tokens.shape[2])
        place = self.lengths[:used, None, None].expand(-1, origins.shape[1], 1)
        self.tokens[:used] = self.tokens[:used].gather(1, index).scatter_(2, place, tokens[:, :, None])
        self.values[:used] = self.values[:used].gather(1, index).scatter_(2, place, values[:, :, None])
        self.scores[:used], self.newest[:used] = scores, tokens
        self.lengths[:used] += 1
