"""The exit code of a search in which no plan can start."""

from typing import Final

EXIT_INFEASIBLE: Final = 3  # every plan was rejected
