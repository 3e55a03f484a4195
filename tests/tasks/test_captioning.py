import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from captioner.data.batches import CaptionBatches
from captioner.data.tokenizer import CaptionTokenizer
from captioner.models.captioner import CaptionerModel
from captioner.models.decoder import TransformerDecoder
from captioner.models.projections import build_projection
from captioner.settings import (
    DecoderSettings,
    DecodingSettings,
    OptimSettings,
    ScheduleSettings,
    Settings,
    TaskSettings,
    TokenizerSettings,
    TrainerSettings,
)
from captioner.tasks.base import Examples, Monitor
from captioner.tasks.captioning import CaptioningTask
from captioner.training.device import build_accelerator
from captioner.training.loop import fit
from captioner.training.tracking import Trackers

CAPTIONS = [
    *("a red dog runs on grass", "two cats sleep near a fire", "a man rides his bike downhill"),
    *("children play in the snow", "a boat lies at anchor", "an old woman sells fruit"),
    *("a girl jumps into the pool", "nobody sits on the bench"),
]
PATCHES, WIDTH = 3, 8


@dataclass
class Parts:
    tokenizer: CaptionTokenizer
    features: Tensor
    """[images, patches, width]"""

    def batches(self, **options) -> CaptionBatches:
        tokens = [[self.tokenizer.encode(caption)] for caption in CAPTIONS]
        special = {"start": self.tokenizer.start_id, "end": self.tokenizer.end_id, "max_length": 32}
        options = {"batch_images": 4, **options}
        return CaptionBatches(tokens, lambda rows, views: self.features[rows], **special, **options)

    def task(self, *, label_smoothing=0.0, dropout=0.0, image_ids=None, **batches) -> CaptioningTask:
        torch.manual_seed(0)
        projection = build_projection("linear", input_width=WIDTH, output_width=32, dropout=dropout)
        settings = DecoderSettings(width=32, layers=1, heads=2, feedforward=2, dropout=dropout, max_length=32)
        decoder = TransformerDecoder(settings, vocabulary_size=len(self.tokenizer))
        return CaptioningTask(
            CaptionerModel(None, projection, decoder),
            train=self.batches(**batches),
            validation=self.batches(shuffle=False),
            references=[[caption] for caption in CAPTIONS],
            image_ids=image_ids or [f"{row}.jpg" for row in range(len(CAPTIONS))],
            tokenizer=self.tokenizer,
            settings=TaskSettings(label_smoothing=label_smoothing),
            decoding=DecodingSettings(beams=3, max_length=20, no_repeat_ngram=0),
        )


@pytest.fixture(scope="module")
def parts() -> Parts:
    tokenizer = CaptionTokenizer.train(CAPTIONS, TokenizerSettings(vocabulary_size=400))
    generator = torch.Generator().manual_seed(0)
    return Parts(tokenizer, torch.randn(len(CAPTIONS), PATCHES, WIDTH, generator=generator))


def test_overfits_eight_examples(parts, tmp_path):
    task = parts.task()
    settings = Settings(
        optim=OptimSettings(lr=1e-2, weight_decay=0.0),
        schedule=ScheduleSettings(warmup=0.1),
        trainer=TrainerSettings(epochs=50, validate_every=50, precision="fp32", device="cpu", log_every=1000),
    )
    before = task.validate()
    best = []
    fit(
        task,
        settings,
        accelerator=build_accelerator(settings),
        run=tmp_path,
        begin=lambda: Trackers([]),
        on_best=best.append,
    )
    [metrics] = best
    assert before["loss"] > 5
    assert metrics["loss"] < 0.05
    assert before["CIDEr-D"] < 0.1
    assert metrics["CIDEr-D"] == pytest.approx(10.0)  # greedy captions are the references, word for word
    assert metrics["samples"] == [caption.capitalize() for caption in CAPTIONS[:4]]


def test_loss_is_the_mean_over_all_tokens_of_the_batch(parts):
    task = parts.task()
    batch = next(task.batches(0))
    output = task.loss(batch)
    losses: list[float] = []
    for row, image in enumerate(batch.rows):  # one image, one caption at a time, without padding
        tokens = parts.tokenizer.encode(CAPTIONS[image])
        memory = task.module.remember(batch.images[row : row + 1])
        logits = task.module.decoder(torch.tensor([[parts.tokenizer.start_id, *tokens]]), memory)
        targets = torch.tensor([*tokens, parts.tokenizer.end_id])
        losses += nn.functional.cross_entropy(logits[0], targets, reduction="none").tolist()
    assert output.report == {"pairs": 4, "tokens": len(losses), "padding": batch.targets.numel() - len(losses)}
    assert output.loss.item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_an_image_with_all_its_captions_gives_the_gradients_of_its_pairs(parts):
    captions = [[parts.tokenizer.encode(CAPTIONS[(image + k) % 8]) for k in range(5)] for image in range(4)]
    special = {"start": parts.tokenizer.start_id, "end": parts.tokenizer.end_id, "max_length": 32}
    gradients, rows = [], []
    for captions_per_row, batch_images in ((0, 4), (1, 20)):
        task = parts.task(label_smoothing=0.1)
        torch.manual_seed(1)
        task.module.encoder = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())
        batches = CaptionBatches(
            captions,
            lambda rows, views: parts.features[rows],
            batch_images=batch_images,
            captions_per_row=captions_per_row,
            **special,
        )
        [batch] = batches.batches(0)
        assert batch.pairs == 20
        rows.append(len(batch.rows))
        task.loss(batch).loss.backward()
        gradients.append({name: each.grad for name, each in task.module.named_parameters()})
    assert rows == [4, 20]
    assert gradients[0]["encoder.0.weight"].abs().max() > 1e-3
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=1e-6)


def test_label_smoothing_is_for_training_only(parts):
    plain, smooth = parts.task(), parts.task(label_smoothing=0.2)
    batch = next(plain.batches(0))
    assert smooth.loss(batch).loss.item() != plain.loss(batch).loss.item()
    assert smooth.validate()["loss"] == plain.validate()["loss"]


def test_validation_scores_every_image_once_in_order(parts):
    task = parts.task()
    metrics = task.validate()
    assert set(metrics) == {"loss", "perplexity", "CIDEr-D", "samples"}
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    total = tokens = 0.0
    for batch in parts.batches(shuffle=False).batches(0):
        output = task.loss(batch)
        total += float(output.loss.detach()) * output.report["tokens"]
        tokens += output.report["tokens"]
    assert metrics["loss"] == pytest.approx(total / tokens)


def test_validation_draws_nothing_and_keeps_no_graph(parts):
    task = parts.task(dropout=0.5)
    task.module.eval()
    state = torch.get_rng_state()
    first = task.validate()
    assert torch.equal(torch.get_rng_state(), state)
    assert task.validate() == first
    assert all(parameter.grad is None for parameter in task.module.parameters())
    task.module.train()
    task.loss(next(task.batches(0))).loss.backward()  # what validation left in memory does not disturb a gradient


def test_batches_go_on_from_any_place(parts):
    task = parts.task()
    rows = [batch.rows for batch in task.batches(3)]
    assert len(rows) == task.batches_per_epoch() == 2
    assert sorted(row for batch in rows for row in batch) == list(range(8))
    assert [batch.rows for batch in task.batches(3, start=1)] == rows[1:]
    assert list(task.batches(3, start=2)) == []
    assert 0 <= task.padding_share() < 0.5


def test_what_the_reports_tell_of_padding_is_its_share(parts):
    task = parts.task(batch_images=5, length_buckets=False)
    batches = [*task.batches(0)]
    places, padding = sum(batch.targets.numel() for batch in batches), task.padding_share()
    assert padding > 0
    assert sum(task.loss(batch).report["padding"] for batch in batches) / places == pytest.approx(padding)


def test_batch_is_described_by_its_images(parts):
    batch = next(parts.batches(batch_images=3, shuffle=False).batches(0))
    assert parts.task().describe(batch) == Examples("images", ("0.jpg", "1.jpg", "2.jpg"))
    again = replace(batch, rows=(2, 2, 0))  # an image with some of its captions, and with the others
    assert parts.task().describe(again).names == ("2.jpg", "0.jpg")


def test_images_with_a_loss_that_is_not_finite_are_told_apart(parts):
    class Mixing(nn.Module):
        """As normalisation over a batch: one image spoils all."""

        def forward(self, features):
            return features - features.mean(dim=(0, 1))

    task = parts.task(dropout=0.5)
    task.module.projection = nn.Sequential(Mixing(), task.module.projection)
    task.module.train()
    batch = next(parts.batches(batch_images=3, shuffle=False).batches(0))
    batch.images[1, 0, 0] = float("inf")
    assert not task.loss(batch).loss.isfinite()
    assert task.describe(batch) == Examples("images", ("0.jpg", "1.jpg", "2.jpg"), ("1.jpg",))


def test_data_parallel_wrapper_is_passed_for_decoding(parts):
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *arguments, **options):
            return self.module(*arguments, **options)

    task = parts.task()
    expected = task.validate()
    task.module = Wrapper(task.module)
    assert task.validate() == expected
    assert task.loss(next(task.batches(0))).loss.isfinite()


@pytest.mark.parametrize(
    ("direction", "value", "best", "improves"),
    [
        ("max", 0.5, None, True),
        ("max", 0.6, 0.5, True),
        ("max", 0.5, 0.5, False),
        ("max", 0.4, 0.5, False),
        ("min", 0.4, 0.5, True),
        ("min", 0.5, 0.5, False),
        ("min", 0.6, 0.5, False),
        ("max", math.nan, None, False),
        ("min", math.nan, 0.5, False),
    ],
)
def test_monitor(direction, value, best, improves):
    assert Monitor("score", direction).improves(value, best) is improves


def test_captioning_is_monitored_by_cider(parts):
    assert parts.task().monitor == Monitor("CIDEr-D", "max")
