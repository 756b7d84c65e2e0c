"""What a look at a machine found: one value per finding, each with its fix."""

from typing import Literal

from cluster_specs.lazy_dataclass import dataclass

Severity = Literal["ok", "info", "warning", "failure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fact about the machine. A ``failure`` makes measurements wrong or impossible, a ``warning`` worse."""

    topic: str
    severity: Severity
    text: str
    fix: str = ""
