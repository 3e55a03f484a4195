"""docs/scale.md: its tables are computed, its configurations are what accelerate reads."""

import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from captioner.models import decoder

DOCS = Path(__file__).parents[1] / "docs"
IMAGES = {"COCO": 113_287, "CC12M": 10e6, "LAION": 400e6}
UNITS = {"GB": 1e9, "TB": 1e12}


def test_the_cache_takes_what_the_table_says():
    text = (DOCS / "scale.md").read_text()
    rows = re.findall(
        r"^\|.*\| (\d+) \S (\d+) \| ([\d,]+) \| ([\d.]+ .B) \| ([\d.]+ .B) \| ([\d.]+ .B) \|$", text, re.M
    )
    assert len(rows) == 4
    for patches, width, size, *totals in rows:
        assert int(size.replace(",", "")) == int(patches) * int(width) * 2
        for total, images in zip(totals, IMAGES.values(), strict=True):
            number, unit = total.split()
            assert float(number) * UNITS[unit] == pytest.approx(int(patches) * int(width) * 2 * images, rel=5e-3)


def test_hours_are_images_over_rates():
    text = (DOCS / "scale.md").read_text()
    [decoding] = re.findall(r"^\| decoding, hours \| 0 \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    [reading] = re.findall(r"^\| read, a second \| .* \| (\d+) MB \| ([\d.]+) GB \|$", text, re.M)
    seconds = [IMAGES["CC12M"] / (8 * 4 * 300), IMAGES["LAION"] / (64 * 4 * 300)]
    assert [float(hours) for hours in decoding] == [round(number / 3600, 1) for number in seconds]
    assert float(reading[0]) == round(250e3 / seconds[0], -1)
    assert float(reading[1]) == round(10e3 / seconds[1], 1)


@pytest.mark.parametrize("path", sorted((DOCS / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_configurations(path):
    config = load_config_from_file(str(path))
    assert config.num_processes > 1
    blocks = config.fsdp_config.get("fsdp_transformer_layer_cls_to_wrap") if config.fsdp_config else "DecoderBlock"
    assert hasattr(decoder, blocks)
