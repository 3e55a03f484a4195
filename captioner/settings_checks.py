"""What is wrong with settings: every problem is found, with its remedy, and all are told together."""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from captioner.decoding_checks import idle_problems
from captioner.errors import ConfigError
from captioner.settings import (
    METRIC_NAMES,
    MINIMUM_VOCABULARY_SIZE,
    PROJECTION_KINDS,
    TASK_NAMES,
    DecoderSettings,
    DecodingSettings,
    EncoderSettings,
    Settings,
    setting_types,
    setting_values,
)

LEAST = {
    "data.shuffle_buffer": 1,
    "tokenizer.vocabulary_size": MINIMUM_VOCABULARY_SIZE,
    "encoder.image_size": 0,
    "encoder.views": 1,
    "decoder.width": 1,
    "decoder.layers": 1,
    "decoder.heads": 1,
    "decoder.feedforward": 1,
    "decoder.max_length": 2,
    "optim.weight_decay": 0,
    "trainer.epochs": 1,
    "trainer.max_steps": 0,
    "trainer.batch_images": 1,
    "trainer.captions_per_row": 0,
    "trainer.gradient_accumulation": 1,
    "trainer.seed": 0,
    "trainer.threads": 0,
    "trainer.validate_every": 1,
    "trainer.validation_images": 0,
    "trainer.patience": 0,
    "trainer.save_every": 0,
    "trainer.keep": 1,
    "trainer.log_every": 1,
    "decoding.beams": 1,
    "decoding.beam_groups": 1,
    "decoding.diversity": 0,
    "decoding.samples": 0,
    "decoding.top_k": 0,
    "decoding.seed": 0,
    "decoding.length_penalty": 0,
    "decoding.max_length": 1,
    "decoding.min_length": 0,
    "decoding.no_repeat_ngram": 0,
    "decoding.repetition_penalty": 1,
    "decoding.batch_size": 1,
}
MOST = {
    "decoding.beams": 1000,
    "decoding.diversity": 1000,
    "decoding.samples": 1000,
    "decoding.top_k": 2**31 - 1,
    "decoding.seed": 2**63 - 1,
    "decoding.length_penalty": 10,
    "decoding.repetition_penalty": 100,
    "decoding.batch_size": 100_000,
}
"""Beyond these, arithmetic overflows or memory ends."""
TEMPERATURES = (0.01, 100)
ABOVE_ZERO = ("optim.lr", "optim.encoder_lr", "optim.clip_norm")
BELOW_ONE = ("projection.dropout", "decoder.dropout", "task.label_smoothing", "optim.ema")
SHARES = ("schedule.warmup", "schedule.floor")
DEFAULTS = Settings()


def check_settings(settings: Settings, *, defaults: Settings = DEFAULTS) -> None:
    """Raise one ConfigError with every setting that is wrong or does not fit another, each with its remedy.

    Args:
        settings: what to check.
        defaults: what they would be if nothing had been changed, such as a preset's, to be named in remedies.
    """
    values = dict(setting_values(settings))
    usual = {**dict(setting_values(DEFAULTS)), **_changed(values, dict(setting_values(defaults)))}
    problems = [
        f"{path}={value!r} is not {describe_type(kind)}"
        for (path, value), kind in zip(values.items(), setting_types().values(), strict=True)
        if not has_type(value, kind)
    ]
    # Ranges mean nothing for a value of the wrong type.
    problems = problems or [
        *_range_problems(values, usual),
        *_name_problems(settings),
        *_metric_problems(settings.task.metrics),
        *_encoder_problems(settings.encoder),
        *_length_problems(settings),
        *_search_problems(settings.decoding, usual),
        *idle_problems(settings.decoding),
        *_head_problems(settings.decoder),
    ]
    if problems:
        raise ConfigError(*problems)


def _changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults that are not the checked values themselves: a preset's own mistake is no remedy."""
    return {path: default for path, default in defaults.items() if default != values[path]}


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the one of the names that a mistyped one most likely means, None where none is near."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)), None)


def parse_metrics(text: str, *, origin: str = "--metrics ") -> tuple[str, ...]:
    """Return the names of metrics that a text lists, separated by commas, in whatever case.

    Raises ConfigError, which begins with the text's origin, where one is unknown or there is none.
    """
    known = {name.lower(): name for name in METRIC_NAMES}
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not names or not known.keys() >= set(names):
        raise ConfigError(f"{origin}{text}: choose from {', '.join(METRIC_NAMES)}, separated by commas")
    return tuple(dict.fromkeys(known[name] for name in names))


def describe_type(kind: Any) -> str:
    """Say in words what values a setting takes, as in ``a number`` or ``one of cosine, linear, constant``."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return f"{len(get_args(kind))} numbers"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]


def has_type(value: Any, kind: Any) -> bool:
    """Tell whether a value is one that a setting of that type takes."""
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(has_type, value, kinds))
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


def _range_problems(values: Mapping[str, Any], usual: Mapping[str, Any]) -> Iterator[str]:
    # Written so that NaN, which compares false with everything, is a problem everywhere.
    for path, least in LEAST.items():
        if not least <= values[path] < math.inf:
            fault = "too small" if values[path] < least else "no finite number"
            yield f"{path}={values[path]} is {fault}; use {least} or more"
    for path, most in MOST.items():
        if most < values[path] < math.inf:
            yield f"{path}={values[path]} is too large; use {most} or less"
    temperature, (coldest, hottest) = values["decoding.temperature"], TEMPERATURES
    if not coldest <= temperature <= hottest:
        remedy = f"the default is {usual['decoding.temperature']}"
        yield f"decoding.temperature={temperature} is not in [{coldest}, {hottest}]; {remedy}"
    for path in ABOVE_ZERO:
        if not 0 < values[path] < math.inf:
            yield f"{path}={values[path]} is not above 0; the default is {usual[path]}"
    for path in BELOW_ONE:
        if not 0 <= values[path] < 1:
            yield f"{path}={values[path]} is not in [0, 1); the default is {usual[path]}"
    for path in SHARES:
        if not 0 <= values[path] <= 1:
            yield f"{path}={values[path]} is not a share in [0, 1]; the default is {usual[path]}"
    if not 0 < values["optim.layer_decay"] <= 1:
        yield f"optim.layer_decay={values['optim.layer_decay']} is not in (0, 1]; use 1 for the same rate in all layers"
    if not all(0 <= beta < 1 for beta in values["optim.betas"]):
        yield f"optim.betas={values['optim.betas']} are not in [0, 1); the default is {usual['optim.betas']}"


def _name_problems(settings: Settings) -> Iterator[str]:
    for path, name, needed in (("data.name", settings.data.name, True), ("trainer.run", settings.trainer.run, False)):
        if name in (".", "..") or (needed and not name) or re.search(r"[/\\\0]", name):
            folder = path.replace("name", "folder").replace("run", "folder")
            yield f"{path}={name!r} is not a plain folder name; put the rest of the path into {folder}"
    for path, name, names in (
        ("projection.kind", settings.projection.kind, PROJECTION_KINDS),
        ("task.name", settings.task.name, TASK_NAMES),
    ):
        if name not in names:
            near = nearest_name(name, names)
            yield f"{path}={name} is unknown; {f'did you mean {near}? ' if near else ''}known: {', '.join(names)}"
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", settings.trainer.device):
        yield f"trainer.device={settings.trainer.device} is unknown; use auto, cpu, cuda, cuda:1 or mps"
    if settings.hub.repo_id and not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", settings.hub.repo_id):
        yield f"hub.repo_id={settings.hub.repo_id} is no repository; use owner/name"
    if settings.hub.checkpoints and not settings.hub.repo_id:
        yield "hub.checkpoints has nowhere to go; set hub.repo_id to a repository, or drop it"
    if settings.tracking.wandb and not settings.tracking.project:
        yield "tracking.project is empty; name the Weights & Biases project"


def _metric_problems(metrics: str) -> Iterator[str]:
    if metrics:
        try:
            parse_metrics(metrics, origin="task.metrics=")
        except ConfigError as error:
            yield str(error)


def _encoder_problems(encoder: EncoderSettings) -> Iterator[str]:
    if encoder.gradient_checkpointing and not encoder.trainable:
        yield "encoder.gradient_checkpointing saves nothing with a frozen encoder; drop it or set encoder.trainable"
    if not encoder.config:
        if not encoder.name:
            yield "encoder.name is empty; give a Hub id, a local folder, or encoder.config"
        return
    remedy = 'use one like {"model_type": "vit", "hidden_size": 64}'
    try:
        config = json.loads(encoder.config)
    except json.JSONDecodeError as error:
        yield f"encoder.config is not JSON ({error}); {remedy}"
        return
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        yield f"encoder.config has no model_type; {remedy}"


def _length_problems(settings: Settings) -> Iterator[str]:
    longest, wanted = settings.decoder.max_length, settings.decoding.max_length
    if wanted > longest:
        yield f"decoding.max_length={wanted} is above decoder.max_length={longest}; lower the first or raise the second"
    shortest = settings.decoding.min_length
    if wanted > 0 and shortest >= wanted:
        yield (
            f"decoding.min_length={shortest} leaves no room in decoding.max_length={wanted}, which counts the end "
            f"token too; use at most {wanted - 1}"
        )


def _search_problems(decoding: DecodingSettings, usual: Mapping[str, Any]) -> Iterator[str]:
    if decoding.beam_groups > 0 and decoding.beams % decoding.beam_groups:
        yield f"decoding.beams={decoding.beams} cannot be split into beam_groups={decoding.beam_groups}; use a multiple"
    if not 0 < decoding.top_p <= 1:
        yield f"decoding.top_p={decoding.top_p} is not in (0, 1]; the default is {usual['decoding.top_p']}"


def _head_problems(decoder: DecoderSettings) -> Iterator[str]:
    width, heads = decoder.width, decoder.heads
    if width < 1 or heads < 1:
        return
    # Rotary positions turn pairs of channels, so a head's size must be even.
    unit = heads * 2 if decoder.positions == "rotary" else heads
    if width % unit:
        below, above = width // unit * unit, (width // unit + 1) * unit
        nearest = f"{below} or {above}" if below else f"{above}"
        even = " into even parts, which rotary positions need" if unit != heads else ""
        yield f"decoder.width={width} is not divisible by heads={heads}{even}; use {nearest}"
