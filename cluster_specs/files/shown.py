"""Values as messages show them: enough to recognise, never longer than a line."""

from typing import Final

_MOST_CHARACTERS: Final = 60


def shown(value: object, most: int = _MOST_CHARACTERS) -> str:
    """Return ``repr(value)`` cut to ``most`` characters; a value whose repr fails is named by its type."""
    try:
        # Slicing first keeps a text of gigabytes from being copied whole.
        text = repr(value[: most + 1] if isinstance(value, (str, bytes)) else value)
    except (ValueError, RecursionError):  # an integer of more digits than Python prints, or a structure too deep
        return f"<{type(value).__name__} too large to show>"
    return text if len(text) <= most else text[: most - 3] + "..."
