"""The project's decoder behind transformers' ``generate()``, as one would put it there.

Keys and values of the captions live in transformers' ``DynamicCache``, which ``generate()`` reorders; those of the
image tokens, which ``generate()`` repeats for every beam, are computed at the first step and kept.
"""

import itertools

import torch
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutputWithPast

from captioner.decoding.hypotheses import SpecialTokens
from captioner.models.decoder import DecoderBlock, TransformerDecoder
from captioner.settings import DecodingSettings


class AdapterConfig(PretrainedConfig):
    """What ``generate()`` asks of a model's config."""

    model_type = "captioner-decoder"


class DecoderBehindGenerate(PreTrainedModel, GenerationMixin):
    """``TransformerDecoder`` as a causal language model that also takes image tokens."""

    config_class = AdapterConfig
    main_input_name = "input_ids"

    def __init__(self, decoder: TransformerDecoder) -> None:
        settings = decoder.settings
        sizes = {"hidden_size": settings.width, "num_attention_heads": settings.heads}
        config = AdapterConfig(
            **sizes, num_hidden_layers=settings.layers, vocab_size=decoder.token_embedding.num_embeddings
        )
        super().__init__(config)
        self.decoder = decoder

    def forward(
        self,
        input_ids: Tensor,
        memory: Tensor,
        past_key_values: DynamicCache | None = None,
        use_cache: bool = True,
        **_: object,
    ) -> CausalLMOutputWithPast:
        """Logits of the next token after ``input_ids`` [rows, length]; ``memory`` is [rows, patches, width]."""
        seen = past_key_values.get_seq_length() if past_key_values is not None else 0
        positions = torch.arange(seen, seen + input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        if past_key_values is None:
            return CausalLMOutputWithPast(logits=self.decoder(input_ids, memory, positions=positions))
        if not seen:
            past_key_values.image_pairs = [block.cross_attention.remember(memory) for block in self.decoder.blocks]
        hidden = self.decoder.embed(input_ids, positions)
        for layer, block in enumerate(self.decoder.blocks):
            hidden = _step(block, hidden, positions, past_key_values, layer)
        logits = self.decoder.output(self.decoder.norm(hidden[:, -1:]))
        return CausalLMOutputWithPast(logits=logits, past_key_values=past_key_values)


def _step(block: DecoderBlock, hidden: Tensor, positions: Tensor, cache: DynamicCache, layer: int) -> Tensor:
    attention = block.self_attention
    query, key, value = attention.project(block.self_norm(hidden), positions)
    keys, values = cache.update(key, value, layer)
    causal = query.shape[2] > 1
    attended = functional.scaled_dot_product_attention(query, keys, values, is_causal=causal)
    hidden = hidden + attention.output(attended.transpose(1, 2).flatten(2))
    hidden = hidden + block.cross_attention(block.cross_norm(hidden), *cache.image_pairs[layer])
    return hidden + block.feedforward(block.feedforward_norm(hidden))


def generation_config(
    settings: DecodingSettings, special: SpecialTokens, *, captions: int, use_cache: bool
) -> GenerationConfig:
    """The decoding settings in transformers' words, for ``captions`` captions an image."""
    length_penalty = {"length_penalty": settings.length_penalty} if settings.beams > 1 else {}
    return GenerationConfig(
        num_beams=settings.beams,
        num_return_sequences=captions,
        do_sample=False,
        use_cache=use_cache,
        return_dict_in_generate=True,
        output_scores=settings.beams > 1,
        max_new_tokens=settings.max_length,
        min_new_tokens=settings.min_length or None,
        no_repeat_ngram_size=settings.no_repeat_ngram or None,
        suppress_tokens=special.never_generated,
        bos_token_id=special.start,
        decoder_start_token_id=special.start,
        eos_token_id=special.end,
        pad_token_id=special.pad,
        **length_penalty,
    )


@torch.inference_mode()
def generate_with_transformers(
    model: PreTrainedModel,
    memory: Tensor,
    settings: DecodingSettings,
    special: SpecialTokens,
    *,
    captions: int = 1,
    use_cache: bool = True,
    encoded: bool = False,
) -> tuple[list[list[list[int]]], Tensor | None]:
    """Captions by ``generate()``.

    Args:
        model: this adapter, or an encoder-decoder model.
        memory: image tokens [images, patches, width].
        settings: how to decode.
        special: the special tokens.
        captions: captions an image.
        use_cache: whether to keep keys and values between steps.
        encoded: whether the model takes the image tokens as its encoder's output.

    Returns:
        For every image its captions, each the tokens up to the end token and without it; and their scores
        [images x captions], None for greedy decoding.
    """
    dtype = next(model.parameters()).dtype
    start = torch.full((len(memory), 1), special.start, device=memory.device)
    if encoded:
        inputs = {"encoder_outputs": BaseModelOutput(memory.to(dtype)), "decoder_input_ids": start}
    else:
        inputs = {"memory": memory.to(dtype), "input_ids": start}
    found = model.generate(
        **inputs, generation_config=generation_config(settings, special, captions=captions, use_cache=use_cache)
    )
    rows = [_until_end(row, special) for row in found.sequences[:, 1:].tolist()]
    images = [rows[place : place + captions] for place in range(0, len(rows), captions)]
    return images, getattr(found, "sequences_scores", None)


def _until_end(row: list[int], special: SpecialTokens) -> list[int]:
    return list(itertools.takewhile(lambda token: token not in (special.end, special.pad), row))
