"""From image tokens to captions: the decoder's steps over slots, which images take and leave one by one.

Beam search keeps, for every image, the ``beams`` likeliest unfinished captions and the ``beams`` best finished ones,
scored by their log-probability divided by length to the power of the length penalty (Wu et al. 2016,
https://arxiv.org/abs/1609.08144, section 7, in the form of transformers' ``generate``). An image whose captions are
finished leaves its slot at once, and a waiting one takes it.
"""

import bisect
import itertools
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from captioner.decoding.choosing import Choice, choose_chooser
from captioner.decoding.hypotheses import Hypothesis, Phrases, SpecialTokens
from captioner.decoding.rules import Rules
from captioner.decoding.running import RunningCaptions
from captioner.errors import CaptionerError, ConfigError
from captioner.models.decoder import TransformerDecoder
from captioner.models.packed_decoder import PackedDecoder
from captioner.models.packed_weights import choose_precision
from captioner.settings import DecodingSettings


def pack_decoder(decoder: TransformerDecoder, settings: DecodingSettings) -> PackedDecoder:
    """A copy of the decoder in the precision that the settings ask for, to be used for several generations."""
    return PackedDecoder(decoder, precision=choose_precision(settings.precision, decoder.output.weight.device))


def generate(
    decoder: TransformerDecoder | PackedDecoder,
    memory: Tensor,
    settings: DecodingSettings,
    special: SpecialTokens,
    phrases: Phrases | None = None,
) -> list[list[Hypothesis]]:
    """The best captions of every image: at least one and at most as many as there are beams or samples, best first.

    The start, padding and unknown tokens are never generated. ``max_length`` counts the end token, ``min_length`` does
    not, and yields where the other rules leave nothing else to say.

    Args:
        decoder: the decoder, or its packed form, whose precision then holds.
        memory: projected image tokens [images, patches, width].
        settings: how to decode; ``batch_size`` images at a time.
        special: the tokenizer's special tokens.
        phrases: the settings' words as tokens.

    Raises:
        CaptionerError: the decoder's probabilities are not numbers.
        ConfigError: the prefix leaves no room for more.
    """
    found = dict(generate_each(decoder, [memory], settings, special, phrases))
    return [found[image] for image in range(len(memory))]


def generate_each(
    decoder: TransformerDecoder | PackedDecoder,
    memories: Iterable[Tensor],
    settings: DecodingSettings,
    special: SpecialTokens,
    phrases: Phrases | None = None,
) -> Iterator[tuple[int, list[Hypothesis]]]:
    """Yield each image's number and captions as soon as it has them; arguments and errors are those of ``generate``.

    The ``memories`` are parts of one long sequence of images; a part is asked for when a slot is free for its first.
    """
    packed = pack_decoder(decoder, settings) if isinstance(decoder, TransformerDecoder) else decoder
    generation = Generation(packed, memories, settings, special, phrases or Phrases())
    while generation.images:
        yield from generation.step()


def stream_tokens(
    decoder: PackedDecoder,
    memories: Iterable[Tensor],
    settings: DecodingSettings,
    special: SpecialTokens,
    phrases: Phrases,
) -> Iterator[list[int]]:
    """Yield the tokens of one image's caption as it grows; arguments and errors are those of ``generate_each``.

    Each time all tokens are yielded that are sure to stay, which are those that all beams share; at last all of them.
    """
    generation = Generation(decoder, memories, settings, special, phrases)
    shown: list[int] = []
    while generation.images:
        found = generation.step()
        tokens = list(found[0][1][0].tokens) if found else generation.settled()
        if len(tokens) > len(shown):
            shown = tokens
            yield shown


class Generation:
    """Captions of a sequence of images in the making."""

    def __init__(
        self,
        decoder: PackedDecoder,
        memories: Iterable[Tensor],
        settings: DecodingSettings,
        special: SpecialTokens,
        phrases: Phrases,
    ) -> None:
        """Put the first images into slots."""
        if len(phrases.prefix) >= settings.max_length:
            raise ConfigError(
                f"decoding.prefix has {len(phrases.prefix)} tokens, which leaves nothing of "
                f"decoding.max_length={settings.max_length}; shorten it or raise the length"
            )
        self._decoder, self._settings, self._special = decoder, settings, special
        self._rules = Rules(settings, special, phrases, decoder.device)
        self._forced = len(phrases.prefix)
        self._chooser = choose_chooser(settings, special.end, decoder.device)
        self._memories = iter(memories)
        self._waiting: list[Tensor] = []  # one image each
        self._seen = 0
        self.images: list[int] = []
        """Number of the image in every slot in use."""
        self._lengths: list[int] = []
        self._finished: list[list[list[Hypothesis]]] = []  # for every slot and group, best first
        first = self._take(settings.batch_size)
        if first:
            beams, length = self._chooser.beams, settings.max_length
            self._cache = decoder.open(slots=len(first), patches=len(first[0]), beams=beams, max_length=length)
            self._captions = RunningCaptions(len(first), beams, length, decoder.device)
            self._begin(first, list(range(len(first))))

    @torch.inference_mode()
    def step(self) -> list[tuple[int, list[Hypothesis]]]:
        """Write one more token of every caption; returns the images that are now finished, with their captions."""
        used, captions, settings = len(self.images), self._captions, self._settings
        newest, lengths = captions.newest[:used], captions.lengths[:used]
        shortest, longest = min(self._lengths), max(self._lengths)
        logits = self._decoder.step(newest, lengths, self._cache, shortest=shortest, longest=longest)
        values = logits.float().log_softmax(dim=-1)
        if not all(map(math.isfinite, values[:, self._special.end].tolist())):  # one bad logit spoils its whole row
            raise CaptionerError(
                "the model's probabilities are not finite: its weights are damaged or its training diverged; "
                "use another checkpoint, or train again with a lower --optim.lr"
            )
        self._rules.apply(values, captions.tokens[:used, :, :longest], lengths, shortest=shortest)
        choice = self._chooser.choose(values.view(*newest.shape, -1), captions, lengths + 1 == settings.max_length)
        self._collect_ended(choice)
        captions.extend(choice.origins, choice.tokens, choice.values, choice.scores)
        self._cache.follow(choice.origins)
        self._lengths = [length + 1 for length in self._lengths]
        scores = captions.scores[:used].tolist()
        return self._release([slot for slot in range(used) if self._is_done(slot, scores[slot])])

    def settled(self) -> list[int]:
        """The tokens that all captions of the first slot, finished ones and others, begin with."""
        running = self._captions.scores[0].isfinite()
        captions = self._captions.tokens[0, running, : self._lengths[0]].tolist()
        captions += [list(one.tokens) for group in self._finished[0] for one in group]
        columns = zip(*captions, strict=False)  # as long as the shortest
        return [column[0] for column in itertools.takewhile(lambda column: len(set(column)) == 1, columns)]

    def _take(self, count: int) -> list[Tensor]:
        """The next images, at most ``count``."""
        while len(self._waiting) < count:
            memory = next(self._memories, None)
            if memory is None:
                break
            self._waiting += memory.unbind()
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    @torch.inference_mode()
    def _begin(self, memory: list[Tensor], slots: list[int]) -> None:
        """Put new images into slots."""
        self._cache.fill(slots, *self._decoder.remember(torch.stack(memory)))
        self._captions.begin(slots, start=self._special.start, spacing=self._chooser.spacing)
        for slot in slots:
            self.images[slot : slot + 1] = [self._seen]
            self._lengths[slot : slot + 1] = [0]
            self._finished[slot : slot + 1] = [[[] for _ in range(self._chooser.groups)]]
            self._seen += 1

    def _collect_ended(self, choice: Choice) -> None:
        if not len(choice.ended):
            return
        slots, _, beams = choice.ended.t()
        tokens, values = self._captions.tokens[slots, beams].tolist(), self._captions.values[slots, beams].tolist()
        rows = zip(choice.ended.tolist(), tokens, values, choice.end_values.tolist(), strict=True)
        for (slot, group, _), ids, earlier, value in rows:
            length = self._lengths[slot]
            found = Hypothesis.of(
                ids[:length], [*earlier[:length], value], self._settings, truncated=False, forced=self._forced
            )
            self._keep(slot, group, found)

    def _keep(self, slot: int, group: int, found: Hypothesis) -> None:
        """Add a finished caption to its group, if it is among the best."""
        best = self._finished[slot][group]
        bisect.insort(best, found, key=lambda one: -one.score)
        del best[self._width :]

    @property
    def _width(self) -> int:
        """Beams of a group."""
        return self._chooser.beams // self._chooser.groups

    def _is_done(self, slot: int, scores: list[float]) -> bool:
        """Whether an image needs no further step: all its finished captions beat the best running one as it stands.

        A rule of thumb, transformers' ``early_stopping=False``: with a length penalty, a running caption could still
        catch up by likely tokens. To be sure took a third more time on Flickr8k, for the same CIDEr-D.
        """
        length = self._lengths[slot]
        if length == self._settings.max_length:
            self._collect_truncated(slot, scores)
            return True
        for group, best in enumerate(self._finished[slot]):
            hope = max(scores[group * self._width : (group + 1) * self._width])
            full = len(best) == self._width
            if hope > -math.inf and not (full and best[-1].score >= hope / length**self._settings.length_penalty):
                return False
        return True

    def _collect_truncated(self, slot: int, scores: list[float]) -> None:
        tokens, values = self._captions.tokens[slot].tolist(), self._captions.values[slot].tolist()
        for beam, score in enumerate(scores):
            if score > -math.inf:
                found = Hypothesis.of(tokens[beam], values[beam], self._settings, truncated=True, forced=self._forced)
                self._keep(slot, beam // self._width, found)

    def _best(self, slot: int) -> list[Hypothesis]:
        """The finished captions of all groups, best first; one that several groups found is there once."""
        found = sorted(itertools.chain(*self._finished[slot]), key=lambda one: -one.score)
        if self._chooser.groups == 1:  # where the same caption is there twice, it was drawn twice
            return found
        places = {one.tokens: place for place, one in reversed(list(enumerate(found)))}
        return [found[place] for place in sorted(places.values())]

    def _release(self, done: list[int]) -> list[tuple[int, list[Hypothesis]]]:
        """Free the slots of finished images, for waiting ones or for those at the end; returns what was found."""
        if not done:
            return []
        found = [(self.images[slot], self._best(slot)) for slot in done]
        new = self._take(len(done))
        if new:
            self._begin(new, done[: len(new)])
        holes = done[len(new) :]
        kept = len(self.images) - len(holes)
        sources = [slot for slot in range(kept, len(self.images)) if slot not in holes]
        targets = [slot for slot in holes if slot < kept]
        if sources:
            self._cache.move(sources, targets)
            self._captions.move(sources, targets)
        for column in (self.images, self._lengths, self._finished):
            for source, target in zip(sources, targets, strict=True):
                column[target] = column[source]
            del column[kept:]
        return found
