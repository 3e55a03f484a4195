"""Captions as tokens: what decoding is told of the vocabulary, and what it finds."""

from dataclasses import dataclass

from captioner.data.tokenizer import CaptionTokenizer
from captioner.errors import ConfigError
from captioner.settings import DecodingSettings


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that are never part of a caption's text."""

    start: int
    end: int
    pad: int
    unknown: int | None = None
    """None where the tokenizer has none."""

    @classmethod
    def of(cls, tokenizer: CaptionTokenizer) -> "SpecialTokens":
        """A tokenizer's special tokens."""
        return cls(tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.unknown_id)

    @property
    def never_generated(self) -> list[int]:
        """All but the end token."""
        return [token for token in (self.start, self.pad, self.unknown) if token is not None]


@dataclass(frozen=True)
class Phrases:
    """The words in decoding settings, as token ids."""

    prefix: tuple[int, ...] = ()
    """What every caption begins with."""
    banned: tuple[tuple[int, ...], ...] = ()
    """What occurs in no caption."""
    bad_endings: tuple[tuple[int, ...], ...] = ()
    """What no caption ends with."""

    @classmethod
    def of(cls, settings: DecodingSettings, tokenizer: CaptionTokenizer) -> "Phrases":
        """Encode the words of the settings; those that are empty for the tokenizer are left out.

        Raises ConfigError where the prefix has what is banned.
        """
        prefix, banned = tuple(tokenizer.encode(settings.prefix)), _encode_list(settings.banned_words, tokenizer)
        for phrase in banned:
            if any(prefix[place : place + len(phrase)] == phrase for place in range(len(prefix))):
                raise ConfigError(
                    f"decoding.prefix {settings.prefix!r} has {tokenizer.decode(phrase, capitalise=False)!r}, "
                    "which decoding.banned_words bans; drop one of them"
                )
        return cls(prefix, banned, _encode_list(settings.bad_endings, tokenizer))


def _encode_list(words: str, tokenizer: CaptionTokenizer) -> tuple[tuple[int, ...], ...]:
    encoded = (tuple(tokenizer.encode(word)) for word in words.split(","))
    return tuple(tokens for tokens in encoded if tokens)


@dataclass(frozen=True)
class Hypothesis:
    """One caption as tokens."""

    tokens: tuple[int, ...]
    """Token ids without start and end."""
    log_probabilities: tuple[float, ...]
    """Log-probability of every token, the end token's included; with the repetition penalty, without temperature."""
    score: float
    """Sum of the log-probabilities divided by their number to the power of the length penalty."""
    truncated: bool
    """Whether the caption hit the maximum length before its end."""
    forced: int = 0
    """How many of the first tokens are the prefix's, which the decoder did not choose."""

    @classmethod
    def of(
        cls,
        tokens: list[int],
        log_probabilities: list[float],
        settings: DecodingSettings,
        *,
        truncated: bool,
        forced: int,
    ) -> "Hypothesis":
        """Score a caption; the end token is not among the tokens, its log-probability is the last one."""
        score = sum(log_probabilities) / len(log_probabilities) ** settings.length_penalty
        return cls(tuple(tokens), tuple(log_probabilities), score, truncated, forced)
