"""A report as one HTML file that needs no other file and no network."""

import base64
import io
from collections.abc import Iterator, Sequence
from html import escape

from PIL import Image

from captioner.evaluation.example_sheet import GROUPS, Example
from captioner.report.charts import draw_svg
from captioner.report.contents import Report
from captioner.settings import setting_values
from captioner.settings_json import settings_from_dict
from captioner.training.timings import (
    CHECKPOINT,
    EVALUATION,
    EXPORT,
    FEATURES,
    PREPARATION,
    TRAINING,
    UPLOAD,
    VALIDATION,
    WAITING,
)

THUMBNAIL = 360  # longest side in pixels
ACTIVITIES = {
    PREPARATION: ("data, tokenizer and encoder", "#4a5568"),
    FEATURES: ("encoding images and captions", "#2c7a7b"),
    TRAINING: ("training steps", "#2b6cb0"),
    WAITING: ("waiting for batches", "#c05621"),
    VALIDATION: ("validation", "#2f855a"),
    EXPORT: ("exporting the best", "#6b46c1"),
    CHECKPOINT: ("writing checkpoints", "#b7791f"),
    EVALUATION: ("evaluating the best", "#97266d"),
    UPLOAD: ("waiting for the Hub", "#718096"),
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a202c; background: #f4f5f7; margin: 0 auto; padding: 24px;
       max-width: 1320px }
h1 { margin: 0 } h2 { margin: 32px 0 12px } .quiet { color: #717a88 } code { overflow-wrap: anywhere }
.grid { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(420px, 1fr)) }
.cards { display: grid; gap: 16px; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)) }
.card { background: #fff; border: 1px solid #d9dde3; border-radius: 10px; overflow: hidden; padding: 12px }
.card img { display: block; width: 100%; height: 200px; object-fit: contain; background: #e9ecf0; margin-bottom: 8px }
.badge { color: #fff; border-radius: 12px; padding: 1px 9px; font-size: 13px }
table { border-collapse: collapse; background: #fff } td, th { border: 1px solid #d9dde3; padding: 3px 10px;
       text-align: left } td.number { text-align: right } tr.changed { font-weight: 600 }
.bar { display: flex; height: 22px; border-radius: 6px; overflow: hidden; margin-bottom: 8px }
"""


def write_page(report: Report) -> str:
    """The page as a text of HTML."""
    title = escape(report.run.resolve().name)
    body = "\n".join(
        [
            *_head(report),
            *_section("Curves", _curves(report)),
            *_section("Metrics", _metrics(report)),
            *_section("Captions", _captions(report)),
            *_section("Where the time went", _times(report)),
            *_section("The model", _shape(report)),
            *_section("Settings", _settings(report)),
        ]
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _section(title: str, parts: Iterator[str]) -> Iterator[str]:
    content = list(parts)
    if content:
        yield f"<h2>{title}</h2>"
        yield from content


def _head(report: Report) -> Iterator[str]:
    origin, best = report.origin, report.best
    yield f"<h1>{escape(report.run.resolve().name)}</h1>"
    facts = [f"dataset {report.settings.data.name}", f"captioner {origin.get('captioner_version', '?')}"]
    facts += [f"commit {origin['commit'][:12]}"] if origin.get("commit") else []
    facts += [f"{name} {version}" for name, version in origin["versions"].items()]
    yield f'<p class="quiet">{escape(", ".join(facts))}<br><code>{escape(origin.get("command", ""))}</code></p>'
    if best:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in best.items() if name not in ("step", "epoch"))
        yield f"<p>The exported checkpoint is that of step {best['step']:,}: validation {escape(numbers)}.</p>"


def _curves(report: Report) -> Iterator[str]:
    yield '<div class="grid">'
    yield from (f'<div class="card">{draw_svg(chart)}</div>' for chart in report.charts)
    yield "</div>"


def _metrics(report: Report) -> Iterator[str]:
    if not report.splits:
        yield '<p class="quiet">Not evaluated yet.</p>'
        return
    splits = report.splits.values()
    names = dict.fromkeys(name for found in splits for name in found.metrics)
    rows = [[name, *(_number(found.metrics.get(name)) for found in splits)] for name in names]
    yield _table(["", *report.splits], [["images", *(_number(found.images) for found in splits)], *rows])
    for decoding in dict.fromkeys(found.decoding for found in splits if found.decoding):
        yield f'<p class="quiet">Decoding: {escape(decoding)}.</p>'
    missing = {name: reason for found in splits for name, reason in found.unavailable.items()}
    yield from (f'<p class="quiet">{escape(f"{name}: {reason}")}</p>' for name, reason in missing.items())


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _captions(report: Report) -> Iterator[str]:
    for split, examples in report.examples.items():
        for label, colour in GROUPS.items():
            chosen = [example for example in examples if example.label == label]
            if chosen:
                yield f"<h3>{escape(split)}: {label} by CIDEr-D</h3>"
                yield '<div class="cards">'
                yield from (_card(example, colour) for example in chosen)
                yield "</div>"
    if not report.examples and report.samples:
        yield "<p>Of the first images of the newest validation:</p><ul>"
        yield from (f"<li>{escape(caption)}</li>" for caption in report.samples)
        yield "</ul>"


def _card(example: Example, colour: str) -> str:
    references = "<br>".join(map(escape, example.references))
    return (
        f'<div class="card"><img alt="" src="{_data_address(example.image)}">'
        f'<span class="badge" style="background:{colour}">{example.score:.2f}</span> {escape(example.caption)}'
        f'<div class="quiet">{references}</div></div>'
    )


def _data_address(image: Image.Image) -> str:
    """The image itself as an address, small."""
    small, file = image.convert("RGB"), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(file, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _times(report: Report) -> Iterator[str]:
    total = sum(report.seconds.values())
    if not total:
        return
    known = [(*ACTIVITIES.get(name, (name, "#717a88")), value) for name, value in report.seconds.items()]
    shares = sorted(known, key=lambda share: -share[2])
    yield '<div class="card"><div class="bar">'
    yield from (f'<div style="width:{value / total:.3%};background:{colour}"></div>' for _, colour, value in shares)
    yield "</div>"
    rows = [[name, _duration(value), f"{value / total:.1%}"] for name, _, value in shares]
    yield _table(["activity", "time", "share"], [*rows, ["together", _duration(total), ""]])
    yield "</div>"
    if report.padding is not None:
        yield f'<p class="quiet">Of the places for tokens in training batches, {report.padding:.1%} held padding.</p>'


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min"


def _shape(report: Report) -> Iterator[str]:
    if not report.shape:
        return
    settings, stored = report.settings, sum(size for _, size in report.shape)
    decoder = settings.decoder
    yield (
        f"<p>Encoder {escape(settings.encoder.name if not settings.encoder.config else 'from a config')}, "
        f"{settings.projection.kind.replace('_', ' ')} projection, decoder of {decoder.layers} layers, width "
        f"{decoder.width}, {decoder.heads} heads.</p>"
    )
    rows = [[name, f"{size:,}"] for name, size in report.shape]
    yield _table(["stored part", "weights"], [*rows, ["together", f"{stored:,}"]])
    if not any(name.startswith("encoder.") for name, _ in report.shape):
        yield '<p class="quiet">The encoder is stored by name and revision; its weights are not counted here.</p>'


def _settings(report: Report) -> Iterator[str]:
    defaults = dict(setting_values(settings_from_dict({})))
    rows = [
        f'<tr class="{"changed" if value != defaults[path] else ""}"><td>{path}</td>'
        f"<td><code>{escape(str(value))}</code></td></tr>"
        for path, value in setting_values(report.settings)
    ]
    yield '<p class="quiet">Set in bold: other than the default.</p>'
    yield f"<details open><summary>All settings</summary><table>{''.join(rows)}</table></details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = [f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows]
    return f"<table><tr>{cells}</tr>{''.join(lines)}</table>"


def _cell(value: str) -> str:
    kind = ' class="number"' if value[:1].isdigit() else ""
    return f"<td{kind}>{escape(value)}</td>"
