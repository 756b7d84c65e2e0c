"""How ops of a person's own are named in rows: op, sizes, and what the size that runs counts."""

from typing import Final

AMOUNTS: Final = ("tokens", "sequences")
MOST_SIZES: Final = 8
OP_NAME: Final = r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*"
SIZE_NAME: Final = r"[a-z][a-z0-9_]*"
_SIZE: Final = rf"{SIZE_NAME}=[1-9][0-9]{{0,14}}"
SIZES: Final = rf"{_SIZE}( {_SIZE}){{0,{MOST_SIZES - 1}}}"  # inner=1536 state=16
