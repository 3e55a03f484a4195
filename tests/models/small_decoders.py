"""Decoders with random weights, small enough to be compared number by number."""

from dataclasses import replace

import torch

from captioner.models.decoder import TransformerDecoder
from captioner.settings import DecoderSettings

VOCABULARY = 11
SETTINGS = DecoderSettings(width=16, layers=2, heads=4, feedforward=2, dropout=0.1, max_length=9)
POSITIONS = ("learned", "rotary")


def make_decoder(**changes):
    torch.manual_seed(0)
    decoder = TransformerDecoder(replace(SETTINGS, **changes), vocabulary_size=VOCABULARY).eval()
    for parameter in decoder.parameters():  # nothing may hide behind a zero bias
        torch.nn.init.normal_(parameter, std=0.3)
    return decoder
