from dataclasses import replace

import pytest
from random_decoders import PLAIN, SPECIAL, make_decoder, make_memory

from captioner.decoding.generation import generate, pack_decoder, stream_tokens
from captioner.decoding.hypotheses import Phrases


@pytest.mark.parametrize("way", [{"beams": 1}, {"beams": 4}, {"samples": 1}, {"beams": 4, "beam_groups": 2}])
def test_what_is_streamed_grows_and_ends_as_the_caption(way):
    decoder, memory = make_decoder(), make_memory(12)
    settings = replace(PLAIN, **way)
    early = 0
    for image in memory:
        streamed = list(stream_tokens(pack_decoder(decoder, settings), [image[None]], settings, SPECIAL, Phrases()))
        ((best, *_),) = generate(decoder, image[None], settings, SPECIAL)
        assert (streamed[-1] if streamed else []) == list(best.tokens)
        for before, after in zip([[], *streamed], streamed, strict=False):
            assert after[: len(before)] == before
            assert len(after) > len(before)
        early += len(streamed) > 1
    assert early, "something must be shown before the end"


def test_greedy_tokens_are_streamed_one_by_one():
    memory = make_memory()
    streamed = list(stream_tokens(pack_decoder(make_decoder(), PLAIN), [memory], PLAIN, SPECIAL, Phrases()))
    assert [len(tokens) for tokens in streamed] == [*range(1, len(streamed) + 1)]
