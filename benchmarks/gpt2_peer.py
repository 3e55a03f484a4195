"""GPT-2's blocks in the shapes of this project's decoder: what transformers offers in its place."""

from typing import Any

from transformers import GPT2Config

from captioner.settings import DecoderSettings


def as_gpt2(shape: DecoderSettings, vocabulary: int, **more: Any) -> GPT2Config:
    """The config of a GPT-2 that is a decoder with cross-attention.

    Args:
        shape: of the decoder that it stands beside.
        vocabulary: rows of its embedding.
        more: what else the config says, such as dropout and the special tokens.
    """
    return GPT2Config(
        vocab_size=vocabulary,
        n_positions=shape.max_length,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        n_inner=shape.feedforward * shape.width,
        activation_function="gelu",
        add_cross_attention=True,
        is_decoder=True,
        **more,
    )
