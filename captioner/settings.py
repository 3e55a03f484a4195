"""Every setting, its default and its one-line meaning; the docstring under each field becomes its ``--help``."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

PROJECTION_KINDS = ("linear", "mlp", "bottleneck", "residual_mlp")
TASK_NAMES = ("captioning",)
METRIC_NAMES = ("BLEU", "ROUGE-L", "CIDEr-D", "CIDEr", "METEOR", "SPICE", "diversity", "length")
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
    streaming: str = ""
    """Train from shards without preparing them: their folder, or a pattern of .parquet or .tar files."""
    shuffle_buffer: int = 8192
    """Images of a stream that are read and shuffled together, in each process."""


@dataclass(frozen=True)
class TokenizerSettings:
    """The BPE tokenizer, trained on the training captions."""

    file: str = ""
    """A tokenizer.json to use as it is; empty: train one."""
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
    gradient_checkpointing: bool = False
    """Compute a trainable encoder's activations twice instead of keeping them: much less memory, a third more time."""
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
    metrics: str = ""
    """Metrics of the evaluation after training, separated by commas; empty: all that are default."""


@dataclass(frozen=True)
class OptimSettings:
    """AdamW and its parameter groups."""

    lr: float = 3e-4
    """Peak learning rate."""
    encoder_lr: float = 1e-5
    """Peak learning rate of a trainable encoder."""
    layer_decay: float = 1.0
    """Factor by which a trainable encoder's rate falls from each layer to the one before, such as 0.75; 1: none."""
    weight_decay: float = 0.05
    """Weight decay of matrices; biases, norms and embeddings have none."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's moment coefficients."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema: float = 0.0
    """Decay of a moving average of the weights, such as 0.999, which is validated and exported; 0: no average."""


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
    compile: bool = False
    """Compile the network (torch.compile): minutes at the start; benchmarks.training tells what steps gain."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    threads: int = 0
    """CPU threads that share an operation; 0: torch's choice, one a core."""
    seed: int = 0
    """Seed of everything random."""
    validate_every: int = 1
    """Epochs between validations, each of which saves a checkpoint."""
    validation_images: int = 0
    """Validate on the first so many images; 0: all."""
    patience: int = 0
    """Stop after so many validations without a new best; 0: never."""
    save_every: int = 0
    """Steps between checkpoints beside those of the validations; 0: none."""
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
    beam_groups: int = 1
    """Groups of beams that avoid each other's words (diverse beam search); must divide the beams."""
    diversity: float = 0.5
    """With several groups: what a token costs that an earlier group has just taken."""
    samples: int = 0
    """Captions drawn at random for each image, instead of searching; 0 searches."""
    temperature: float = 1.0
    """For samples: below 1 likely tokens become likelier, above 1 less likely."""
    top_k: int = 0
    """For samples: draw from so many of the likeliest tokens; 0: from all."""
    top_p: float = 1.0
    """For samples: draw from the likeliest tokens that make up this probability."""
    seed: int = 0
    """For samples: seed of what is drawn, the same for every image."""
    length_penalty: float = 0.7
    """Scores are divided by length to this power."""
    max_length: int = 30
    """Longest caption in tokens."""
    min_length: int = 1
    """Shortest caption in tokens."""
    no_repeat_ngram: int = 3
    """No sequence of so many tokens occurs twice; 0 allows it."""
    repetition_penalty: float = 1.0
    """Log-probabilities of tokens that the caption has already are multiplied by this; 1 changes nothing."""
    prefix: str = ""
    """What every caption begins with, such as "a photo of"."""
    banned_words: str = ""
    """Words and phrases that no caption has, separated by commas."""
    bad_endings: str = ""
    """Words that no caption ends with, separated by commas, such as "a,an,the,of,in,on,with,and"."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Arithmetic of the decoder; auto: bf16 where the hardware multiplies it, else fp32; int8 rounds weights."""
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
    checkpoints: bool = False
    """Upload every new checkpoint with it, in the place of the one before: --resume OWNER/NAME then goes on exactly."""
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


def setting_types() -> dict[str, Any]:
    """Return the type of every setting by its path, as in ``{"optim.lr": float, …}``."""
    return {f"{group.name}.{leaf.name}": leaf.type for group in fields(Settings) for leaf in fields(group.type)}


def setting_values(settings: Settings) -> Iterator[tuple[str, Any]]:
    """Yield every setting's path and value, as in ``("optim.lr", 0.0003)``."""
    for path in setting_types():
        group, leaf = path.split(".")
        yield path, getattr(getattr(settings, group), leaf)
