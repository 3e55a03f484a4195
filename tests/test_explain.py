"""Where the decoder looked: the arrays, their place on the photo, and the panels."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TINY_ENCODERS, make_captioner
from transformers import CLIPImageProcessorPil, ConvNextImageProcessorPil

from captioner.errors import ConfigError
from captioner.explain import Explanation, look, merge_pieces, on_grid
from captioner.models.encoders import encoder_from_config
from captioner.models.image_processors import ImageProcessor
from captioner.settings import EncoderSettings

CONFIGS = {
    "resnet": (TINY_ENCODERS["resnet"], (4, 4)),
    "vit": (TINY_ENCODERS["vit"] | {"image_size": 32}, (4, 4)),
    "dinov2_with_registers": (
        TINY_ENCODERS["vit"] | {"model_type": "dinov2_with_registers", "image_size": 32, "mlp_ratio": 2},
        (4, 4),
    ),
    "siglip_vision_model": (TINY_ENCODERS["vit"] | {"model_type": "siglip_vision_model", "image_size": 32}, (4, 4)),
    "swin": (
        {"model_type": "swin", "image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
        | {"window_size": 2},
        (4, 4),
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_grid_of_every_kind_of_encoder(name):
    config, grid = CONFIGS[name]
    encoder = encoder_from_config(config | {"input_size": 32})
    assert encoder.grid == grid
    leading = {"vit": 1, "dinov2_with_registers": 5}.get(name, 0)
    assert encoder.patches == leading + grid[0] * grid[1]


def test_tokens_before_the_patches_are_no_patches():
    attention = np.arange(14.0).reshape(2, 7)  # two words, a class token and a grid of two rows and three columns
    maps = on_grid(attention, (2, 3))
    assert maps.shape == (2, 2, 3)
    assert maps[1].tolist() == [[8, 9, 10], [11, 12, 13]]


def test_attention_is_that_of_the_decoder_while_it_writes(tiny_captioner, pictures):
    decoder, tokens = tiny_captioner.model.decoder, (7, 9, 5)
    memory = tiny_captioner.model.remember(tiny_captioner.processor(pictures[:1])).detach()
    found = look(decoder, memory, tokens, start=1, layers=[-1])
    assert found.shape == (3, 16)
    assert found.sum(dim=1).tolist() == pytest.approx([1, 1, 1])
    caught = []
    layer = decoder.blocks[-1].cross_attention
    hook = layer.register_forward_pre_hook(lambda module, given: caught.append(given))
    decoder(torch.tensor([[1, 7, 9]]), memory)
    hook.remove()
    hidden, keys, _ = caught[0]
    heads = [
        (layer.query(hidden)[0, :, head * 8 : head * 8 + 8] @ keys[0, head].t() / 8**0.5).softmax(dim=-1)
        for head in range(4)
    ]
    assert torch.allclose(found, torch.stack(heads).mean(dim=0), atol=1e-6)
    both = look(decoder, memory, tokens, start=1)
    first = look(decoder, memory, tokens, start=1, layers=[0])
    assert torch.allclose(both, (first + found) / 2, atol=1e-6)
    with pytest.raises(ConfigError, match=r"^the decoder has no layer 2; its 2 layers are 0 to 1$"):
        look(decoder, memory, tokens, start=1, layers=[0, 2])


def test_pieces_become_words(tiny_tokenizer):
    tokens = tiny_tokenizer.encode("the girl's yellow zebra")
    last = len(tiny_tokenizer.encode("zebra"))
    attention = np.arange(float(len(tokens)))[:, None]
    words, merged = merge_pieces(attention, tokens, tiny_tokenizer.decode)
    assert words == ("The", "girl's", "yellow", "zebra")
    assert last > 1
    assert merged[3, 0] == np.mean(np.arange(len(tokens))[-last:])
    assert merged[0, 0] == np.mean(np.arange(len(tiny_tokenizer.encode("the"))))


def test_a_caption_without_words():
    words, merged = merge_pieces(np.ones((1, 4)), [3], lambda tokens: "")
    assert words == ()
    assert merged.shape == (0, 4)


@pytest.mark.parametrize(
    ("processor", "box"),
    [
        (ImageProcessor.plain(32), (0, 0, 300, 200)),
        (
            ImageProcessor(CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})),
            (50, 0, 250, 200),
        ),
        (
            ImageProcessor(ConvNextImageProcessorPil(size={"shortest_edge": 28}, crop_pct=0.875)),
            (62.5, 12.5, 237.5, 187.5),
        ),
    ],
)
def test_what_of_a_photo_the_encoder_sees(processor, box):
    assert processor.covered_box(300, 200) == pytest.approx(box, abs=3)


def test_heat_lies_where_the_attention_was():
    attention = np.zeros((2, 2, 3), dtype=np.float32)
    attention[0, 0, 2], attention[1, 1, 0] = 0.6, 0.2
    image = Image.new("RGB", (100, 40), "white")
    explanation = Explanation(image, "red car", ("red", "car"), attention, (20.0, 0.0, 80.0, 40.0))
    maps = explanation.heatmaps()
    assert maps.shape == (2, 40, 100)
    assert maps.max(axis=(1, 2)).tolist() == [1, 1]
    assert [np.unravel_index(grid.argmax(), grid.shape) for grid in maps] == [(0, 79), (39, 20)]
    assert not maps[:, :, :20].any()
    assert not maps[:, :, 80:].any()


def test_panels_are_bright_where_the_decoder_looked(tmp_path):
    attention = np.zeros((1, 1, 2), dtype=np.float32)
    attention[0, 0, 1] = 1
    image = Image.new("RGB", (200, 100), "white")
    Explanation(image, "a word", ("word",), attention, (0.0, 0.0, 200.0, 100.0)).draw(tmp_path / "why.png")
    with Image.open(tmp_path / "why.png") as sheet:
        pixels = np.asarray(sheet.convert("L")).astype(int)
    panel = pixels[150, 28 + 360 + 24 : 28 + 2 * 360 + 24]  # the second card's row through its picture
    assert panel[10] < 60
    assert panel[350] > 240


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_captioner_explains_itself(tiny_settings, tiny_tokenizer, pictures, name):
    config = json.dumps(CONFIGS[name][0])
    settings = replace(tiny_settings, encoder=EncoderSettings(config=config, image_size=32, trainable=True))
    captioner = make_captioner(settings, tiny_tokenizer)
    caption = captioner.caption(pictures[1])
    explanation = captioner.explain(pictures[1])
    assert explanation.text == caption.text
    assert explanation.words == tuple(caption.text.split())
    assert explanation.attention.shape == (len(explanation.words), *CONFIGS[name][1])
    sums = explanation.attention.sum(axis=(1, 2))
    assert (sums < 0.999).all() if name == "vit" else np.allclose(sums, 1)
    assert explanation.heatmaps().shape == (len(explanation.words), *reversed(pictures[1].size))
    other = captioner.caption(pictures[0])
    assert captioner.explain(pictures[1], other).text == other.text
