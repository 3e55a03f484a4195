"""Every setting, its default and its one-line meaning; validation in one place.

The dataclasses are frozen; ``Settings.check()`` collects every problem and raises them together. The docstring under
each field becomes its ``--help``.
"""

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

from captioner.errors import ConfigError

PROJECTION_KINDS = ("linear", "mlp", "bottleneck", "residual_mlp")
TASK_NAMES = ("captioning",)
MINIMUM_VOCABULARY_SIZE = 260
"""Room for the 256 bytes, out of which BPE can spell any text, and the four special tokens."""


@dataclass(frozen=True)
class DataSettings:
    """The prepared dataset."""

    name: str = "scenes"
    """Prepared dataset to use: the folder <folder>/<name>."""
    folder: str = "data"
    """Folder that holds the prepared datasets."""
    source: str = ""
    """Reader that prepares the dataset where it is missing; empty: the one called like the dataset."""
    root: str = ""
    """Folder of the source's files, for preparing the dataset where it is missing."""
    splits: Literal["standard", "all"] = "standard"
    """Train on the standard training split, or on all images of the source."""


@dataclass(frozen=True)
class TokenizerSettings:
    """The BPE tokenizer, trained on the training captions."""

    vocabulary_size: int = 4000
    """Largest number of tokens, special ones included."""
    lowercase: bool = True
    """Fold captions to lower case before tokenizing."""
    keep_punctuation: bool = False
    """Keep punctuation between words (apostrophes and hyphens within words always stay)."""
    capitalise: bool = True
    """Begin decoded captions with a capital letter."""


@dataclass(frozen=True)
class EncoderSettings:
    """The image encoder."""

    name: str = "openai/clip-vit-base-patch32"
    """Hub id or local folder of a transformers vision model."""
    revision: str = ""
    """Pinned Hub revision; empty: the repository's default."""
    config: str = ""
    """A transformers config as JSON with its model_type: build this encoder with random weights and ignore the name."""
    image_size: int = 0
    """Side of the square input in pixels; 0: what the encoder's processor says."""
    trainable: bool = False
    """Train the encoder too; otherwise it is frozen and its features are cached."""
    views: int = 1
    """Cached views of a training image: 1 the image, 2 also its mirror image, more add random crops."""


@dataclass(frozen=True)
class ProjectionSettings:
    """From the encoder's width to the decoder's."""

    kind: str = "linear"
    """linear, mlp, bottleneck or residual_mlp."""
    dropout: float = 0.0
    """Dropout on the projected tokens."""
    positions: bool = False
    """Add a learned embedding of its place to every image token; convolutional encoders leave places out."""


@dataclass(frozen=True)
class DecoderSettings:
    """The Transformer decoder."""

    width: int = 512
    """Width of the residual stream."""
    layers: int = 6
    """Number of blocks."""
    heads: int = 8
    """Attention heads; must divide the width."""
    feedforward: int = 4
    """Width of the feed-forward layer, in multiples of the width."""
    dropout: float = 0.1
    """Dropout on embeddings and residual branches."""
    positions: Literal["learned", "rotary"] = "learned"
    """How the decoder knows a token's place."""
    max_length: int = 64
    """Longest caption in tokens, the end token included."""
    tie_embeddings: bool = True
    """Share the weights of the token embedding and the output layer."""


@dataclass(frozen=True)
class TaskSettings:
    """What is trained."""

    name: str = "captioning"
    """captioning: cross-entropy on every image-caption pair."""
    label_smoothing: float = 0.1
    """Share of the target probability spread over the vocabulary."""


@dataclass(frozen=True)
class OptimSettings:
    """AdamW and its parameter groups."""

    lr: float = 3e-4
    """Peak learning rate."""
    encoder_lr: float = 1e-5
    """Peak learning rate of a trainable encoder."""
    weight_decay: float = 0.05
    """Weight decay of matrices; biases, norms and embeddings have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's moment coefficients."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""


@dataclass(frozen=True)
class ScheduleSettings:
    """The learning rate over time: linear warm-up, then decay."""

    kind: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after warm-up."""
    warmup: float = 0.05
    """Share of all steps spent warming up."""
    floor: float = 0.0
    """Learning rate at the end, as a share of the peak."""


@dataclass(frozen=True)
class TrainerSettings:
    """The training run."""

    run: str = ""
    """Name of the run; empty: the preset's name."""
    folder: str = "checkpoints"
    """Folder that holds the runs."""
    epochs: int = 20
    """Passes over the training images."""
    max_steps: int = 0
    """Stop after this many steps; 0: after the epochs."""
    batch_images: int = 32
    """Rows of a batch; each is an image with captions."""
    captions_per_row: int = 0
    """Captions that share one pass of their image, 0 for all; more passes cost time and teach a new encoder faster."""
    length_buckets: bool = True
    """Put rows of like length into a batch; not for batch normalisation, whose statistics then follow the length."""
    gradient_accumulation: int = 1
    """Batches whose gradients are summed for one step."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Arithmetic of the matrix products; auto: bf16 where the hardware multiplies it, else fp32."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0
    """Seed of everything random."""
    validate_every: int = 1
    """Epochs between validations, each of which saves a checkpoint."""
    validation_images: int = 0
    """Validate on the first so many images; 0: all."""
    keep: int = 2
    """Checkpoints kept beside the best."""
    log_every: int = 50
    """Steps between lines of metrics.jsonl."""
    overwrite: bool = False
    """Start anew over an existing run of the same name."""


@dataclass(frozen=True)
class DecodingSettings:
    """How captions are generated."""

    beams: int = 3
    """Width of the beam; 1 decodes greedily."""
    length_penalty: float = 0.7
    """Scores are divided by length to this power."""
    max_length: int = 30
    """Longest caption in tokens."""
    min_length: int = 1
    """Shortest caption in tokens."""
    no_repeat_ngram: int = 3
    """No sequence of so many tokens occurs twice; 0 allows it."""
    batch_size: int = 32
    """Images decoded together."""


@dataclass(frozen=True)
class TrackingSettings:
    """Where curves go beside metrics.jsonl."""

    wandb: bool = False
    """Log to Weights & Biases (WANDB_MODE=offline works)."""
    tensorboard: bool = False
    """Log to TensorBoard, in the run's folder."""
    project: str = "captioner"
    """Weights & Biases project."""


@dataclass(frozen=True)
class HubSettings:
    """The Hugging Face Hub."""

    repo_id: str = ""
    """Upload every new best to this repository, in the background."""
    private: bool = True
    """Create the repository as private."""


@dataclass(frozen=True)
class ExportSettings:
    """The export of the best checkpoint."""

    bundle_encoder: bool = False
    """Store a frozen Hub encoder's weights in the export; local and trained encoders always are."""


@dataclass(frozen=True)
class Settings:
    """All settings of a run."""

    data: DataSettings = field(default_factory=DataSettings)
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    encoder: EncoderSettings = field(default_factory=EncoderSettings)
    projection: ProjectionSettings = field(default_factory=ProjectionSettings)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    task: TaskSettings = field(default_factory=TaskSettings)
    optim: OptimSettings = field(default_factory=OptimSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    trainer: TrainerSettings = field(default_factory=TrainerSettings)
    decoding: DecodingSettings = field(default_factory=DecodingSettings)
    tracking: TrackingSettings = field(default_factory=TrackingSettings)
    hub: HubSettings = field(default_factory=HubSettings)
    export: ExportSettings = field(default_factory=ExportSettings)

    def check(self) -> None:
        """Raise one ConfigError with every setting that is wrong or does not fit another, each with its remedy."""
        values = dict(setting_values(self))
        problems = [
            f"{path}={value!r} is not {describe_type(kind)}"
            for (path, value), kind in zip(values.items(), setting_types().values(), strict=True)
            if not _has_type(value, kind)
        ]
        # Ranges mean nothing for a value of the wrong type.
        problems = problems or [
            *_range_problems(values),
            *_name_problems(self),
            *_encoder_problems(self.encoder),
            *_length_problems(self),
            *_head_problems(self.decoder),
        ]
        if problems:
            raise ConfigError(*problems)


def setting_types() -> dict[str, Any]:
    """Return the type of every setting by its path, as in ``{"optim.lr": float, …}``."""
    return {f"{group.name}.{leaf.name}": leaf.type for group in fields(Settings) for leaf in fields(group.type)}


def setting_values(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield every setting's path and value, as in ``("optim.lr", 0.0003)``."""
    for path in setting_types():
        group, leaf = path.split(".")
        yield path, getattr(getattr(settings, group), leaf)


def settings_to_dict(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the settings as nested dictionaries that JSON can hold."""
    return json.loads(json.dumps(asdict(settings)))


def settings_from_dict(content: Mapping[str, Any]) -> Settings:
    """Rebuild settings from ``settings_to_dict``'s dictionaries; settings that are not in them keep their defaults.

    Raises ConfigError with every unknown name and every value of a wrong type.
    """
    types = setting_types()
    groups = {group.name: group.type for group in fields(Settings)}
    problems: list[str] = []
    values: dict[str, dict[str, Any]] = {name: {} for name in groups}
    for group, leaves in content.items():
        if group not in groups:
            problems.append(_unknown_setting(group, groups))
        elif not isinstance(leaves, Mapping):
            problems.append(f"{group}={leaves!r} is not a group of settings; it has {', '.join(_leaf_names(group))}")
        else:
            for leaf, value in leaves.items():
                path = f"{group}.{leaf}"
                value = tuple(value) if isinstance(value, list) else value
                if path not in types:
                    problems.append(_unknown_setting(path, types))
                elif not _has_type(value, types[path]):
                    problems.append(f"{path}={value!r} is not {describe_type(types[path])}")
                else:
                    values[group][leaf] = value
    if problems:
        raise ConfigError(*problems)
    return Settings(**{name: kind(**values[name]) for name, kind in groups.items()})


def settings_differences(before: Settings, after: Settings) -> list[str]:
    """Return one line for every setting that differs, as in ``optim.lr: 0.0003 -> 0.001``."""
    pairs = zip(setting_values(before), setting_values(after), strict=True)
    return [f"{path}: {old!r} -> {new!r}" for (path, old), (_, new) in pairs if old != new]


def nearest_name(name: str, names: Iterable[str]) -> str | None:
    """Return the one of the names that a mistyped one most likely means, None where none is near."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1, cutoff=0.6)), None)


def describe_type(kind: Any) -> str:
    """Say in words what values a setting takes, as in ``a number`` or ``one of cosine, linear, constant``."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        return f"{len(get_args(kind))} numbers"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[kind]


def _has_type(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_has_type, value, kinds))
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


def _unknown_setting(path: str, known: Iterable[str]) -> str:
    near = nearest_name(path, known)
    remedy = f"did you mean {near}?" if near else "remove it"
    return f"{path}: no such setting in this version of captioner; {remedy}"


def _leaf_names(group: str) -> list[str]:
    return [path.split(".")[1] for path in setting_types() if path.startswith(f"{group}.")]


LEAST = {
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
    "trainer.validate_every": 1,
    "trainer.validation_images": 0,
    "trainer.keep": 1,
    "trainer.log_every": 1,
    "decoding.beams": 1,
    "decoding.length_penalty": 0,
    "decoding.max_length": 1,
    "decoding.min_length": 0,
    "decoding.no_repeat_ngram": 0,
    "decoding.batch_size": 1,
}
ABOVE_ZERO = ("optim.lr", "optim.encoder_lr", "optim.clip_norm")
BELOW_ONE = ("projection.dropout", "decoder.dropout", "task.label_smoothing")
SHARES = ("schedule.warmup", "schedule.floor")


def _range_problems(values: Mapping[str, Any]) -> Iterator[str]:
    # Written so that NaN, which compares false with everything, is a problem everywhere.
    for path, least in LEAST.items():
        if not least <= values[path] < math.inf:
            fault = "too small" if values[path] < least else "no finite number"
            yield f"{path}={values[path]} is {fault}; use {least} or more"
    for path in ABOVE_ZERO:
        if not 0 < values[path] < math.inf:
            yield f"{path}={values[path]} is not above 0; the default is {DEFAULTS[path]}"
    for path in BELOW_ONE:
        if not 0 <= values[path] < 1:
            yield f"{path}={values[path]} is not in [0, 1); the default is {DEFAULTS[path]}"
    for path in SHARES:
        if not 0 <= values[path] <= 1:
            yield f"{path}={values[path]} is not a share in [0, 1]; the default is {DEFAULTS[path]}"
    if not all(0 <= beta < 1 for beta in values["optim.betas"]):
        yield f"optim.betas={values['optim.betas']} are not in [0, 1); the default is {DEFAULTS['optim.betas']}"


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
    if settings.tracking.wandb and not settings.tracking.project:
        yield "tracking.project is empty; name the Weights & Biases project"


def _encoder_problems(encoder: EncoderSettings) -> Iterator[str]:
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
    if settings.decoding.min_length > wanted:
        yield f"decoding.min_length={settings.decoding.min_length} is above decoding.max_length={wanted}; lower it"


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


DEFAULTS = dict(setting_values(Settings()))
