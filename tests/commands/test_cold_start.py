"""What `caption` imports: torch, the encoder's class, and of this package only what captioning takes."""

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

import captioner

OWN = """
    api confidence decoding_checks errors export_folder export_reading export_writing hub progress
    settings settings_checks settings_json
    commands commands.caption commands.caption_outputs commands.decoding_arguments commands.shell
    data data.images data.photo_names data.tokenizer data.training_images
    decoding decoding.choosing decoding.describe decoding.generation decoding.hypotheses decoding.requests
    decoding.rules decoding.running decoding.vocabulary
    models models.captioner models.decoder models.encoder_files models.encoders models.image_processors
    models.packed_decoder models.packed_weights models.projections
"""
"""All files of the package that captioning an image may import."""
BARE = "import torch; from transformers import ResNetModel"
TELL = "import sys; print(*sys.modules)"


def list_modules(code: str, *words: str) -> set[str]:
    """The modules that are loaded in a new process once it has run the code."""
    environment = {**os.environ, "PYTHONPATH": str(Path(captioner.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", f"{code}; {TELL}", *words]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return set(output.stdout.splitlines()[-1].split())


def test_nothing_is_imported_that_captioning_does_not_take(export, tmp_path):
    Image.new("RGB", (20, 16)).save(tmp_path / "a.png")
    code = "import sys; from captioner.commands import caption; assert caption.main(sys.argv[1:]) == 0"
    loaded = list_modules(code, str(tmp_path / "a.png"), "--model", str(export))
    own = {name.removeprefix("captioner.") for name in loaded if name.startswith("captioner.")}
    assert own == set(OWN.split())
    others = {name.split(".")[0] for name in loaded} - {name.split(".")[0] for name in list_modules(BARE)}
    assert others - sys.stdlib_module_names <= {"captioner", "PIL", "safetensors", "tokenizers", "tqdm"}
    assert not {"datasets", "pandas", "pyarrow", "wandb", "evaluate", "pycocoevalcap"} & loaded
