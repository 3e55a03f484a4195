"""docs/scale.md: its numbers follow from each other and from the network; accelerate reads its configurations."""

import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from captioner.data.shard_files import FEW
from captioner.data.streaming import READERS
from captioner.data.view_loading import MOST_WORKERS
from captioner.models import decoder
from captioner.models.captioner import build_model
from captioner.presets import PRESETS
from captioner.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
DOCUMENT = (DOCS / "scale.md").read_text().replace("\N{MULTIPLICATION SIGN}", "x")
IMAGES = {"COCO": 113_287, "CC12M": 10e6, "LAION": 400e6}
CAPTIONS = (5, 1, 1)
GPUS = (1, 8, 64)
EPOCHS = ((10, 20), (3, 5), (1, 1))
UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12}
USEFUL, OPENED, COUNTED, JPEG = 100e12, 600, 11_000, 25e3  # what the text assumes; the last one in bytes
PATCHES, WIDTH = 50, 768  # of ViT-B/32


@pytest.fixture(scope="module")
def text():
    return " ".join(DOCUMENT.split("\n"))


@pytest.fixture(scope="module")
def rows():
    """The cells of every line of a table, by its first cell."""
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def build(settings: Settings) -> nn.Module:
    """What is trained on a frozen ViT-B/32, without memory."""
    with torch.device("meta"):
        encoder = SimpleNamespace(width=WIDTH, patches=PATCHES)
        return build_model(settings, encoder=encoder, vocabulary_size=8192, cached=True)


def weights(model: nn.Module) -> tuple[int, int]:
    """Weights that work on a token of an image, and on one of a caption."""
    memory = sum(size(block.cross_attention.key_value) for block in model.decoder.blocks)
    return size(model.projection) + memory, size(model.decoder) - memory


@pytest.fixture(scope="module")
def operations():
    """Of the encoder, of what else is done for an image, and of a caption of 12 tokens."""
    with torch.device("meta"):
        encoder = CLIPVisionModel(CLIPVisionConfig(patch_size=32))
    image, caption = weights(build(PRESETS["flickr30k-clip"]))
    return 2 * size(encoder) * PATCHES, 6 * image * PATCHES, 6 * caption * 12


@pytest.fixture(scope="module")
def epochs(operations):
    """Operations of an epoch; COCO's features are cached."""
    encode, remember, write = operations
    streamed = [images * (encode + remember + write) for images in [*IMAGES.values()][1:]]
    return [IMAGES["COCO"] * (remember + CAPTIONS[0] * write), *streamed]


@pytest.fixture(scope="module")
def computing(epochs):
    """GPUs' hours of an epoch."""
    return [work / (gpus * USEFUL) / 3600 for work, gpus in zip(epochs, GPUS, strict=True)]


@pytest.fixture(scope="module")
def opening():
    """Hours of opening the images of an epoch."""
    return [0.0, *(images / (gpus * OPENED) / 3600 for images, gpus in zip([10e6, 400e6], GPUS[1:], strict=True))]


def shown(value: float, like: str) -> str:
    """The value as exactly as a number of the document."""
    if "e" in like:
        return f"{value:.{len(like.split('e')[0].partition('.')[2])}e}".replace("e+", "e")
    return f"{value:.{len(like.partition('.')[2])}f}"


def agree(cells: list[str], values: list[float]) -> None:
    """Each cell is its value, rounded to the digits that it has."""
    assert cells == [shown(value, cell) for value, cell in zip(values, cells, strict=True)]


def bytes_of(cell: str) -> float:
    number, unit = cell.split()
    return float(number) * UNITS[unit]


def test_the_cache_takes_what_the_table_says(rows):
    caches = {name: cells for name, cells in rows.items() if cells[0].count(" x ") == 1 and cells[0][0].isdigit()}
    assert len(caches) == 4
    for shape, each, *totals in caches.values():
        patches, width = map(int, shape.split(" x "))
        assert int(each.replace(",", "")) == patches * width * 2
        for total, images in zip(totals, IMAGES.values(), strict=True):
            assert bytes_of(total) == pytest.approx(patches * width * 2 * images, rel=5e-3)


def test_the_assumptions_are_those_that_are_reckoned_with(text, rows):
    assert f"the columns assume {USEFUL / 1e12:.0f} TFLOP/s of useful work a GPU" in text
    assert f"makes pixels of {OPENED} JPEGs of 256 pixels a second" in text
    assert f"{COUNTED:,} samples of three members a second of one core" in text
    assert f"more than {FEW} files by all" in text
    assert (READERS, "with its four reading threads" in text) == (4, True)
    assert f"takes about {JPEG / 1e3:.0f} kB" in text
    assert f"a decoding process a core, up to {MOST_WORKERS}," in text
    [(rate, cores, seconds)] = re.findall(r"at (\d+) images a second each, (\d+) cores open .* in (\d+) seconds", text)
    agree([seconds], [IMAGES["COCO"] / (int(rate) * int(cores))])
    assert rows["images, captions each"] == ["113,287, 5", "10 M, 1", "400 M, 1"]
    assert rows["GPUs"] == [str(number) for number in GPUS]
    assert rows["epochs that make sense"] == ["10 to 20", "3 to 5", "1"]


def test_the_work_is_that_of_the_network(rows, operations):
    image, caption = weights(build(PRESETS["flickr30k-clip"]))
    with torch.device("meta"):
        encoder = size(CLIPVisionModel(CLIPVisionConfig(patch_size=32)))
    parts = {
        r"encoder, forward, an image: 2 x ([\d.]+) M x 50 tokens": encoder,
        r"projection and keys and values of cross-attention, an image: 6 x ([\d.]+) M x 50": image,
        r"decoder, a caption of 12 tokens: 6 x ([\d.]+) M x 12": caption,
    }
    for (pattern, count), value in zip(parts.items(), operations, strict=True):
        [(name, number)] = [(name, found[1]) for name in rows if (found := re.fullmatch(pattern, name))]
        agree([number], [count / 1e6])
        [cell] = rows[name]
        agree([cell.removesuffix(" G")], [value / 1e9])


def test_sizes_are_those_of_the_network(text):
    preset = PRESETS["flickr30k-clip"]
    model = build(preset)
    [(memory, million)] = re.findall(r"([\d.]+) GB for the (\d+) M parameters of `flickr30k-clip`", text)
    agree([million, memory], [size(model) / 1e6, 16 * size(model) / 1e9])
    large = build(replace(preset, decoder=replace(preset.decoder, width=1024, layers=12)))
    assert "`--decoder.width 1024 --decoder.layers 12`: seven times the work of a token, 0.2 G parameters" in text
    assert round(weights(large)[1] / weights(model)[1]) == 7
    agree(["0.2"], [size(large) / 1e9])


def test_operations_and_hours_follow_from_the_work(rows, epochs, computing, opening):
    agree(rows["operations an epoch"], epochs)
    agree(rows["GPUs' hours for them"], computing)
    agree(rows["decoding, hours"], opening)
    agree(rows["counting .tar files, hours of a core, once"], [0, *(images / COUNTED / 3600 for images in (10e6, 4e8))])


def test_hours_in_all_are_those_of_the_slowest(rows, text, computing, opening):
    for cell, hours, epochs in zip(
        rows["hours in all, without validation"], map(max, computing, opening), EPOCHS, strict=True
    ):
        agree(cell.split(" to "), [hours * number for number in sorted({*epochs})])
    [times] = re.findall(r"bottleneck of every such stream, (\d+) to (\d+) times", text)
    ratios = [slow / fast for slow, fast in zip(opening[1:], computing[1:], strict=True)]
    assert int(times[0]) <= min(ratios) <= max(ratios) <= int(times[1])


def test_what_is_read_follows_from_images_and_hours(rows, computing, opening):
    read = [2 * PATCHES * WIDTH * IMAGES["COCO"], JPEG * IMAGES["CC12M"], JPEG * IMAGES["LAION"]]
    rates = [amount / 3600 / max(hours) for amount, *hours in zip(read, computing, opening, strict=True)]
    for name, values in (("read an epoch", read), ("read, a second", rates)):
        for cell, value in zip(rows[name], values, strict=True):
            assert bytes_of(cell) == pytest.approx(value, rel=0.05), name


def test_steps_are_images_over_a_batch(rows):
    for cell, images in zip(rows["steps of an epoch, at a batch of"], IMAGES.values(), strict=True):
        steps, batch = (int(number.replace(",", "")) for number in cell.split(" at "))
        assert steps == math.ceil(images / batch)


def test_coco_takes_the_disk_that_it_is_said_to(text):
    [(cache, two)] = re.findall(r"and (\d+) GB of cache\. `--encoder\.views 2` doubles the cache to (\d+) GB", text)
    agree([cache, two], [views * 2 * PATCHES * WIDTH * IMAGES["COCO"] / 1e9 for views in (1, 2)])


@pytest.mark.parametrize("path", sorted((DOCS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_configurations(path):
    config = load_config_from_file(str(path))
    assert config.num_processes > 1
    blocks = config.fsdp_config.get("fsdp_transformer_layer_cls_to_wrap") if config.fsdp_config else "DecoderBlock"
    assert hasattr(decoder, blocks)


def test_a_shell_knows_every_variable_of_the_commands():
    commands = "\n".join(re.findall(r"```bash\n(.*?)```", DOCUMENT, re.DOTALL))
    used = {name for name in re.findall(r"\$(\w+)", commands) if not name.startswith("SLURM_")}
    assert used == {"MASTER"}
    assert used == set(re.findall(r"^export (\w+)=", commands, re.MULTILINE))
