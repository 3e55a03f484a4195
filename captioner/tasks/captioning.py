"""Captioning: cross-entropy on every image-caption pair; validation by loss and CIDEr-D of greedy captions."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.tensor import DTensor

from captioner.data.batches import IGNORED, CaptionBatch, CaptionBatches
from captioner.data.device_batches import on_device
from captioner.data.streaming import StreamBatches
from captioner.data.tokenizer import CaptionTokenizer
from captioner.decoding.generation import generate, pack_decoder
from captioner.decoding.hypotheses import SpecialTokens
from captioner.evaluation.cider import CiderReferences
from captioner.losses import caption_cross_entropy
from captioner.settings import DecodingSettings, TaskSettings
from captioner.tasks.base import Examples, Monitor, StepOutput

SAMPLES = 4


class CaptioningTask:
    """Trains a CaptionerModel; see ``captioner.tasks.base.Task``."""

    def __init__(
        self,
        module: nn.Module,
        *,
        train: CaptionBatches | StreamBatches,
        validation: CaptionBatches,
        references: Sequence[Sequence[str]],
        image_ids: Sequence[str] | None,
        tokenizer: CaptionTokenizer,
        settings: TaskSettings,
        decoding: DecodingSettings,
    ) -> None:
        """A task over prepared batches.

        Args:
            module: the network.
            train: batches of the training split.
            validation: batches of the validation split, in its order.
            references: the validation captions of every image.
            image_ids: names of the training images by row, for messages; None where batches name them themselves.
            tokenizer: for turning tokens into text.
            settings: label smoothing.
            decoding: how captions are generated; validation decodes greedily, which ranks models alike and costs less.
        """
        self.module, self.settings = module, settings
        self.monitor = Monitor("CIDEr-D", "max")
        self.split_by_process = train.split_by_process
        self._train, self._validation = train, validation
        self._references, self._image_ids, self._tokenizer = CiderReferences(references), image_ids, tokenizer
        self._special = SpecialTokens.of(tokenizer)
        self._decoding = replace(decoding, beams=1)

    @property
    def _device(self) -> torch.device:
        return next(self.module.parameters()).device

    def batches_per_epoch(self) -> int:
        return len(self._train)

    def describe_data(self) -> str:
        """How much there is to train on, in words."""
        return self._train.describe()

    def padding_share(self) -> float:
        """Share of the first epoch's token places that hold padding."""
        return self._train.padding_share(0)

    def batches(self, epoch: int, *, start: int = 0) -> Iterator[CaptionBatch]:
        return on_device(self._train.batches(epoch, start=start), self._device)

    def place(self) -> dict[str, Any]:
        return self._train.place()

    def go_to(self, place: Mapping[str, Any]) -> None:
        self._train.go_to(place)

    def loss(self, batch: CaptionBatch) -> StepOutput:
        batch = batch.to(self._device)
        tokens = int((batch.targets != IGNORED).sum())
        padding = batch.targets.numel() - tokens
        loss = self.module(
            batch.images,
            batch.tokens,
            positions=batch.positions,
            segments=batch.segments,
            targets=batch.targets,
            label_smoothing=self.settings.label_smoothing,
        )
        return StepOutput(loss, {"pairs": batch.pairs, "tokens": tokens, "padding": padding}, weight=tokens)

    @torch.no_grad()
    def describe(self, batch: CaptionBatch) -> Examples:
        """The batch's images; one at a time, because normalisation over a batch spreads what is not finite."""
        names = [self._image_ids[row] for row in batch.rows] if self._image_ids else batch.rows
        module = getattr(self.module, "module", self.module)
        faulty = []
        if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):  # it needs all processes
            wrapped, self.module = self.module, module
            losses = [float(self.loss(batch.alone(place)).loss) for place in range(len(names))]
            self.module = wrapped
            faulty = [name for name, loss in zip(names, losses, strict=True) if not math.isfinite(loss)]
        return Examples("images", tuple(dict.fromkeys(names)), tuple(dict.fromkeys(faulty)))

    @torch.inference_mode()
    def validate(self) -> dict[str, Any]:
        """Loss without smoothing, perplexity, CIDEr-D of greedy captions, and a few samples.

        The processes share the images out, and every one of them returns the figures of all.
        """
        model = getattr(self.module, "module", self.module)  # decoding goes past the data-parallel wrapper
        total, tokens, found = 0.0, 0, []
        decoder = pack_decoder(model.decoder, self._decoding)
        for batch in self._validation.batches(0):
            batch = batch.to(self._device)
            count = int((batch.targets != IGNORED).sum())
            if not count:  # the last images do not reach this process
                continue
            memory = model.remember(batch.images)
            states = model.decoder.states(batch.tokens, memory, positions=batch.positions, segments=batch.segments)
            total += float(caption_cross_entropy(states, model.decoder.output.weight, batch.targets)) * count
            tokens += count
            with torch.autocast(self._device.type, enabled=False):  # decoding has a precision of its own
                hypotheses = generate(decoder, memory, self._decoding, self._special)
            found += [
                (row, self._tokenizer.decode(best[0].tokens)) for row, best in zip(batch.rows, hypotheses, strict=True)
            ]
        shares = gather_object([(total, tokens, found)])
        loss = sum(total for total, _, _ in shares) / sum(tokens for _, tokens, _ in shares)
        captions = [caption for _, caption in sorted(chain.from_iterable(found for *_, found in shares))]
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 50.0)),
            "CIDEr-D": float(self._references.score(captions).mean()),
            "samples": captions[:SAMPLES],
        }
