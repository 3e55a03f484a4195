"""Sampling and diverse beam search."""

from dataclasses import replace

import pytest
import torch
from random_decoders import END, PLAIN, SPECIAL, START, make_decoder, make_memory

from captioner.decoding.generation import generate


def texts(found):
    return [[hypothesis.tokens for hypothesis in hypotheses] for hypotheses in found]


def next_probabilities(decoder, memory, tokens):
    with torch.inference_mode():
        logits = decoder(torch.tensor([[START, *tokens]]), memory)[0, -1]
        logits[SPECIAL.never_generated] = -torch.inf
    return logits


def test_samples_follow_the_decoders_probabilities():
    """The first words of many samples of one image come as often as the decoder, heated, finds them likely."""
    decoder, memory = make_decoder(), make_memory()
    settings = replace(PLAIN, samples=1000, temperature=1.5, max_length=1)
    (found,) = generate(decoder, memory, settings, SPECIAL)
    first = torch.tensor([one.tokens[0] if one.tokens else END for one in found])
    shares = torch.bincount(first, minlength=12) / 1000
    expected = (next_probabilities(decoder, memory, []) / 1.5).softmax(dim=-1)
    torch.testing.assert_close(shares, expected, rtol=0, atol=0.05)


@pytest.mark.parametrize("changes", [{"top_k": 2}, {"top_p": 0.5}, {"top_k": 3, "top_p": 0.6, "temperature": 2.0}])
def test_samples_keep_to_the_likely_tokens(changes):
    decoder, memory = make_decoder(), make_memory()
    settings = replace(PLAIN, samples=60, **changes)
    (found,) = generate(decoder, memory, settings, SPECIAL)
    assert len({one.tokens for one in found}) > 1
    for one in found:
        for place, token in enumerate([*one.tokens, *([] if one.truncated else [END])]):
            logits = next_probabilities(decoder, memory, one.tokens[:place]) / settings.temperature
            order = logits.argsort(descending=True)
            values = logits[order][: settings.top_k or None].softmax(dim=-1)
            allowed = int((values.cumsum(dim=0) - values < settings.top_p - 1e-6).sum())
            assert token in order[: allowed + (settings.top_p < 1)].tolist()


def test_the_seed_decides_what_is_drawn():
    decoder, memory = make_decoder(), make_memory(10)
    settings = replace(PLAIN, samples=2)
    first, again, other = (generate(decoder, memory, replace(settings, seed=seed), SPECIAL) for seed in (1, 1, 2))
    assert texts(first) == texts(again)
    assert texts(first) != texts(other)


@pytest.mark.parametrize("changes", [{"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-6}])
def test_the_coldest_sample_is_the_greedy_caption(changes):
    decoder, memory = make_decoder(), make_memory(10)
    greedy = generate(decoder, memory, PLAIN, SPECIAL)
    assert texts(generate(decoder, memory, replace(PLAIN, samples=1, **changes), SPECIAL)) == texts(greedy)


def test_samples_come_best_first_with_scores_free_of_temperature():
    decoder, memory = make_decoder(), make_memory(3)
    for found in generate(decoder, memory, replace(PLAIN, samples=5, temperature=2.0), SPECIAL):
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)
        for one in found:
            assert one.score == pytest.approx(sum(one.log_probabilities) / len(one.log_probabilities) ** 0.7)
    best = found[0]
    image = memory[2:]
    value = next_probabilities(decoder, image, []).log_softmax(dim=-1)[(*best.tokens, END)[0]]
    with torch.inference_mode():  # the forbidden tokens take part in the normalisation
        whole = decoder(torch.tensor([[START]]), image)[0, -1].log_softmax(dim=-1)[(*best.tokens, END)[0]]
    assert best.log_probabilities[0] == pytest.approx(float(whole), abs=1e-5)
    assert value > whole


def test_groups_without_diversity_are_the_same_search():
    decoder, memory = make_decoder(), make_memory(10)
    plain = generate(decoder, memory, replace(PLAIN, beams=3), SPECIAL)
    settings = replace(PLAIN, beams=6, beam_groups=2, diversity=0.0)
    for found, expected in zip(generate(decoder, memory, settings, SPECIAL), plain, strict=True):
        assert [one.tokens for one in found] == [one.tokens for one in expected]


def test_diversity_brings_other_captions_and_leaves_the_first_group_alone():
    decoder, memory = make_decoder(), make_memory(10)
    plain = texts(generate(decoder, memory, replace(PLAIN, beams=2), SPECIAL))

    def distinct(diversity):
        settings = replace(PLAIN, beams=6, beam_groups=3, diversity=diversity)
        found = texts(generate(decoder, memory, settings, SPECIAL))
        for tokens, expected in zip(found, plain, strict=True):
            assert set(expected) <= set(tokens)
        return sum(len({caption[:1] for caption in tokens}) for tokens in found)

    assert distinct(0.0) < distinct(1.0) <= distinct(100.0)


def test_each_group_pays_for_what_earlier_ones_took():
    """With one beam a group, the first words are the likeliest, the second and the third likeliest ones."""
    decoder, memory = make_decoder(), make_memory(5)
    settings = replace(PLAIN, beams=3, beam_groups=3, diversity=1000.0, max_length=1, min_length=1)
    for image, found in enumerate(generate(decoder, memory, settings, SPECIAL)):
        order = next_probabilities(decoder, memory[image : image + 1], []).argsort(descending=True).tolist()
        order.remove(END)
        assert [one.tokens[0] for one in found] == order[:3]


def test_what_several_groups_find_is_given_once():
    decoder, memory = make_decoder(), make_memory(20)
    settings = replace(PLAIN, beams=6, beam_groups=3, diversity=0.2)
    found = texts(generate(decoder, memory, settings, SPECIAL))
    assert all(len(set(captions)) == len(captions) for captions in found)
    assert {len(captions) for captions in found} > {6}, "groups must find the same caption for this to be tested"
