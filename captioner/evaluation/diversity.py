"""How varied captions are among themselves, and how many are new."""

from collections.abc import Iterable, Sequence
from itertools import islice

from captioner.evaluation import ptb

ORDERS = (1, 2)
NOVELTY = "novel_captions"
NAMES = (*(f"distinct-{order}" for order in ORDERS), "vocabulary", "unique_captions", NOVELTY)
CAPTIONS_A_BLOCK = 10_000
"""Training captions that are in memory at once."""


def score(captions: Sequence[str], *, training: Iterable[str] | None = None) -> dict[str, float]:
    """Return how varied tokenized captions are.

    distinct-1 and distinct-2 are the shares of different words and bigrams among all (Li et al., 2016,
    https://arxiv.org/abs/1510.03055), vocabulary is the number of different words, unique_captions the share of
    different captions, and novel_captions the share of captions that no training caption equals.

    Args:
        captions: tokenized captions.
        training: the untokenized captions that the captioner learnt from, read once; without them there is no
            novel_captions.

    vocabulary is a whole number.
    """
    texts = [caption.split() for caption in captions]
    scores: dict[str, float] = {f"distinct-{order}": _distinct(texts, order) for order in ORDERS}
    scores["vocabulary"] = len({word for words in texts for word in words})
    scores["unique_captions"] = len(set(captions)) / len(captions)
    if training is not None:
        known = _learnt(set(captions), training)
        scores[NOVELTY] = sum(caption not in known for caption in captions) / len(captions)
    return scores


def _distinct(texts: Sequence[Sequence[str]], order: int) -> float:
    ngrams = [tuple(words[start : start + order]) for words in texts for start in range(len(words) - order + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def _learnt(captions: set[str], training: Iterable[str]) -> set[str]:
    """Those of the tokenized captions that are among the untokenized training captions."""
    found: set[str] = set()
    training = iter(training)
    while block := list(islice(training, CAPTIONS_A_BLOCK)):
        found |= captions.intersection(ptb.tokenize(block))
    return found
