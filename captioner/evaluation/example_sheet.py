"""Pictures with their captions on one sheet: the best, median and worst of an evaluation, or simply a few."""

import statistics
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from captioner.errors import DataError

GROUPS = {"best": "#2f855a", "median": "#b7791f", "worst": "#c53030"}
"""The rows of a sheet of examples and their colours, from top to bottom."""

# Sizes in pixels.
_CELL_WIDTH = 360
_LEAST_IMAGE_HEIGHT, _MOST_IMAGE_HEIGHT = 216, 360
_MARGIN, _GUTTER, _PADDING, _GAP, _CORNER = 28, 24, 14, 6, 10
_CAPTION_SIZE, _REFERENCE_SIZE, _HEADING_SIZE, _BADGE_SIZE = 21, 16, 24, 16
_LINE_SPACING = 1.3
_MOST_LINES = 6

_PAPER, _CARD, _BORDER, _MAT = "#f4f5f7", "#ffffff", "#d9dde3", "#e9ecf0"
_INK, _GREY = "#1a202c", "#717a88"


@dataclass(frozen=True)
class Example:
    """One captioned image of an evaluation: its score and the group it stands for, "best", "median" or "worst"."""

    image: Image.Image
    caption: str
    references: tuple[str, ...]
    score: float
    label: str


@dataclass(frozen=True)
class _Card:
    """What is drawn for one image: the picture, lines of text under it, and a badge on its corner."""

    image: Image.Image
    caption: list[str]
    reference: list[str]
    badge: str
    colour: str

    @property
    def text_height(self) -> int:
        """Height below the picture."""
        gap = _GAP if self.reference else 0
        lines = len(self.caption) * _line_height(_CAPTION_SIZE) + len(self.reference) * _line_height(_REFERENCE_SIZE)
        return 2 * _PADDING + gap + lines


def pick_examples(scores: Sequence[float], *, per_group: int = 4) -> dict[str, list[int]]:
    """Return the positions of the best, the median and the worst scores, none of them twice.

    scores: one an image, higher is better; with few of them the groups shrink.
    per_group: most positions a group. The best come best first, the worst worst first.
    """
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    size = min(per_group, max(1, len(order) // 3))
    best, rest = order[:size], order[size:]
    worst, rest = rest[::-1][:size], rest[: max(0, len(rest) - size)]
    first = max(0, (len(rest) - size) // 2)
    return {"best": best, "median": rest[first : first + size], "worst": worst}


def make_examples(
    records: Sequence[Mapping[str, Any]], load: Callable[[int], Image.Image], *, per_group: int = 4
) -> list[Example]:
    """The best, median and worst of an evaluation, by CIDEr-D.

    records: one an image, as an evaluation's file has them: caption, references and metrics.
    load: opens the image of a record, by its place.
    per_group: as in ``pick_examples``.
    """
    scores = [record["metrics"]["CIDEr-D"] for record in records]
    return [
        Example(load(row), records[row]["caption"], tuple(records[row]["references"]), scores[row], label)
        for label, picked in pick_examples(scores, per_group=per_group).items()
        for row in picked
    ]


def draw_examples(examples: Sequence[Example], path: str | Path) -> None:
    """Draw a PNG sheet with a row of cards for the best, the median and the worst examples.

    Each card shows the whole image with its score, the generated caption, and in grey the first reference.
    Raises DataError where there is no example or the sheet cannot be written.
    """
    sections = []
    for label, colour in GROUPS.items():
        cards = [_make_card(example, colour) for example in examples if example.label == label]
        if cards:
            sections.append((label.capitalize(), cards))
    _draw_sheet(sections, path, columns=max((len(cards) for _, cards in sections), default=0))


def draw_captioned(
    images: Sequence[Image.Image], captions: Sequence[str], path: str | Path, *, columns: int = 3
) -> None:
    """Draw a PNG sheet of images with one caption under each.

    Raises DataError where there is no image, the captions do not fit them or the sheet cannot be written.
    """
    if len(images) != len(captions):
        raise DataError(f"{path}: {len(captions)} captions for {len(images)} images; give one caption an image")
    cards = [
        _Card(image, _wrap(caption, _CAPTION_SIZE), [], "", "") for image, caption in zip(images, captions, strict=True)
    ]
    _draw_sheet([("", cards)] if cards else [], path, columns=min(columns, len(cards)))


def _make_card(example: Example, colour: str) -> _Card:
    reference = _wrap(example.references[0], _REFERENCE_SIZE) if example.references else []
    return _Card(example.image, _wrap(example.caption, _CAPTION_SIZE), reference, f"{example.score:.2f}", colour)


def _wrap(text: str, size: int) -> list[str]:
    """Break a text into lines as wide as a card; a word wider than that is broken too, and a long text cut short."""
    font, width = _font(size), _CELL_WIDTH - 2 * _PADDING
    lines = [""]
    for word in _fold_accents(text).split():
        if lines[-1] and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
        if len(lines) > _MOST_LINES:
            last = lines[_MOST_LINES - 1]
            while font.getlength(f"{last}…") > width:
                last = last[:-1]
            return [*lines[: _MOST_LINES - 1], f"{last}…"]
    return lines


def _draw_sheet(sections: list[tuple[str, list[_Card]]], path: str | Path, *, columns: int) -> None:
    """Draw rows of cards under the heading of their section, and write the sheet."""
    if not sections:
        raise DataError(f"{path}: there is no captioned image to draw; give at least one")
    width = 2 * _MARGIN + columns * _CELL_WIDTH + (columns - 1) * _GUTTER
    rows = [
        (heading if start == 0 else "", cards[start : start + columns])
        for heading, cards in sections
        for start in range(0, len(cards), columns)
    ]
    image_height = _choose_image_height([card.image for _, cards in rows for card in cards])
    heights = [
        _heading_height(heading) + image_height + max(card.text_height for card in cards) for heading, cards in rows
    ]
    sheet = Image.new("RGB", (width, 2 * _MARGIN + sum(heights) + _GUTTER * (len(rows) - 1)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top = _MARGIN
    for (heading, cards), height in zip(rows, heights, strict=True):
        _draw_heading(draw, heading, top=top, colour=cards[0].colour)
        for column, card in enumerate(cards):
            left = _MARGIN + column * (_CELL_WIDTH + _GUTTER)
            box = (left, top + _heading_height(heading), left + _CELL_WIDTH - 1, top + height - 1)
            _draw_card(sheet, card, box=box, image_height=image_height)
        top += height + _GUTTER
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path, format="PNG")
    except OSError as error:
        raise DataError(f"{path}: the picture cannot be written ({error}); give another path") from error


def _draw_heading(draw: ImageDraw.ImageDraw, heading: str, *, top: int, colour: str) -> None:
    if heading:
        draw.rounded_rectangle((_MARGIN, top, _MARGIN + 6, top + _HEADING_SIZE), radius=3, fill=colour)
        _draw_line(draw, heading, left=_MARGIN + 16, middle=top + _HEADING_SIZE / 2, size=_HEADING_SIZE, fill=_INK)


def _choose_image_height(images: list[Image.Image]) -> int:
    """Return the height at which most images fill their card's width."""
    height = _CELL_WIDTH * statistics.median(image.height / image.width for image in images)
    return round(min(max(height, _LEAST_IMAGE_HEIGHT), _MOST_IMAGE_HEIGHT))


def _draw_card(sheet: Image.Image, card: _Card, *, box: tuple[int, int, int, int], image_height: int) -> None:
    draw, (left, top, *_) = ImageDraw.Draw(sheet), box
    draw.rounded_rectangle(box, radius=_CORNER, fill=_CARD, outline=_BORDER)
    picture = ImageOps.pad(card.image.convert("RGB"), (_CELL_WIDTH - 2, image_height), color=_MAT)
    sheet.paste(picture, (left + 1, top + 1), _round_upper_corners(picture.size))
    if card.badge:
        _draw_badge(draw, card.badge, left=left + 12, top=top + 12, colour=card.colour)
    middle = top + image_height + _PADDING + _line_height(_CAPTION_SIZE) / 2
    for line in card.caption:
        _draw_line(draw, line, left=left + _PADDING, middle=middle, size=_CAPTION_SIZE, fill=_INK)
        middle += _line_height(_CAPTION_SIZE)
    middle += _GAP
    for line in card.reference:
        draw.text((left + _PADDING, middle), line, font=_font(_REFERENCE_SIZE), fill=_GREY, anchor="lm")
        middle += _line_height(_REFERENCE_SIZE)


def _round_upper_corners(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).rounded_rectangle(
        (0, 0, size[0] - 1, size[1] - 1), radius=_CORNER, fill=255, corners=(True, True, False, False)
    )
    return mask


def _draw_badge(draw: ImageDraw.ImageDraw, text: str, *, left: int, top: int, colour: str) -> None:
    width = _font(_BADGE_SIZE).getlength(text) + 18
    draw.rounded_rectangle((left, top, left + width, top + 26), radius=13, fill=colour)
    draw.text((left + width / 2, top + 13), text, font=_font(_BADGE_SIZE), fill="white", anchor="mm")


def _draw_line(draw: ImageDraw.ImageDraw, text: str, *, left: float, middle: float, size: int, fill: str) -> None:
    """Draw a line of bold text. Pillow carries one weight of its font: drawn twice, a little apart, it looks bold."""
    for shift in (0, 0.6):
        draw.text((left + shift, middle), text, font=_font(size), fill=fill, anchor="lm")


def _fold_accents(text: str) -> str:
    """Replace accented Latin letters, which Pillow's own font lacks, by the plain ones."""
    bases = (unicodedata.normalize("NFKD", character)[:1] for character in text)
    return "".join(
        base if base.isalpha() and base.isascii() else character for base, character in zip(bases, text, strict=True)
    )


def _heading_height(heading: str) -> int:
    return _HEADING_SIZE + 16 if heading else 0


def _line_height(size: int) -> int:
    return round(size * _LINE_SPACING)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)
