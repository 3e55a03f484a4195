"""The layer rule: a file of the package may import from the files above it, and never from those below."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "captioner"

# From the top of the staircase down. ARCHITECTURE.md lists the same files in the same order, and says what each is for.
STAIRCASE = """
    __init__ errors settings decoding_checks settings_checks settings_json whole_writes progress

    data/images data/records data/encoded_images
    data/scene_model data/scene_backgrounds data/scene_sprites data/scene_captions data/scene_drawing data/scenes
    data/captioned_folder data/flickr30k_hub data/sources
    data/inspection data/dataset_writer data/prepared
    data/photo_names data/training_images
    data/tokenizer data/dataset_tokenizer
    data/image_views data/view_loading data/feature_shards data/features
    data/batches data/shard_files data/shards data/streaming data/device_batches

    models/encoder_files models/image_processors models/encoders models/fast_encoding
    models/projections models/decoder models/packed_weights models/packed_decoder losses models/captioner

    decoding/requests decoding/describe decoding/hypotheses decoding/running decoding/rules decoding/vocabulary
    decoding/choosing decoding/generation

    evaluation/ptb evaluation/ngrams evaluation/bleu evaluation/rouge evaluation/document_frequencies evaluation/cider
    evaluation/diversity evaluation/java_programs
    evaluation/meteor/normalisation evaluation/meteor/dictionary evaluation/meteor/paraphrases
    evaluation/meteor/matching evaluation/meteor/alignment evaluation/meteor/scoring
    evaluation/spice evaluation/caption_metrics evaluation/clip_score evaluation/metric_modules
    evaluation/references evaluation/predictions evaluation/protocol
    evaluation/significance evaluation/results evaluation/result_files evaluation/model_index
    evaluation/scene_accuracy evaluation/acceptance evaluation/example_sheet

    tasks/base tasks/captioning
    training/device training/optim training/states training/growing_file training/checkpoint
    training/averaging
    training/tensorboard_tracker training/wandb_tracker training/tracking
    training/progress training/timings training/signals training/processes training/gradients
    training/run_state training/run_lock training/loop

    run_folder resources build model_card hub confidence explain export_folder export_writing export_reading api
    onnx_export onnx_captioner scoring calibration sharing publish uploads hub_run presets

    report/charts report/contents report/page

    commands/shell commands/settings_arguments commands/decoding_arguments commands/caption_outputs commands/prepare
    commands/tokenizer commands/metric_arguments commands/overlap commands/evaluate commands/compare commands/calibrate
    commands/training_end
    commands/training_run commands/train commands/report commands/caption commands/push commands/export commands/verbs
"""
ORDER = STAIRCASE.split()
ROOT_NAMES = ("config", "prepare_dataset", "train", "train_tokenizer", "tests", "examples", "benchmarks")


def list_files(package: Path) -> list[str]:
    """Return the package's files as in ``data/images``; a folder's ``__init__`` counts only at the top."""
    files = (path.relative_to(package).with_suffix("").as_posix() for path in package.rglob("*.py"))
    return sorted(file for file in files if not file.endswith("/__init__"))


def read_imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that a file imports, at its top or within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)


def find_file(name: str, files: list[str]) -> str:
    """Return the file of the package that a dotted name such as ``captioner.data.images.open_image`` leads to."""
    parts = name.split(".")[1:]
    for end in range(len(parts), 0, -1):
        if "/".join(parts[:end]) in files:
            return "/".join(parts[:end])
    return "__init__"


def find_faults(package: Path, order: list[str]) -> list[str]:
    """Describe every file without a place, and every import that climbs, is relative or leaves the package."""
    faults = []
    for file in list_files(package):
        if file not in order:
            faults.append(f"{package.name}/{file}.py: has no place on the staircase; give it one")
            continue
        for line, name in read_imports(package / f"{file}.py"):
            place = f"{package.name}/{file}.py line {line}"
            if name.startswith("."):
                faults.append(f"{place}: imports {name} by a relative name; write it in full")
            elif name.split(".")[0] in ROOT_NAMES:
                faults.append(f"{place}: imports {name}, which lies outside of the package")
            elif name.split(".")[0] == package.name:
                target = find_file(name, order)
                if order.index(target) >= order.index(file):
                    faults.append(f"{place}: imports {target}, which is not above it")
    return faults


def test_every_row_is_a_file():
    assert sorted(set(ORDER) - set(list_files(PACKAGE))) == []


def test_no_import_climbs():
    assert find_faults(PACKAGE, ORDER) == []


def test_folders_init_files_hold_only_a_docstring():
    for path in PACKAGE.glob("*/**/__init__.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        assert len(body) == 1, path
        assert ast.get_docstring(ast.Module(body, []))


def test_scripts_at_the_root_are_all_known():
    assert {path.stem for path in ROOT.glob("*.py")} <= set(ROOT_NAMES)


def test_architecture_lists_the_files_in_their_order():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w/]+)\.py` \|", text, flags=re.MULTILINE)
    assert listed == ORDER


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("from captioner.low import thing", "captioner/middle.py line 1: imports low, which is not above it"),
        ("from captioner import low", "captioner/middle.py line 1: imports low, which is not above it"),
        ("import captioner.low", "captioner/middle.py line 1: imports low, which is not above it"),
        (
            "def f():\n    from captioner.low import thing",
            "captioner/middle.py line 2: imports low, which is not above it",
        ),
        ("from . import low", "captioner/middle.py line 1: imports ..low by a relative name; write it in full"),
        ("import train", "captioner/middle.py line 1: imports train, which lies outside of the package"),
        (
            "from config import PRESETS",
            "captioner/middle.py line 1: imports config.PRESETS, which lies outside of the package",
        ),
    ],
)
def test_a_climbing_import_is_found(tmp_path, text, fault):
    package = tmp_path / "captioner"
    package.mkdir()
    for file, content in {"__init__": "", "high": "import os", "middle": text, "low": "import captioner.high"}.items():
        (package / f"{file}.py").write_text(content)
    assert find_faults(package, ["__init__", "high", "middle", "low"]) == [fault]


def test_a_file_without_a_place_is_found(tmp_path):
    package = tmp_path / "captioner"
    (package / "data").mkdir(parents=True)
    for file in ("__init__", "data/__init__", "data/new"):
        (package / f"{file}.py").write_text("")
    assert find_faults(package, ["__init__"]) == ["captioner/data/new.py: has no place on the staircase; give it one"]
