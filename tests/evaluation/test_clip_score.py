import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

from captioner.errors import ConfigError
from captioner.evaluation.clip_score import DualEncoder, clip_score, ref_clip_score, score_captions_with_images

TOWER = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with random weights, saved as any CLIP of transformers is."""
    folder = tmp_path_factory.mktemp("clip")
    words = ["<pad>", "<end>", "<unknown>", "a", "photo", "depicts", "red", "dog", "blue", "cat"]
    words = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    ).save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)
    torch.manual_seed(0)
    text = {"vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 1}
    config = CLIPConfig(
        text_config={**TOWER, **text},
        vision_config={**TOWER, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_clip_score_by_hand():
    images = np.array([[3.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    captions = np.array([[1.0, 1.0], [0.0, 5.0], [-1.0, 0.5]])
    assert clip_score(images, captions) == pytest.approx([2.5 * 0.5**0.5, 2.5, 0.0])


def test_ref_clip_score_by_hand():
    images, captions = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    references = [np.array([[0.0, 1.0], [1.0, 3**0.5]]), np.array([[0.0, 1.0]])]
    # Harmonic mean of 2.5 and the better cosine, 0.5; and of 0 and 1.
    assert ref_clip_score(images, captions, references) == pytest.approx([2 * 2.5 * 0.5 / 3, 0.0])


def test_embeddings_do_not_depend_on_the_batch(clip_folder):
    texts = ["red", "a blue dog", "cat", "red red red red red red red red red red red red red red"]
    images = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]
    whole, single = (DualEncoder(str(clip_folder), batch_size=size) for size in (64, 1))
    for found, expected in (
        (whole.embed_texts(texts), single.embed_texts(texts)),
        (whole.embed_images(images), single.embed_images(images)),
    ):
        assert found.shape == (len(expected), 8)
        assert np.abs(found - expected).max() < 1e-5
        assert np.abs(found[0] - found[1]).max() > 1e-3


def test_scores_are_those_of_the_embeddings(clip_folder, tmp_path):
    encoder = DualEncoder(str(clip_folder))
    paths = []
    for colour in ("red", "blue"):
        paths.append(tmp_path / f"{colour}.png")
        Image.new("RGB", (32, 32), colour).save(paths[-1])
    captions, references = ["red dog", "blue cat"], [["a red dog", "dog"], ["red dog"]]
    scores = score_captions_with_images(encoder, paths, captions, references)
    images, texts = encoder.embed_images(paths), encoder.embed_texts(captions)
    assert scores["CLIPScore"] == pytest.approx(clip_score(images, texts))
    groups = [encoder.embed_texts(group) for group in references]
    assert scores["RefCLIPScore"] == pytest.approx(ref_clip_score(images, texts, groups))
    assert Counter(map(len, scores.values())) == {2: 2}


def test_what_is_no_dual_encoder_is_refused(tmp_path, clip_folder):
    with pytest.raises(ConfigError, match=r"^dual encoder .*missing: cannot be loaded \("):
        DualEncoder(str(tmp_path / "missing"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(ConfigError, match=r"^dual encoder .*: cannot be loaded \("):
        DualEncoder(str(tmp_path))
