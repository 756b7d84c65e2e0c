"""What one image or audio clip becomes, by the processor of each family: tokens of its encoder, and of the prompt.

| rule | tokens | source: Hugging Face transformers 5 |
| --- | --- | --- |
| ``FixedImage`` | every image is resized to one square | `GemmaProcessor`, `LlavaProcessor` |
| ``PatchGrid`` | sides rounded to whole merged patches, area kept between two bounds | `smart_resize` of Qwen2-VL |
| ``PatchRows`` | longer side bounded, sides rounded up; one more prompt token per row | `PixtralProcessor` |
| ``Tiles`` | a grid of square tiles, each with tokens of its own, and one tile of the whole | `Llama4Processor` |
| ``Clip`` | mel frames of a fixed span, padded | `WhisperFeatureExtractor`, `Qwen2AudioProcessor` |

Counted are the tokens that stand in the prompt in place of the image; what a chat template writes around is text.
"""

import math
from typing import Literal, Protocol

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSize:
    """One item: tokens of the encoder, pairs of them that see each other, rows handed over, tokens of the prompt."""

    tokens: int
    pairs: int
    embeds: int
    prompt: int


class ItemRule(Protocol):
    """How a family's processor sizes an item."""

    @property
    def takes(self) -> Literal["image", "audio"]:
        """What it takes."""
        ...

    @property
    def largest(self) -> ItemSize:
        """The largest item there is: engines set memory and budgets aside for it."""
        ...


class ImageRule(ItemRule, Protocol):
    """A rule for images."""

    def image(self, width: int, height: int) -> ItemSize:
        """Size an image of so many pixels; raises ``UserError`` for one the processor refuses."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedImage:
    """Every image has the same size; ``framing`` prompt tokens stand around its ``embeds``."""

    tokens: int
    embeds: int
    framing: int = 0

    takes: Literal["image"] = "image"

    @property
    def largest(self) -> ItemSize:
        """Every image."""
        return self.image(1, 1)

    def image(self, width: int, height: int) -> ItemSize:  # noqa: ARG002 - the contract of a rule
        """Size any image."""
        return ItemSize(tokens=self.tokens, pairs=self.tokens**2, embeds=self.embeds, prompt=self.embeds + self.framing)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchGrid:
    """Patches of ``patch`` pixels, of which ``merge`` x ``merge`` become one token; pixels within two bounds."""

    patch: int
    merge: int
    min_pixels: int
    max_pixels: int

    takes: Literal["image"] = "image"

    @property
    def largest(self) -> ItemSize:
        """An image of as many pixels as are kept."""
        side = self.patch * self.merge
        return self._of(self.max_pixels // side**2)

    def image(self, width: int, height: int) -> ItemSize:
        """Round both sides to merged patches, then scale to the bounds; a side over 200 times the other is refused."""
        if max(width, height) > 200 * min(width, height):
            raise UserError(
                f"image of {width}x{height}: one side is more than 200 times the other, which the processor refuses"
            )
        side = self.patch * self.merge
        rows, columns = (max(1, round(length / side)) for length in (height, width))
        if rows * columns * side**2 > self.max_pixels:
            scale = math.sqrt(height * width / self.max_pixels)
            rows, columns = (max(1, math.floor(length / scale / side)) for length in (height, width))
        elif rows * columns * side**2 < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            rows, columns = (math.ceil(length * scale / side) for length in (height, width))
        return self._of(rows * columns)

    def _of(self, merged: int) -> ItemSize:
        tokens = merged * self.merge**2
        return ItemSize(tokens=tokens, pairs=tokens**2, embeds=merged, prompt=merged)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchRows:
    """Patches in rows, merged as above; the longer side is at most ``longest_edge``, each row ends with a token."""

    patch: int
    merge: int
    longest_edge: int

    takes: Literal["image"] = "image"

    @property
    def largest(self) -> ItemSize:
        """A square of the longest edge."""
        return self.image(self.longest_edge, self.longest_edge)

    def image(self, width: int, height: int) -> ItemSize:
        """Shrink to the longest edge, then cover both sides with merged patches."""
        ratio = max(width, height) / self.longest_edge
        if ratio > 1:
            width, height = (max(1, math.floor(length / ratio)) for length in (width, height))
        side = self.patch * self.merge
        rows, columns = ((length - 1) // side + 1 for length in (height, width))
        tokens = rows * columns * self.merge**2
        return ItemSize(tokens=tokens, pairs=tokens**2, embeds=rows * columns, prompt=rows * (columns + 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """Up to ``most`` square tiles of ``side`` pixels in a grid, and the whole image as one more where they are several.

    A tile is ``tokens`` of the encoder and ``embeds`` of the prompt. Between tiles, behind rows, around the image and
    in front of the whole stand tokens of their own.
    """

    side: int
    most: int
    tokens: int
    embeds: int

    takes: Literal["image"] = "image"

    @property
    def largest(self) -> ItemSize:
        """As many tiles as there may be, in a row."""
        return self._of(1, self.most)

    def image(self, width: int, height: int) -> ItemSize:
        """Choose the grid that enlarges the image least, or shrinks it least where none can; then the smallest."""
        grids = [(rows, columns) for rows in range(1, self.most + 1) for columns in range(1, self.most // rows + 1)]
        scales = {grid: min(grid[0] * self.side / height, grid[1] * self.side / width) for grid in grids}
        enlarging = [scale for scale in scales.values() if scale >= 1]
        chosen = min(enlarging) if enlarging else max(scales.values())
        fitting = [grid for grid in grids if scales[grid] == chosen]
        return self._of(*min(fitting, key=lambda grid: grid[0] * grid[1]))

    def _of(self, rows: int, columns: int) -> ItemSize:
        tiles = rows * columns
        separators = tiles if tiles > 1 else 0  # one between two of a row, one behind each row
        tiles += int(tiles > 1)
        return ItemSize(
            tokens=tiles * self.tokens,
            pairs=tiles * self.tokens**2,
            embeds=tiles * self.embeds,
            prompt=tiles * self.embeds + separators + 3,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """Audio of up to ``span_s`` seconds, padded to ``tokens`` of the encoder.

    ``frames_per_s`` mel frames become half as many tokens, and half as many of these prompt tokens; where
    ``joins_prompt`` is false the decoder attends to all tokens and its prompt has none of them.
    """

    span_s: float
    tokens: int
    frames_per_s: float = 100.0
    joins_prompt: bool = False

    takes: Literal["audio"] = "audio"

    @property
    def largest(self) -> ItemSize:
        """A clip of the whole span."""
        return self.clip(self.span_s)

    def clip(self, seconds: float) -> ItemSize:
        """Size a clip; raises ``UserError`` for one longer than the span, which servers cut before they send it on."""
        if not 0 < seconds <= self.span_s:
            raise UserError(
                f"audio of {seconds:g} s: must be above 0 and at most {self.span_s:g} s",
                hint="longer recordings reach the model as several requests: state each of them",
            )
        rows = self.tokens
        if self.joins_prompt:
            frames = max(1, round(seconds * self.frames_per_s))
            rows = max(1, ((frames - 1) // 2 + 1 - 2) // 2 + 1)
        return ItemSize(tokens=self.tokens, pairs=self.tokens**2, embeds=rows, prompt=rows if self.joins_prompt else 0)
