"""What images and clips become: each processor's rule on sizes whose answers are published or follow by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from simulator.model.item_rules import Clip, FixedImage, PatchGrid, PatchRows, Tiles

SIDES = st.integers(1, 9000)
QWEN = PatchGrid(patch=14, merge=2, min_pixels=3136, max_pixels=12_845_056)
LLAMA4 = Tiles(side=336, most=16, tokens=577, embeds=144)


def test_qwen_turns_28_by_28_pixels_into_a_token() -> None:
    """A side is rounded to whole merged patches: 1,024 becomes 37 of them, 1,036 pixels."""
    size = QWEN.image(1024, 1024)
    assert (size.prompt, size.embeds, size.tokens, size.pairs) == (1369, 1369, 4 * 1369, (4 * 1369) ** 2)
    assert QWEN.image(56, 28).prompt == 6  # below 3,136 pixels it is scaled up: 80 by 40 pixels, rounded up
    assert QWEN.largest.prompt == 16_384


@given(SIDES, SIDES)
def test_qwen_keeps_the_pixels_within_its_bounds(width: int, height: int) -> None:
    """Whatever the image, its tokens cover no more pixels than the upper bound, and no fewer than the lower one."""
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(UserError, match="more than 200 times"):
            QWEN.image(width, height)
        return
    pixels = QWEN.image(width, height).prompt * 28**2
    assert 3136 <= pixels <= 12_845_056 or min(width, height) * 80 < max(width, height)


def test_pixtral_ends_each_row_with_a_token() -> None:
    """1,024 by 1,024 pixels are 64 rows of 64 patches of 16 pixels: 4,096 rows handed over, 4,160 prompt tokens."""
    pixtral = PatchRows(patch=16, merge=1, longest_edge=1024)
    size = pixtral.image(1024, 1024)
    assert (size.prompt, size.embeds) == (4160, 4096)
    assert pixtral.image(4096, 2048).prompt == 32 * 65  # shrunk to 1,024 by 512
    merged = PatchRows(patch=14, merge=2, longest_edge=1540)
    assert merged.largest.prompt == 55 * 56
    assert merged.image(28, 29).tokens == 2 * 4


def test_llama_4_cuts_an_image_into_tiles_and_adds_the_whole() -> None:
    """One tile: 144 tokens and three around; 2 by 2 tiles: five times 144, four separators and three around."""
    assert LLAMA4.image(336, 336).prompt == 147
    assert LLAMA4.image(672, 672).prompt == 5 * 144 + 4 + 3
    assert LLAMA4.image(672, 672).pairs == 5 * 577**2
    assert LLAMA4.image(5000, 5000).prompt == 17 * 144 + 16 + 3
    assert LLAMA4.largest.prompt == LLAMA4.image(16 * 336, 336).prompt


@given(SIDES, SIDES)
def test_no_image_is_larger_than_the_largest(width: int, height: int) -> None:
    """Budgets are set aside for ``largest``: no image has more tokens of the encoder or of the prompt."""
    rules = (LLAMA4, PatchRows(patch=14, merge=2, longest_edge=1540), FixedImage(tokens=577, embeds=576))
    for rule in rules:
        size = rule.image(width, height)
        assert size.tokens <= rule.largest.tokens
        assert size.embeds <= rule.largest.embeds


def test_a_clip_is_padded_to_its_span() -> None:
    """Whisper encodes 30 s whatever it is given; Qwen2-Audio's prompt has one token for every 40 ms."""
    whisper = Clip(span_s=30.0, tokens=1500)
    assert whisper.clip(3.0) == whisper.largest
    assert whisper.largest.prompt == 0
    audio = Clip(span_s=30.0, tokens=1500, joins_prompt=True)
    assert (audio.clip(30.0).prompt, audio.clip(3.0).prompt, audio.clip(3.0).tokens) == (750, 75, 1500)
    with pytest.raises(UserError, match=r"audio of 31 s: must be above 0 and at most 30 s"):
        whisper.clip(31.0)
