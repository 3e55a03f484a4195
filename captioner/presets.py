"""The shipped presets: a name -> one Settings value, each with the reason for its numbers."""

import json

from captioner.settings import (
    DataSettings,
    DecoderSettings,
    DecodingSettings,
    EncoderSettings,
    OptimSettings,
    ProjectionSettings,
    ScheduleSettings,
    Settings,
    TaskSettings,
    TokenizerSettings,
    TrainerSettings,
)

SMALL_RESNET = json.dumps(
    {
        "model_type": "resnet",
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 128],
        "depths": [1, 1, 1],
        "layer_type": "basic",
        "downsample_in_first_stage": False,
    }
)

SCENES = Settings(
    data=DataSettings(name="scenes"),
    tokenizer=TokenizerSettings(vocabulary_size=512),
    # A small convolutional network sees shapes and colours after a thousand steps; a Transformer needs far more.
    encoder=EncoderSettings(name="resnet-small", config=SMALL_RESNET, image_size=56, trainable=True),
    projection=ProjectionSettings(kind="linear", positions=True),
    decoder=DecoderSettings(width=128, layers=2, heads=8, feedforward=2, dropout=0.0, max_length=40),
    # How right its captions are is known exactly; METEOR would read a large table for each split.
    task=TaskSettings(label_smoothing=0.0, metrics="BLEU,ROUGE-L,CIDEr-D"),
    optim=OptimSettings(lr=2e-3, encoder_lr=2e-3, weight_decay=0.01),
    schedule=ScheduleSettings(warmup=0.05),
    # An encoder that begins with random weights learns from each pass of an image: every caption gets one of its own.
    # Its batch normalisation wants mixed batches: the longer the caption, the more objects the picture has.
    # Its operations are too small to share: a second thread saves a tenth on an idle machine, and on a busy one costs
    # much.
    trainer=TrainerSettings(
        epochs=3,
        max_steps=1500,
        batch_images=32,
        captions_per_row=1,
        length_buckets=False,
        threads=1,
        log_every=25,
    ),
    decoding=DecodingSettings(beams=3, no_repeat_ngram=0, length_penalty=1.0, max_length=40, batch_size=100),
)

FLICKR8K = Settings(
    data=DataSettings(name="flickr8k"),
    # 30,000 captions teach few rare words; a small vocabulary shares them and makes the output layer cheap.
    tokenizer=TokenizerSettings(vocabulary_size=3000),
    # The mirror image and two random crops make 24,000 training images of 6,000; with the mirror image alone, the
    # validation CIDEr-D stayed 0.02 lower. 288 pixels, though the photos have 224, are worth 0.01 more.
    encoder=EncoderSettings(name="google/mobilenet_v2_1.0_224", image_size=288, views=4),
    projection=ProjectionSettings(kind="linear", dropout=0.15, positions=True),
    # Small and with much dropout, because 6,000 images are soon learnt by heart: with dropout 0.2 and two views the
    # validation loss stood still from the ninth epoch on.
    decoder=DecoderSettings(width=256, layers=3, heads=4, feedforward=2, dropout=0.3, max_length=48),
    optim=OptimSettings(lr=8e-4, weight_decay=0.1, ema=0.998),
    trainer=TrainerSettings(epochs=14, batch_images=32),
    decoding=DecodingSettings(beams=3, length_penalty=0.7, no_repeat_ngram=3, batch_size=64),
)

FLICKR30K_CLIP = Settings(
    data=DataSettings(name="flickr30k"),
    tokenizer=TokenizerSettings(vocabulary_size=8192),
    encoder=EncoderSettings(name="openai/clip-vit-base-patch32"),
    projection=ProjectionSettings(kind="mlp", dropout=0.1),
    decoder=DecoderSettings(width=512, layers=6, heads=8, dropout=0.1, max_length=64),
    optim=OptimSettings(lr=4e-4),
    trainer=TrainerSettings(epochs=15, batch_images=64),
    decoding=DecodingSettings(beams=5, length_penalty=0.7, no_repeat_ngram=3),
)

FLICKR30K_VIT = Settings(
    data=DataSettings(name="flickr30k"),
    tokenizer=TokenizerSettings(vocabulary_size=8192),
    # 197 tokens an image: four times CLIP's at patch 32, so the cache is four times as large (9 GB for one view).
    encoder=EncoderSettings(name="google/vit-base-patch16-224"),
    projection=ProjectionSettings(kind="mlp", dropout=0.1),
    decoder=DecoderSettings(width=512, layers=6, heads=8, dropout=0.1, max_length=64),
    optim=OptimSettings(lr=4e-4),
    trainer=TrainerSettings(epochs=15, batch_images=64),
    decoding=DecodingSettings(beams=5, length_penalty=0.7, no_repeat_ngram=3),
)

PRESETS: dict[str, Settings] = {
    "scenes": SCENES,
    "flickr8k": FLICKR8K,
    "flickr30k-clip": FLICKR30K_CLIP,
    "flickr30k-vit": FLICKR30K_VIT,
}
