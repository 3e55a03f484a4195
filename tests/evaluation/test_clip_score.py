import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from tiny_clip import write_clip

from captioner.errors import ConfigError
from captioner.evaluation.clip_score import DualEncoder, clip_score, ref_clip_score, score_captions_with_images


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"))


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
    corpus, scores = score_captions_with_images(encoder, paths, captions, references)
    images, texts = encoder.embed_images(paths), encoder.embed_texts(captions)
    assert scores["CLIPScore"] == pytest.approx(clip_score(images, texts))
    assert corpus == pytest.approx({name: sum(values) / 2 for name, values in scores.items()})
    groups = [encoder.embed_texts(group) for group in references]
    assert scores["RefCLIPScore"] == pytest.approx(ref_clip_score(images, texts, groups))
    assert Counter(map(len, scores.values())) == {2: 2}


def test_what_is_no_dual_encoder_is_refused(tmp_path, clip_folder):
    with pytest.raises(ConfigError, match=r"^dual encoder .*missing: cannot be loaded \("):
        DualEncoder(str(tmp_path / "missing"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(ConfigError, match=r"^dual encoder .*: cannot be loaded \("):
        DualEncoder(str(tmp_path))
