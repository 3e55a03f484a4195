"""Decoders with random weights whose captions are worth searching for."""

import torch

from captioner.decoding.hypotheses import SpecialTokens
from captioner.models.decoder import TransformerDecoder
from captioner.settings import DecoderSettings, DecodingSettings

PAD, START, END, UNKNOWN = range(4)
SPECIAL = SpecialTokens(start=START, end=END, pad=PAD, unknown=UNKNOWN)
WIDTH = 16
PLAIN = DecodingSettings(precision="fp32", beams=1, max_length=8, min_length=0, no_repeat_ngram=0, length_penalty=0.7)


def make_decoder(*, vocabulary=12, seed=3, scale=0.6, positions="learned"):
    """A decoder whose random probabilities are far from even, so that searching matters."""
    settings = DecoderSettings(
        width=WIDTH,
        layers=2,
        heads=2,
        feedforward=2,
        dropout=0.0,
        max_length=12,
        positions=positions,
        tie_embeddings=False,
    )
    torch.manual_seed(seed)
    decoder = TransformerDecoder(settings, vocabulary_size=vocabulary).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=scale)
    decoder.norm.reset_parameters()  # no token is likely everywhere
    return decoder


def make_memory(images=1, *, seed=0):
    return torch.randn(images, 4, WIDTH, generator=torch.Generator().manual_seed(seed))
