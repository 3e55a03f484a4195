"""A repository as the Hub ships it."""

import pytest
import transformers
from small_encoders import PATCHED, TRANSFORMER


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """A whole CLIP repository, text tower included, as openai/clip-vit-base-patch32 ships; tests change only copies."""
    folder = tmp_path_factory.mktemp("clip")
    config = transformers.CLIPConfig(
        vision_config=PATCHED | {"image_size": 32}, text_config=TRANSFORMER | {"vocab_size": 50}, projection_dim=8
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": 32}
    processor = transformers.CLIPImageProcessorPil(size=size, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(folder)
    return folder
