"""What ``benchmarks.training`` compares: this project's training, and transformers' Trainer with the same shapes."""

import contextlib
import io
import itertools
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.training_work import Work, open_work
from benchmarks.turns import Pacer
from captioner.build import build_task, encode_captions, open_features
from captioner.data.batches import IGNORED, CaptionBatch
from captioner.data.encoded_images import EncodedImages
from captioner.data.images import open_image
from captioner.data.tokenizer import CaptionTokenizer
from captioner.models.captioner import build_model
from captioner.resources import TRAIN
from captioner.settings import Settings
from captioner.tasks.captioning import CaptioningTask
from captioner.training.device import build_accelerator
from captioner.training.loop import fit
from captioner.training.tracking import Trackers


def train_captioner(work: Work, trainable: bool, captions_per_row: int, compiled: bool, pacer: Pacer) -> None:
    """This project: ``fit`` on its captioning task.

    Args:
        work: shapes and data.
        trainable: train the encoder too, from pixels; otherwise it is frozen and its features are cached.
        captions_per_row: captions that share one pass of their image, 0 for all; a batch has the same pairs.
        compiled: train with ``trainer.compile``.
        pacer: holds the training between its turns.
    """
    rows = work.batch_pairs // captions_per_row if captions_per_row else work.settings.trainer.batch_images
    settings = replace(
        work.settings,
        encoder=replace(work.settings.encoder, trainable=trainable),
        trainer=replace(work.settings.trainer, batch_images=rows, captions_per_row=captions_per_row, compile=compiled),
    )
    resources = open_work(work, trainable=trainable)
    task = build_task(settings, resources)
    task.module = build_model(
        settings, encoder=resources.encoder, vocabulary_size=work.vocabulary, cached=not trainable
    )
    batches = task.batches

    def paced(epoch: int, *, start: int = 0) -> Iterator[CaptionBatch]:
        for number in itertools.count(epoch):
            for batch in batches(number):
                pairs, tokens = batch.pairs, int((batch.targets != IGNORED).sum())
                yield batch
                pacer.step_done(pairs=pairs, tokens=tokens)  # the next batch is asked for when the step is done

    task.batches = paced
    run_fit(task, settings, pacer)


def run_fit(task: CaptioningTask, settings: Settings, pacer: Pacer) -> None:
    """Train a task, whose batches tell the pacer of their steps, until the turns are over."""
    accelerator = build_accelerator(settings)
    pacer.begin()
    with tempfile.TemporaryDirectory() as run, contextlib.redirect_stderr(io.StringIO()):
        fit(
            task,
            settings,
            accelerator=accelerator,
            run=Path(run),
            begin=lambda: Trackers([]),
            on_best=lambda metrics: None,
        )


def train_peer(work: Work, trainable: bool, cached: bool, pacer: Pacer) -> None:
    """transformers' VisionEncoderDecoderModel with GPT-2's blocks under Seq2SeqTrainer.

    Args:
        work: shapes and data.
        trainable: train the encoder too, as it comes by default.
        cached: give cached features as ``encoder_outputs`` instead of pixels.
        pacer: holds the training between its turns.
    """
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments

    resources, trainer = open_work(work), work.settings.trainer
    if cached:
        cache = open_features(work.settings, resources, (TRAIN,))
        read = lambda row: cache.get(TRAIN, [row])[0].float()  # noqa: E731
    else:
        images = EncodedImages(resources.dataset[TRAIN])
        read = lambda row: resources.processor([open_image(images[row])])[0]  # noqa: E731
    model = build_peer(work, resources.tokenizer)
    model.encoder.requires_grad_(trainable)
    turns = _Turns(pacer, "encoder_outputs" if cached else "pixel_values")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=work.batch_pairs,
            num_train_epochs=trainer.epochs,
            bf16=trainer.precision == "bf16",
            use_cpu=trainer.device == "cpu",
            dataloader_pin_memory=torch.cuda.is_available() and trainer.device != "cpu",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        pairs = _Pairs.of(work, resources.tokenizer, resources.dataset[TRAIN]["captions"], read)
        peer = Seq2SeqTrainer(
            model, arguments, train_dataset=pairs, data_collator=turns.collate, callbacks=[turns.callback()]
        )
        pacer.begin()
        peer.train()


def build_peer(work: Work, tokenizer: CaptionTokenizer) -> torch.nn.Module:
    """The encoder, a linear projection and GPT-2's blocks in the shapes of this project's decoder.

    What costs GPT-2 time and the project does not do is off: dropout of attention weights, the cache of ``generate()``.
    """
    from transformers import AutoConfig, VisionEncoderDecoderConfig, VisionEncoderDecoderModel

    from benchmarks.gpt2_peer import as_gpt2

    shape = work.settings.decoder
    text = as_gpt2(
        shape,
        work.vocabulary,
        resid_pdrop=shape.dropout,
        embd_pdrop=shape.dropout,
        attn_pdrop=0.0,
        use_cache=False,
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=tokenizer.start_id,
        eos_token_id=tokenizer.end_id,
        pad_token_id=tokenizer.pad_id,
    )
    vision = AutoConfig.for_model(**json.loads(work.settings.encoder.config))
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    config.decoder_start_token_id, config.pad_token_id = tokenizer.start_id, tokenizer.pad_id
    return VisionEncoderDecoderModel(config)


@dataclass(frozen=True)
class _Pairs(torch.utils.data.Dataset):
    """Every image-caption pair by itself, as the Trainer is given them."""

    pairs: Sequence[tuple[int, list[int]]]
    """The image's row, and the caption's tokens with the end token."""
    read: Callable[[int], Tensor]

    @classmethod
    def of(cls, work: Work, tokenizer: CaptionTokenizer, captions: Any, read: Callable[[int], Tensor]) -> "_Pairs":
        encoded = enumerate(encode_captions(tokenizer, captions))
        longest = work.settings.decoder.max_length
        return cls([(row, [*text, tokenizer.end_id][:longest]) for row, image in encoded for text in image], read)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        row, tokens = self.pairs[number]
        return self.read(row), torch.tensor(tokens)


class _Turns:
    """Batches for the Trainer, padded to their longest caption, and a callback that holds it between its turns."""

    def __init__(self, pacer: Pacer, images: str) -> None:
        self._pacer, self._images = pacer, images
        self._counts: deque[tuple[int, int]] = deque()  # pairs and tokens of the batches that wait

    def collate(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
        images = torch.stack([image for image, _ in pairs])
        labels = torch.nn.utils.rnn.pad_sequence([text for _, text in pairs], batch_first=True, padding_value=IGNORED)
        self._counts.append((len(pairs), int((labels != IGNORED).sum())))
        return {self._images: (images,) if self._images == "encoder_outputs" else images, "labels": labels}

    def callback(self) -> Any:
        from transformers import TrainerCallback

        turns = self

        class StepDone(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                pairs, tokens = turns._counts.popleft()
                turns._pacer.step_done(pairs=pairs, tokens=tokens)

        return StepDone()


SYSTEMS: dict[str, tuple[str, Callable[..., None], tuple[Any, ...]]] = {
    "cached": ("captioner, cached features", train_captioner, (False, 0, False)),
    "compiled": ("  the same, compiled", train_captioner, (False, 0, True)),
    "peer-pixels": ("VisionEncoderDecoder, pixels", train_peer, (True, False)),
    "peer-frozen": ("  the same, encoder frozen", train_peer, (False, False)),
    "peer-cached": ("  the same, cached features", train_peer, (False, True)),
    "image-once": ("captioner, encoder trained", train_captioner, (True, 0, False)),
    "per-pair": ("  the same, image a caption", train_captioner, (True, 1, False)),
}
"""By its name on the command line: its name in the table, what trains it, and with which arguments beside the work."""
