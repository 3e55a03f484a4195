"""The same captions as transformers' ``generate()`` finds with the same weights."""

import random
from dataclasses import dataclass

import pytest
import torch

from benchmarks.generate_adapter import DecoderBehindGenerate, generate_with_transformers, generation_config
from captioner.decoding.generation import generate
from captioner.decoding.hypotheses import SpecialTokens
from captioner.models.decoder import TransformerDecoder
from captioner.settings import DecoderSettings, DecodingSettings

PAD, START, END, UNKNOWN = range(4)
SPECIAL = SpecialTokens(start=START, end=END, pad=PAD, unknown=UNKNOWN)
IMAGES = 3


@dataclass(frozen=True)
class Trial:
    decoder: TransformerDecoder
    memory: torch.Tensor
    settings: DecodingSettings


def draw_trial(seed, *, beams):
    chance = random.Random(f"{seed} {beams}")
    torch.manual_seed(chance.randrange(2**31))
    heads = chance.choice([1, 2, 4])
    shape = DecoderSettings(
        width=8 * heads,
        layers=chance.choice([1, 2]),
        heads=heads,
        feedforward=2,
        dropout=0.0,
        max_length=10,
        positions=chance.choice(["learned", "rotary"]),
        tie_embeddings=chance.random() < 0.5,
    )
    decoder = TransformerDecoder(shape, vocabulary_size=chance.choice([20, 64, 150])).eval()
    for parameter in decoder.parameters():  # far from even probabilities
        torch.nn.init.normal_(parameter, std=0.5)
    decoder.norm.reset_parameters()
    settings = DecodingSettings(
        precision="fp32",
        beams=beams,
        length_penalty=chance.choice([0.6, 0.8, 1.0, 1.2, 1.4]),
        max_length=chance.randint(3, 10),
        min_length=chance.choice([0, 0, 1, 2]),
        no_repeat_ngram=chance.choice([0, 1, 2, 3]),
    )
    return Trial(decoder, torch.randn(IMAGES, chance.randint(1, 6), shape.width), settings)


def greedy_scores(model, trial):
    """What ``generate()`` does not say of greedy captions: their scores, from the logits that it chose by [images]."""
    config = generation_config(trial.settings, SPECIAL, captions=1, use_cache=True)
    config.output_logits = True
    start = torch.full((IMAGES, 1), START)
    with torch.inference_mode():
        found = model.generate(memory=trial.memory, input_ids=start, generation_config=config)
    tokens = found.sequences[:, 1:]
    chosen = torch.stack(found.logits, dim=1).log_softmax(dim=-1).gather(2, tokens[:, :, None])[:, :, 0]
    ended = (tokens == END).long()
    said = (ended.cumsum(dim=1) - ended) == 0  # also the end token itself
    return (chosen * said).sum(dim=1) / said.sum(dim=1) ** trial.settings.length_penalty


def is_tie(first, second):
    """Whether two lists of captions of an image differ only in captions of the same score."""
    return [round(score, 4) for _, score in first] == [round(score, 4) for _, score in second]


@pytest.mark.parametrize("beams", range(1, 9))
def test_captions_and_scores_are_those_of_generate(beams):
    """25 random decoders for each width, 200 in all; differences that are ties are allowed, and none is there."""
    ties = 0
    for seed in range(25):
        trial = draw_trial(seed, beams=beams)
        settings = trial.settings
        found = generate(trial.decoder, trial.memory, settings, SPECIAL)
        model = DecoderBehindGenerate(trial.decoder)
        expected, scores = generate_with_transformers(model, trial.memory, settings, SPECIAL, captions=beams)
        scores = greedy_scores(model, trial) if scores is None else scores
        for image, hypotheses in enumerate(found):
            captions = [list(one.tokens) for one in hypotheses]
            ours = [(tokens, one.score) for tokens, one in zip(captions, hypotheses, strict=True)]
            theirs = list(zip(expected[image], scores.view(IMAGES, beams)[image].tolist(), strict=True))
            theirs = [(tokens, score) for tokens, score in theirs if score > -1e8]  # its mark for none
            assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-4), seed
            if captions != [tokens for tokens, _ in theirs]:
                assert is_tie(ours, theirs), (seed, settings)
                ties += 1
    assert ties == 0


def test_the_adapter_with_its_cache_gives_what_it_gives_without():
    trial = draw_trial(3, beams=4)
    model = DecoderBehindGenerate(trial.decoder)
    with_cache, without = (
        generate_with_transformers(model, trial.memory, trial.settings, SPECIAL, captions=4, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert with_cache[0] == without[0]
    torch.testing.assert_close(with_cache[1], without[1], rtol=0, atol=1e-5)
