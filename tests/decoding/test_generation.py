import itertools
from dataclasses import replace

import pytest
import torch
from random_decoders import END, PAD, PLAIN, SPECIAL, START, UNKNOWN, WIDTH, make_decoder, make_memory

from captioner.decoding.generation import generate, generate_each
from captioner.errors import CaptionerError


def next_log_probabilities(decoder, memory, tokens):
    """What follows the tokens of one caption, by the decoder without its cache [vocabulary]."""
    with torch.inference_mode():
        return decoder(torch.tensor([[START, *tokens]]), memory)[0, -1].log_softmax(dim=-1)


def sequence_log_probabilities(decoder, memory, tokens):
    return [float(next_log_probabilities(decoder, memory, tokens[:place])[token]) for place, token in enumerate(tokens)]


def texts(found):
    return [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]


def has_repeated_ngram(tokens, size):
    ngrams = [tuple(tokens[place : place + size]) for place in range(len(tokens) - size + 1)]
    return len(set(ngrams)) < len(ngrams)


def naive_greedy(decoder, memory, settings):
    tokens = []
    while len(tokens) < settings.max_length:
        values = next_log_probabilities(decoder, memory, tokens).clone()
        values[[PAD, START, UNKNOWN]] = -torch.inf
        if len(tokens) < settings.min_length:
            values[END] = -torch.inf
        for token in range(len(values)):
            if settings.no_repeat_ngram and has_repeated_ngram([*tokens, token], settings.no_repeat_ngram):
                values[token] = -torch.inf
        tokens.append(int(values.argmax()))
        if tokens[-1] == END:
            break
    return tokens


def exhaustive_search(decoder, memory, settings):
    """The score of every caption there can be, best first: (score, tokens with their end)."""
    words = [token for token in range(decoder.token_embedding.num_embeddings) if token > UNKNOWN]
    found, prefixes = [], [((), 0.0)]
    for length in range(1, settings.max_length + 1):
        longer = []
        for tokens, total in prefixes:
            values = next_log_probabilities(decoder, memory, tokens)
            for token in [*words, END]:
                value = total + float(values[token])
                if token == END or length == settings.max_length:
                    found.append((value / length**settings.length_penalty, (*tokens, token)))
                else:
                    longer.append(((*tokens, token), value))
        prefixes = longer
    return sorted(found, reverse=True)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("no_repeat_ngram", [0, 1, 2, 3])
def test_one_beam_takes_the_likeliest_token_at_every_step(positions, no_repeat_ngram):
    decoder, memory = make_decoder(positions=positions), make_memory(6)
    settings = replace(PLAIN, no_repeat_ngram=no_repeat_ngram, min_length=1)
    for image, (hypothesis,) in enumerate(generate(decoder, memory, settings, SPECIAL)):
        expected = naive_greedy(decoder, memory[image : image + 1], settings)
        end = () if hypothesis.truncated else (END,)
        assert (*hypothesis.tokens, *end) == tuple(expected)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 0.8, 1.0, 1.2, 1.4, 2.0])
@pytest.mark.parametrize("beams", [27, 40, 121, 200])
@pytest.mark.parametrize("seed", range(3))
def test_a_wide_beam_finds_what_trying_every_caption_finds(length_penalty, beams, seed):
    """There are 27 unfinished captions of 3 words and 121 captions in all."""
    decoder, memory = make_decoder(vocabulary=7, seed=seed), make_memory()
    settings = replace(PLAIN, beams=beams, max_length=4, length_penalty=length_penalty)
    (found,) = generate(decoder, memory, settings, SPECIAL)
    expected = exhaustive_search(decoder, memory, settings)[:beams]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for score, _ in expected], abs=1e-5)
    for hypothesis, (_, tokens) in zip(found, expected, strict=True):
        assert hypothesis.tokens == tuple(token for token in tokens if token != END)
        assert hypothesis.truncated == (tokens[-1] != END)


def test_more_beams_find_likelier_captions_on_average():
    decoder, memory = make_decoder(), make_memory(20)
    scores = [
        sum(found[0].score for found in generate(decoder, memory, replace(PLAIN, beams=beams), SPECIAL))
        for beams in (1, 3, 10)
    ]
    assert scores == sorted(scores)
    assert scores[0] < scores[-1]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("length_penalty", [0.0, 0.7, 1.0])
def test_scores_are_the_log_probabilities_of_the_decoder_without_its_cache(beams, length_penalty):
    decoder, memory = make_decoder(), make_memory(5)
    settings = replace(PLAIN, beams=beams, length_penalty=length_penalty, no_repeat_ngram=2)
    for image, hypotheses in enumerate(generate(decoder, memory, settings, SPECIAL)):
        assert len({hypothesis.tokens for hypothesis in hypotheses}) == len(hypotheses) == beams
        assert [one.score for one in hypotheses] == sorted((one.score for one in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            tokens = [*hypothesis.tokens, *([] if hypothesis.truncated else [END])]
            expected = sequence_log_probabilities(decoder, memory[image : image + 1], tokens)
            assert hypothesis.log_probabilities == pytest.approx(expected, abs=1e-5)
            assert hypothesis.score == pytest.approx(sum(expected) / len(expected) ** length_penalty, abs=1e-5)


WAYS = {
    "greedy": {"beams": 1},
    "beam": {"beams": 4},
    "diverse": {"beams": 4, "beam_groups": 2},
    "samples": {"samples": 3, "temperature": 1.3, "top_p": 0.9, "seed": 5},
}


@pytest.mark.parametrize("way", WAYS)
def test_neither_the_batch_nor_the_order_changes_a_caption(way):
    """Alone, in 64, in any order, and in slots that images leave and others take."""
    decoder, memory = make_decoder(), make_memory(64)
    settings = replace(PLAIN, no_repeat_ngram=2, batch_size=64, **WAYS[way])
    together = generate(decoder, memory, settings, SPECIAL)
    lengths = {len(hypotheses[0].tokens) for hypotheses in together}
    assert len(lengths) > 2, "images must leave the batch at different steps for this to be tested"
    alone = [generate(decoder, image[None], settings, SPECIAL)[0] for image in memory[:20]]
    assert texts(alone) == texts(together[:20])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    for batch_size in (1, 7, 64):
        shuffled = generate(decoder, memory[order], replace(settings, batch_size=batch_size), SPECIAL)
        assert texts(shuffled) == [texts(together)[image] for image in order.tolist()]
        for image, found in zip(order.tolist(), shuffled, strict=True):
            scores = [one.score for one in together[image]]
            assert [one.score for one in found] == pytest.approx(scores, abs=1e-5)


def test_images_come_in_parts_of_any_size_and_are_asked_for_when_a_slot_is_free():
    decoder, memory = make_decoder(), make_memory(30)
    settings, asked = replace(PLAIN, beams=2, batch_size=4), []

    def parts():
        for part in memory.split([1, 6, 2, 20, 1]):
            asked.append(len(part))
            yield part

    found = {}
    for image, hypotheses in generate_each(decoder, parts(), settings, SPECIAL):
        found[image] = hypotheses
        assert sum(asked[:-1]) <= len(found) + 2 * 4  # some may be finished, but not yielded yet
    assert texts([found[image] for image in range(30)]) == texts(generate(decoder, memory, settings, SPECIAL))


def test_no_images_give_no_captions():
    assert generate(make_decoder(), make_memory(0), PLAIN, SPECIAL) == []
    assert list(generate_each(make_decoder(), [], PLAIN, SPECIAL)) == []


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("special", [SPECIAL, replace(SPECIAL, unknown=None)])
def test_start_pad_and_unknown_are_never_generated(beams, special):
    decoder, memory = make_decoder(), make_memory(10)
    with torch.no_grad():  # by itself, the decoder wants nothing else
        decoder.norm.weight.zero_()
        decoder.norm.bias.copy_(torch.ones(WIDTH))
        decoder.output.weight[[PAD, START, UNKNOWN]] = 1.0
        decoder.output.weight[END] = -1.0
    found = generate(decoder, memory, replace(PLAIN, beams=beams), special)
    generated = {token for hypotheses in found for one in hypotheses for token in one.tokens}
    assert generated & {PAD, START, UNKNOWN} == (set() if special.unknown else {UNKNOWN})


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_ngram_occurs_twice(beams, size):
    decoder, memory = make_decoder(scale=1.0), make_memory(10)
    settings = replace(PLAIN, beams=beams, max_length=12, min_length=8)
    free = [hypothesis.tokens for found in generate(decoder, memory, settings, SPECIAL) for hypothesis in found]
    assert any(has_repeated_ngram(tokens, size) for tokens in free)
    found = generate(decoder, memory, replace(settings, no_repeat_ngram=size), SPECIAL)
    assert not any(has_repeated_ngram(hypothesis.tokens, size) for one in found for hypothesis in one)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("minimum", [1, 5, 8])
def test_no_caption_has_fewer_tokens_than_the_minimum(beams, minimum):
    decoder, memory = make_decoder(), make_memory(20)
    free, bound = (
        [len(one.tokens) for found in generate(decoder, memory, settings, SPECIAL) for one in found]
        for settings in (replace(PLAIN, beams=beams), replace(PLAIN, beams=beams, min_length=minimum))
    )
    assert min(free) == 0
    assert min(bound) >= minimum


@pytest.mark.parametrize("beams", [1, 3])
def test_a_caption_cut_at_the_maximum_says_so(beams):
    decoder, memory = make_decoder(), make_memory(20)
    settings = replace(PLAIN, beams=beams, max_length=4)
    found = [one for hypotheses in generate(decoder, memory, settings, SPECIAL) for one in hypotheses]
    assert {one.truncated for one in found} == {True, False}
    for one in found:
        assert len(one.tokens) == 4 if one.truncated else len(one.tokens) <= 3  # the end token counts
        assert len(one.log_probabilities) == len(one.tokens) + (not one.truncated)


@pytest.mark.parametrize("beams", [1, 2, 6])
@pytest.mark.parametrize("words", [0, 1, 2])
def test_a_caption_ends_where_there_is_nothing_left_to_say(beams, words):
    """With so few words and no repetition a minimum of 8 cannot be kept; the caption is as long as it can be."""
    decoder, memory = make_decoder(vocabulary=4 + words), make_memory(3)
    settings = replace(PLAIN, beams=beams, no_repeat_ngram=1, min_length=8)
    for hypotheses in generate(decoder, memory, settings, SPECIAL):
        assert 1 <= len(hypotheses) <= beams
        for hypothesis in hypotheses:
            assert sorted(hypothesis.tokens) == [*range(4, 4 + words)]
            assert not hypothesis.truncated
            assert all(value > -100 for value in hypothesis.log_probabilities)


def test_more_beams_than_captions_give_every_caption_once():
    decoder, memory = make_decoder(vocabulary=6), make_memory()
    settings = replace(PLAIN, beams=30, max_length=3)
    (found,) = generate(decoder, memory, settings, SPECIAL)
    possible = [(), (4,), (5,), *itertools.product((4, 5), repeat=2), *itertools.product((4, 5), repeat=3)]
    assert sorted(hypothesis.tokens for hypothesis in found) == sorted(possible)


@pytest.mark.parametrize("beams", [1, 3])
def test_probabilities_that_are_no_numbers_are_refused(beams):
    decoder = make_decoder()
    with torch.no_grad():
        decoder.blocks[0].feedforward[0].bias[0] = torch.nan
    with pytest.raises(CaptionerError, match=r"not finite: its weights are damaged .*; use another checkpoint"):
        generate(decoder, make_memory(2), replace(PLAIN, beams=beams), SPECIAL)
