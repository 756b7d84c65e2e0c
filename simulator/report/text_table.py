"""Rows of text in columns, as wide as they are: what a terminal, a pipe and a file get alike."""

import unicodedata
from collections.abc import Container, Iterable, Sequence
from typing import Final

_GAP: Final = "  "


def text_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: Container[str]) -> str:
    """Lay out rows below their heads; columns whose head is in ``left`` begin at their left edge, others end right."""
    lines = [[_one_line(cell) for cell in line] for line in (heads, *rows)]
    widths = [max(map(_width, column), default=0) for column in zip(*lines, strict=True)]
    shown = []
    for line in lines:
        cells = []
        for head, cell, width in zip(heads, line, widths, strict=True):
            space = " " * (width - _width(cell))
            cells.append(cell + space if head in left else space + cell)
        shown.append(_GAP.join(cells).rstrip())
    return "\n".join(shown)


def _one_line(cell: str) -> str:
    return " ".join(cell.splitlines()) if "\n" in cell or "\r" in cell else cell


def _width(text: str) -> int:
    """Return how many places a terminal takes for a text: two for East Asian letters, none for marks on a letter."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )
