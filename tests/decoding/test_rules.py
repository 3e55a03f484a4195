"""What captions must not have: words, endings, repetitions; and what they must begin with."""

from dataclasses import replace

import pytest
import torch
from random_decoders import END, PLAIN, SPECIAL, START, make_decoder, make_memory

from captioner.decoding.generation import generate
from captioner.decoding.hypotheses import Phrases
from captioner.errors import ConfigError

WAYS = [{"beams": 1}, {"beams": 4}, {"samples": 3}]


def captions(settings, phrases=None, *, decoder=None, images=20):
    found = generate(decoder or make_decoder(), make_memory(images), settings, SPECIAL, phrases)
    return [one for hypotheses in found for one in hypotheses]


def ends_with(caption, phrase):
    return not caption.truncated and caption.tokens[-len(phrase) :] == phrase


def contains(caption, phrase):
    places = range(len(caption.tokens) - len(phrase) + 1)
    return any(caption.tokens[place : place + len(phrase)] == phrase for place in places)


@pytest.mark.parametrize("way", WAYS)
def test_no_caption_has_a_banned_phrase(way):
    settings = replace(PLAIN, **way)
    free = captions(settings)
    single = free[0].tokens[:1]
    pair = next(one.tokens[place : place + 2] for one in free for place in (1, 0) if len(one.tokens) >= place + 2)
    for phrase in (single, pair):
        assert any(contains(one, phrase) for one in free)
        assert not any(contains(one, phrase) for one in captions(settings, Phrases(banned=(phrase,))))
    both = captions(settings, Phrases(banned=(single, pair)))
    assert not any(contains(one, phrase) for one in both for phrase in (single, pair))


def test_the_words_of_a_banned_phrase_stay_allowed():
    free = captions(PLAIN)
    phrase = next(one.tokens[:2] for one in free if len(one.tokens) >= 2)
    found = captions(PLAIN, Phrases(banned=(phrase,)))
    assert any(contains(one, phrase[:1]) for one in found)
    assert any(contains(one, phrase[1:]) for one in found)


@pytest.mark.parametrize("way", WAYS)
def test_no_caption_ends_with_a_bad_ending(way):
    settings = replace(PLAIN, **way)
    free = [one for one in captions(settings) if not one.truncated and len(one.tokens) > 1]
    endings = (free[0].tokens[-1:], free[-1].tokens[-2:])
    assert any(ends_with(one, ending) for one in free for ending in endings)
    found = captions(settings, Phrases(bad_endings=endings))
    assert not any(ends_with(one, ending) for one in found for ending in endings)
    assert any(contains(one, ending) for one in found for ending in endings)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_bad_ending_stays_where_there_is_nothing_else_to_say(beams):
    settings = replace(PLAIN, beams=beams, no_repeat_ngram=1)
    found = captions(settings, Phrases(bad_endings=((4,),)), decoder=make_decoder(vocabulary=5), images=3)
    assert {one.tokens for one in found if one.tokens} <= {(4,)}
    assert not any(one.truncated for one in found)


@pytest.mark.parametrize("way", WAYS)
def test_every_caption_begins_with_the_prefix(way):
    prefix = (9, 9, 5)  # against the rules of repetition, which are for what the decoder says
    settings = replace(PLAIN, no_repeat_ngram=1, min_length=1, **way)
    found = captions(settings, Phrases(prefix=prefix))
    assert all(one.tokens[:3] == prefix for one in found)
    assert len({one.tokens for one in found}) > 5


def test_a_prefix_counts_with_the_decoders_own_probabilities():
    decoder, prefix = make_decoder(), (9, 5, 7)
    (caption,) = captions(PLAIN, Phrases(prefix=prefix), decoder=decoder, images=1)
    with torch.inference_mode():
        logits = decoder(torch.tensor([[START, *prefix]]), make_memory(1))
    expected = logits[0, :3].log_softmax(dim=-1)[torch.arange(3), list(prefix)]
    assert caption.log_probabilities[:3] == pytest.approx(expected.tolist(), abs=1e-5)
    following = caption.tokens[3] if len(caption.tokens) > 3 else END
    words = logits[0, 3].clone()
    words[SPECIAL.never_generated] = -torch.inf
    assert following == int(words.argmax())


def test_a_prefix_must_leave_room():
    with pytest.raises(ConfigError, match=r"decoding.prefix has 8 tokens.*max_length=8; shorten it"):
        captions(PLAIN, Phrases(prefix=(5,) * 8))


@pytest.mark.parametrize("beams", [1, 3])
def test_the_repetition_penalty_makes_repetition_rarer(beams):
    def repetitions(penalty):
        settings = replace(PLAIN, beams=beams, max_length=12, min_length=8, repetition_penalty=penalty)
        return sum(
            len(one.tokens) - len(set(one.tokens)) for one in captions(settings, decoder=make_decoder(scale=1.0))
        )

    assert repetitions(1.0) > repetitions(1.5) > repetitions(50.0)


def test_the_repetition_penalty_multiplies_the_log_probabilities_of_what_was_said():
    settings = replace(PLAIN, max_length=12, min_length=8, repetition_penalty=1.1)
    decoder = make_decoder(scale=1.0)
    (caption,) = captions(settings, decoder=decoder, images=1)
    tokens = [*caption.tokens, *([] if caption.truncated else [END])]
    assert len(set(tokens)) < len(tokens)
    with torch.inference_mode():
        logits = decoder(torch.tensor([[START, *tokens[:-1]]]), make_memory(1))[0].log_softmax(dim=-1)
    expected = [
        float(logits[place, token]) * (1.1 if token in tokens[:place] else 1.0) for place, token in enumerate(tokens)
    ]
    assert caption.log_probabilities == pytest.approx(expected, abs=1e-4)
