"""The model card: what the model is, how to use it and how good it is, all from its real settings and metrics."""

from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from captioner.decoding.describe import describe_run
from captioner.evaluation import diversity
from captioner.evaluation.model_index import eval_results
from captioner.evaluation.results import format_score
from captioner.settings import Settings

TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

An image captioner: {{ encoder }} gives image tokens, a {{ projection }} projection brings them to width
{{ width }}, and a Transformer decoder of {{ layers }} layers with {{ heads }} heads writes the caption. It has
{{ parameters }} million parameters and a vocabulary of {{ vocabulary }} byte-pair tokens.

## Use

```python
from captioner import Captioner

captioner = Captioner.from_pretrained("{{ reference }}")
print(captioner.caption("photo.jpg").text)
```

## Training

Trained on the training split of `{{ dataset }}` by cross-entropy on every image-caption pair: {{ length }},
label smoothing {{ label_smoothing }}, AdamW, peak learning rate {{ learning_rate }}, {{ schedule }} schedule,
{{ batch }} images a step, seed {{ seed }}. {{ frozen }} {{ chosen }}

## Evaluation

{{ evaluation }}

## Limits

Captions say what the training captions would say: kinds of pictures that they do not cover are described
wrongly, with no sign of doubt. Do not use them where a wrong description does harm.
"""


def model_card(settings: Settings, metrics: dict[str, Any], *, parameters: int, vocabulary_size: int) -> ModelCard:
    """The card of a captioner.

    Args:
        settings: what it was trained with, without paths.
        metrics: ``metrics.json``: for each evaluated split its metrics, images and decoding settings, and the
            validation metrics of the chosen checkpoint as ``validation_at_best``.
        parameters: number of weights, the encoder's included.
        vocabulary_size: number of tokens of the tokenizer.
    """
    name = settings.trainer.run or settings.data.name
    encoder, trainer = settings.encoder, settings.trainer
    data = ModelCardData(
        library_name="captioner",
        pipeline_tag="image-to-text",
        tags=["image-captioning"],
        base_model=encoder.name if encoder.revision else None,
        model_name=name,
        eval_results=eval_results(_evaluated_splits(metrics), dataset=settings.data.name) or None,
    )
    return ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        title=f"{name}: an image captioner",
        encoder="an encoder trained from scratch" if encoder.config else f"`{encoder.name}`",
        projection=settings.projection.kind.replace("_", " "),
        width=settings.decoder.width,
        layers=settings.decoder.layers,
        heads=settings.decoder.heads,
        parameters=f"{parameters / 1e6:.1f}",
        vocabulary=f"{vocabulary_size:,}",
        reference=settings.hub.repo_id or "path/to/this/folder",
        dataset=settings.data.name,
        length=f"at most {trainer.max_steps} steps" if trainer.max_steps else f"{trainer.epochs} epochs",
        label_smoothing=settings.task.label_smoothing,
        learning_rate=settings.optim.lr,
        schedule=settings.schedule.kind,
        batch=trainer.batch_images * trainer.gradient_accumulation,
        seed=trainer.seed,
        frozen="The encoder was trained too." if encoder.trainable else "The encoder was frozen.",
        chosen=_choice(metrics.get("validation_at_best", {})),
        evaluation=_evaluation_table(metrics),
    )


def _choice(best: dict[str, Any]) -> str:
    """Which checkpoint this is."""
    if "CIDEr-D" not in best:
        return ""
    return (
        f"This is the checkpoint after epoch {best['epoch']} (step {best['step']:,}), chosen by CIDEr-D on the "
        f"validation split: {best['CIDEr-D']:.3f} with greedy decoding."
    )


def _evaluated_splits(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {split: found for split, found in metrics.items() if isinstance(found, dict) and found.get("metrics")}


def _evaluation_table(metrics: dict[str, Any]) -> str:
    found = _evaluated_splits(metrics)
    if not found:
        return "Not evaluated yet: run `captioner evaluate`."
    names = list(dict.fromkeys(name for split in found.values() for name in split["metrics"]))
    about_captions = [name for name in names if name in (*diversity.NAMES, "length")]
    lines = _rows(found, [name for name in names if name not in about_captions])
    if about_captions:
        lines += ["", "The captions themselves:", "", *_rows(found, about_captions)]
    decodings = {split: describe_run(content) for split, content in found.items()}
    if len(set(decodings.values())) == 1:
        return "\n".join([*lines, "", f"Decoding: {decodings.popitem()[1]}."])
    return "\n".join([*lines, "", *(f"Decoding of {split}: {text}.  " for split, text in decodings.items())])


def _rows(found: dict[str, dict[str, Any]], names: list[str]) -> list[str]:
    """A table of these scores, a split a row."""
    lines = ["| split | images | " + " | ".join(names) + " |", "| --- " * (len(names) + 2) + "|"]
    for split, content in found.items():
        lines.append(f"| {split} | {content['images']} | " + " | ".join(_cell(content, name) for name in names) + " |")
    return lines


def _cell(content: dict[str, Any], name: str) -> str:
    """A score with its 95 % interval, where it has one."""
    if name not in content["metrics"]:
        return ""
    interval, value = content.get("confidence_intervals", {}).get(name), content["metrics"][name]
    return format_score(value, digits=3) + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")
