"""Values as messages show them: enough to recognise, never longer than a line."""

from collections.abc import Iterable
from itertools import islice
from typing import Final

_MOST_CHARACTERS: Final = 60
_MOST_NAMES: Final = 12


def shown(value: object, most: int = _MOST_CHARACTERS) -> str:
    """Return ``repr(value)`` cut to ``most`` characters; a value whose repr fails is named by its type."""
    try:
        # Slicing first keeps a text of gigabytes from being copied whole.
        text = repr(value[: most + 1] if isinstance(value, (str, bytes)) else value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints, or a structure too deep
        return f"<{type(value).__name__} too large to show>"
    return text if len(text) <= most else text[: most - 3] + "..."


def listed(values: Iterable[object], most: int = _MOST_NAMES) -> str:
    """Return the first ``most`` values as `shown` gives them, comma-separated, and say so where there are more."""
    some = list(islice(values, most + 1))
    text = ", ".join(map(shown, some[:most]))
    return f"{text}, ..." if len(some) > most else text
