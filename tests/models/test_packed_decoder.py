import pytest
import torch
from small_decoders import POSITIONS, SETTINGS, VOCABULARY, make_decoder

from captioner.models.packed_decoder import VOCABULARY_MULTIPLE, PackedDecoder
from captioner.models.packed_weights import PANEL, PRECISIONS, as_panels, choose_precision, pack, side_by_side


def make_inputs(*, captions, length=7, patches=5, images):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, VOCABULARY, (captions, length), generator=generator)
    return tokens, torch.randn(images, patches, SETTINGS.width, generator=generator)


def open_filled(packed, memory, *, beams):
    cache = packed.open(slots=len(memory), beams=beams, max_length=9, patches=memory.shape[1])
    cache.fill(list(range(len(memory))), *packed.remember(memory))
    return cache


def step(packed, tokens, lengths, cache):
    """Logits [slots, beams, vocabulary]."""
    logits = packed.step(tokens, torch.tensor(lengths), cache, shortest=min(lengths), longest=max(lengths))
    assert logits.shape[1] % VOCABULARY_MULTIPLE == 0
    assert logits[:, VOCABULARY:].isneginf().all()
    return logits[:, :VOCABULARY].view(*tokens.shape, VOCABULARY)


@torch.inference_mode()
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("beams", [1, 3])
def test_steps_give_the_logits_of_the_whole_caption(positions, beams):
    decoder = make_decoder(positions=positions)
    tokens, memory = make_inputs(captions=2 * beams, images=2)
    expected = decoder(tokens, memory.repeat_interleave(beams, dim=0))
    packed = PackedDecoder(decoder)
    cache = open_filled(packed, memory, beams=beams)
    found = [step(packed, tokens[:, place].view(2, beams), [place] * 2, cache) for place in range(7)]
    torch.testing.assert_close(torch.stack(found, dim=2).flatten(0, 1), expected, rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("positions", POSITIONS)
def test_beams_go_on_from_others_and_slots_from_new_images(positions):
    """After three steps, image 1 leaves, image 2 moves into its slot, and image 3 takes the slot of image 0."""
    decoder = make_decoder(positions=positions)
    tokens, memory = make_inputs(captions=6, images=4)
    packed = PackedDecoder(decoder)
    cache = open_filled(packed, memory[:3], beams=2)
    for place in range(3):
        step(packed, tokens[:, place].view(3, 2), [place] * 3, cache)
    cache.follow(torch.tensor([[1, 0], [0, 1], [0, 0]]))  # both beams of image 2 go on from its first
    cache.move([2], [1])
    cache.fill([0], *packed.remember(memory[3:]))
    newest = torch.tensor([[3, 4], [5, 6]])
    found = step(packed, newest, [0, 3], cache)
    for beam in range(2):
        fresh = decoder(newest[None, 0, beam, None], memory[3:])[0, -1]
        torch.testing.assert_close(found[0, beam], fresh, rtol=0, atol=1e-5)
        caption = torch.cat([tokens[4, :3], newest[1, beam, None]])  # of image 2's first beam
        torch.testing.assert_close(found[1, beam], decoder(caption[None], memory[2:3])[0, -1], rtol=0, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.03), ("int8", 0.02)])
def test_rounded_weights_change_probabilities_little(precision, tolerance):
    decoder = make_decoder(width=64)
    tokens, _ = make_inputs(captions=6, images=2)
    memory = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(2))
    found = []
    for name in ("fp32", precision):
        packed = PackedDecoder(decoder, precision=name)
        cache = open_filled(packed, memory, beams=3)
        logits = [step(packed, tokens[:, place].view(2, 3), [place] * 2, cache) for place in range(7)]
        found.append(torch.stack(logits).float().softmax(dim=-1))
    difference = (found[0] - found[1]).abs().mean()
    assert 0 < difference < tolerance


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize(("outputs", "panel"), [(24, 8), (24, 24), (10, 8)])
def test_panels_hold_what_the_layer_gives(precision, outputs, panel):
    layer, rows = torch.nn.Linear(32, outputs), torch.randn(6, 32)
    panels = pack(layer, precision, panel=panel)(rows.to(PRECISIONS[precision]))
    assert len(panels) == (outputs // panel if outputs % panel == 0 else 1)
    tolerance = 1e-5 if precision == "fp32" else 0.03
    torch.testing.assert_close(side_by_side(panels).float(), layer(rows).detach(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("width", [PANEL // 2, PANEL, 2 * PANEL])
def test_panels_of_rows_are_the_rows_themselves(width):
    rows = torch.randn(3, width)
    panels = as_panels(rows)
    assert panels.data_ptr() == rows.data_ptr()
    assert torch.equal(side_by_side(panels), rows)
    assert panels.shape[2] == min(width, PANEL)


def test_an_int8_row_does_not_depend_on_the_others():
    layer = torch.nn.Linear(32, 24)
    packed, rows = pack(layer, "int8"), torch.randn(6, 32)
    rows[2] *= 100
    rows[3] = 0
    together = side_by_side(packed(rows))
    assert torch.equal(together, torch.cat([side_by_side(packed(row[None])) for row in rows]))
    exact = layer(rows).detach()
    assert ((together - exact).abs() <= 0.02 * exact.abs().amax(dim=1, keepdim=True)).all()


def test_a_copy_stays_as_it_is():
    decoder = make_decoder()
    tokens, memory = make_inputs(captions=1, images=1)
    packed = PackedDecoder(decoder)
    with torch.inference_mode():
        before = step(packed, tokens[:, :1], [0], open_filled(packed, memory, beams=1))
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(1.0)
    with torch.inference_mode():
        assert torch.equal(step(packed, tokens[:, :1], [0], open_filled(packed, memory, beams=1)), before)


def test_learned_positions_end_at_the_longest_caption_and_rotary_ones_do_not():
    with pytest.raises(AssertionError, match="10"):
        PackedDecoder(make_decoder()).open(slots=1, beams=1, max_length=10, patches=5)
    PackedDecoder(make_decoder(positions="rotary")).open(slots=1, beams=1, max_length=10, patches=5)


def test_auto_takes_bf16_only_where_it_is_multiplied(monkeypatch):
    device = torch.device("cpu")
    for supported, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        assert choose_precision("auto", device) == precision
        assert choose_precision("int8", device) == "int8"
