from dataclasses import asdict, replace

import pytest
from huggingface_hub import ModelCard

from captioner.decoding.describe import describe_decoding
from captioner.model_card import model_card
from captioner.settings import (
    DataSettings,
    DecoderSettings,
    DecodingSettings,
    EncoderSettings,
    HubSettings,
    OptimSettings,
    ProjectionSettings,
    ScheduleSettings,
    Settings,
    TaskSettings,
    TrainerSettings,
)

SETTINGS = Settings(
    data=DataSettings(name="flickr8k"),
    encoder=EncoderSettings(name="google/mobilenet_v2_1.0_224", revision="c0ffee"),
    projection=ProjectionSettings(kind="residual_mlp"),
    decoder=DecoderSettings(width=384, layers=5, heads=6),
    task=TaskSettings(label_smoothing=0.07),
    optim=OptimSettings(lr=4.5e-4),
    schedule=ScheduleSettings(kind="linear"),
    trainer=TrainerSettings(run="first-try", epochs=13, batch_images=24, gradient_accumulation=2, seed=11),
    hub=HubSettings(repo_id="me/first-try"),
)
BEAM = DecodingSettings(beams=4, length_penalty=0.65, max_length=21, no_repeat_ngram=3)
METRICS = {
    "validation_at_best": {"step": 1234, "epoch": 9, "loss": 2.5, "CIDEr-D": 0.4321, "samples": ["A dog"]},
    "test": {
        "metrics": {"BLEU-4": 0.2034, "CIDEr-D": 0.51239},
        "images": 1000,
        "references": 5000,
        "decoding": asdict(BEAM),
        "unavailable": {"METEOR": "Java was not found"},
    },
}


DIVERSE = {"distinct-1": 0.125, "vocabulary": 1278, "novel_captions": 0.75, "length": 9.5}


def make_card(settings=SETTINGS, metrics=METRICS):
    return model_card(settings, metrics, parameters=12_345_678, vocabulary_size=3000)


def in_one_line(card):
    return " ".join(card.text.split())


def test_the_card_says_what_the_model_is_and_how_it_was_trained():
    text = in_one_line(make_card())
    for fact in (
        "# first-try: an image captioner",
        "`google/mobilenet_v2_1.0_224` gives image tokens",
        "a residual mlp projection brings them to width 384",
        "a Transformer decoder of 5 layers with 6 heads",
        "It has 12.3 million parameters and a vocabulary of 3,000 byte-pair tokens.",
        "Trained on the training split of `flickr8k`",
        "13 epochs, label smoothing 0.07, AdamW, peak learning rate 0.00045, linear schedule,",
        "48 images a step, seed 11.",
        "The encoder was frozen.",
        "This is the checkpoint after epoch 9 (step 1,234), chosen by CIDEr-D on the validation split: 0.432 with",
        'Captioner.from_pretrained("me/first-try")',
    ):
        assert fact in text


def test_other_settings_make_another_card():
    settings = replace(
        SETTINGS,
        encoder=EncoderSettings(config='{"model_type": "vit"}', trainable=True),
        trainer=TrainerSettings(max_steps=500),
        hub=HubSettings(),
    )
    card = make_card(settings, {})
    text = in_one_line(card)
    for fact in (
        "# flickr8k: an image captioner",
        "an encoder trained from scratch gives image tokens",
        "at most 500 steps,",
        "The encoder was trained too.",
        'from_pretrained("path/to/this/folder")',
        "Not evaluated yet: run `captioner evaluate`.",
    ):
        assert fact in text
    assert "chosen by" not in text
    assert card.data.base_model is None
    assert card.data.eval_results is None


def test_the_metrics_stand_in_a_table_with_how_the_captions_were_decoded():
    lines = make_card().text.splitlines()
    table = lines.index("| split | images | BLEU-4 | CIDEr-D |")
    assert lines[table + 1 : table + 3] == ["| --- | --- | --- | --- |", "| test | 1000 | 0.203 | 0.512 |"]
    assert "Decoding: beam search, 4 beams, length penalty 0.65, 1 to 21 tokens, no repeated 3-grams." in lines[table:]


def test_how_varied_the_captions_are_has_a_table_of_its_own():
    test = {**METRICS["test"], "metrics": {**METRICS["test"]["metrics"], **DIVERSE}}
    card = make_card(metrics={"test": test})
    assert "| split | images | BLEU-4 | CIDEr-D |\n" in card.text
    assert "| split | images | distinct-1 | vocabulary | novel_captions | length |\n" in card.text
    assert "| test | 1000 | 0.125 | 1,278 | 0.750 | 9.500 |\n" in card.text
    assert {"vocabulary": 1278}.items() <= {one.metric_name: one.metric_value for one in card.data.eval_results}.items()


def test_a_score_stands_with_its_interval_and_its_images():
    test = {
        **METRICS["test"],
        "confidence_intervals": {"CIDEr-D": [0.48123, 0.54567]},
        "set": "1,000 images, Karpathy test",
    }
    card = make_card(metrics={"test": test})
    assert "| test | 1000 | 0.203 | 0.512 [0.481, 0.546] |" in card.text
    bleu, cider = card.data.eval_results
    assert (bleu.metric_args, cider.metric_args) == (None, {"confidence_interval_95": [0.4812, 0.5457]})
    assert cider.dataset_args == {"images": "1,000 images, Karpathy test"}


def test_splits_with_other_metrics_and_decoding_each_say_so():
    unseen = {"metrics": {"scene_accuracy": 0.9}, "images": 50, "decoding": asdict(replace(BEAM, beams=1))}
    text = make_card(metrics={**METRICS, "test_unseen": unseen}).text
    assert "| split | images | BLEU-4 | CIDEr-D | scene_accuracy |" in text
    assert "| test | 1000 | 0.203 | 0.512 |  |" in text
    assert "| test_unseen | 50 |  |  | 0.900 |" in text
    assert "Decoding of test: beam search, 4 beams," in text
    assert "Decoding of test_unseen: greedy," in text


def test_the_hub_reads_the_card(tmp_path):
    make_card().save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.library_name == "captioner"
    assert data.pipeline_tag == "image-to-text"
    assert data.base_model == "google/mobilenet_v2_1.0_224"
    assert data.model_name == "first-try"
    results = [(one.dataset_name, one.dataset_split, one.metric_name, one.metric_value) for one in data.eval_results]
    assert results == [("flickr8k", "test", "BLEU-4", 0.2034), ("flickr8k", "test", "CIDEr-D", 0.5124)]


@pytest.mark.parametrize(
    ("decoding", "text"),
    [
        (BEAM, "beam search, 4 beams, length penalty 0.65, 1 to 21 tokens, no repeated 3-grams"),
        (
            DecodingSettings(beams=1, length_penalty=1.0, min_length=5, max_length=20, no_repeat_ngram=0),
            "greedy, 5 to 20 tokens",
        ),
        (
            DecodingSettings(beams=6, beam_groups=3, diversity=0.8, length_penalty=1.0, precision="int8"),
            "diverse beam search, 6 beams in 3 groups, diversity 0.8, length penalty 1, 1 to 30 tokens, "
            "no repeated 3-grams, int8",
        ),
        (
            DecodingSettings(samples=1, temperature=0.7, no_repeat_ngram=0, prefix="a photo of", banned_words="cat"),
            'one sample, temperature 0.7, seed 0, 1 to 30 tokens, prefix "a photo of", without "cat"',
        ),
        (
            DecodingSettings(samples=4, top_k=20, top_p=0.9, seed=3, repetition_penalty=1.2, bad_endings="a,with"),
            "the best of 4 samples, top-k 20, top-p 0.9, seed 3, length penalty 0.7, 1 to 30 tokens, "
            'no repeated 3-grams, repetition penalty 1.2, not ending with "a,with"',
        ),
    ],
)
def test_decoding_in_one_line(decoding, text):
    assert describe_decoding(decoding) == text
