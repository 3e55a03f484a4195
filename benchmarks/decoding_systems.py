"""What ``benchmarks.decoding`` compares: the same weights behind this project's decoding and behind transformers'."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.generate_adapter import DecoderBehindGenerate, generate_with_transformers
from captioner.decoding.generation import generate
from captioner.decoding.hypotheses import SpecialTokens
from captioner.models.decoder import TransformerDecoder
from captioner.models.packed_decoder import PackedDecoder
from captioner.settings import DecodingSettings

Captions = list[tuple[int, ...]]
System = Callable[[Tensor, DecodingSettings], Captions]
"""From image tokens [images, patches, width] and settings, ``batch_size`` among them, to the best captions."""

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
OURS, SEPARATE, BEHIND_GENERATE, ENCODER_DECODER = (
    "captioner",
    "captioner, separate batches",
    "generate(), same decoder",
    "VisionEncoderDecoderModel",
)


@dataclass
class Ours:
    """This project's decoding; ``rows`` counts the captions' rows that its decoder stepped, for the roofline."""

    packed: PackedDecoder
    special: SpecialTokens
    refill: bool
    rows: int = 0

    def __post_init__(self) -> None:
        step = self.packed.step

        def counted(tokens: Tensor, *arguments: object, **options: object) -> Tensor:
            self.rows += tokens.numel()
            return step(tokens, *arguments, **options)

        self.packed = copy.copy(self.packed)
        self.packed.step = counted

    def __call__(self, memory: Tensor, settings: DecodingSettings) -> Captions:
        parts = [memory] if self.refill else memory.split(settings.batch_size)
        return [found[0].tokens for part in parts for found in generate(self.packed, part, settings, self.special)]


def build_systems(decoder: TransformerDecoder, special: SpecialTokens, precision: str) -> dict[str, System]:
    """The systems that can compute in a precision, by their names in the table."""
    packed = PackedDecoder(decoder, precision=precision)
    systems: dict[str, System] = {OURS: Ours(packed, special, True), SEPARATE: Ours(packed, special, False)}
    if precision not in DTYPES:
        return systems
    peer = copy.deepcopy(decoder).to(DTYPES[precision])
    adapter = DecoderBehindGenerate(peer).eval()

    def behind_generate(memory: Tensor, settings: DecodingSettings) -> Captions:
        return _by_batch(memory, settings, lambda part: generate_with_transformers(adapter, part, settings, special))

    systems[BEHIND_GENERATE] = behind_generate
    if decoder.position_embedding is not None:  # GPT-2 knows no others
        model = as_encoder_decoder(decoder, special).to(DTYPES[precision])

        def encoder_decoder(memory: Tensor, settings: DecodingSettings) -> Captions:
            return _by_batch(
                memory, settings, lambda part: generate_with_transformers(model, part, settings, special, encoded=True)
            )

        systems[ENCODER_DECODER] = encoder_decoder
    return systems


def _by_batch(memory: Tensor, settings: DecodingSettings, captions: Callable[[Tensor], tuple]) -> Captions:
    return [tuple(found[0]) for part in memory.split(settings.batch_size) for found in captions(part)[0]]


def as_encoder_decoder(decoder: TransformerDecoder, special: SpecialTokens) -> torch.nn.Module:
    """A VisionEncoderDecoderModel with GPT-2 as decoder, which has the same blocks, holding the decoder's weights."""
    from transformers import VisionEncoderDecoderConfig, VisionEncoderDecoderModel, ViTConfig

    from benchmarks.gpt2_peer import as_gpt2

    shape = decoder.settings
    text = as_gpt2(
        shape,
        decoder.token_embedding.num_embeddings,
        tie_word_embeddings=False,
        bos_token_id=special.start,
        eos_token_id=special.end,
        pad_token_id=special.pad,
    )
    # The encoder is never run: the image tokens are given.
    vision = ViTConfig(
        hidden_size=shape.width,
        num_hidden_layers=1,
        num_attention_heads=shape.heads,
        intermediate_size=8,
        image_size=32,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(vision, text)
    model = VisionEncoderDecoderModel(config).eval()
    copy_weights(decoder, model.decoder)
    return model


@torch.no_grad()
def copy_weights(decoder: TransformerDecoder, gpt: torch.nn.Module) -> None:
    """Copy our decoder's weights into GPT-2's places, whose matrices are stored the other way round."""
    body = gpt.transformer
    body.wte.weight.copy_(decoder.token_embedding.weight)
    body.wpe.weight.copy_(decoder.position_embedding.weight)
    gpt.lm_head.weight.copy_(decoder.output.weight)
    body.ln_f.load_state_dict(decoder.norm.state_dict())
    for ours, theirs in zip(decoder.blocks, body.h, strict=True):
        own, cross = ours.self_attention, ours.cross_attention
        theirs.ln_1.load_state_dict(ours.self_norm.state_dict())
        theirs.ln_cross_attn.load_state_dict(ours.cross_norm.state_dict())
        theirs.ln_2.load_state_dict(ours.feedforward_norm.state_dict())
        for source, target in (
            (own.query_key_value, theirs.attn.c_attn),
            (own.output, theirs.attn.c_proj),
            (cross.query, theirs.crossattention.q_attn),
            (cross.key_value, theirs.crossattention.c_attn),
            (cross.output, theirs.crossattention.c_proj),
            (ours.feedforward[0], theirs.mlp.c_fc),
            (ours.feedforward[2], theirs.mlp.c_proj),
        ):
            target.weight.copy_(source.weight.t())
            target.bias.copy_(source.bias)
