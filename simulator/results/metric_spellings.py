"""How people and benchmark clients write a metric: ``ttft_p99``, ``p99_ttft_ms``, ``TTFT.p99`` for ``ttft_s.p99``."""

import re
from typing import Final

from cluster_specs.errors import UserError

STATISTICS: Final = ("mean", "p50", "p90", "p95", "p99")
LATENCIES: Final = ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")
UNITS_S: Final = {"s": 1.0, "ms": 1e-3, "us": 1e-6}

_STATISTIC: Final = rf"{'|'.join(STATISTICS)}|median"
_NAME: Final = "|".join(latency.removesuffix("_s") for latency in LATENCIES)
# vLLM's client calls the time to the last token e2el.
_LATENCY: Final = re.compile(
    rf"(?:(?P<before>{_STATISTIC})[_.])?(?P<name>e2el|{_NAME})(?:_(?P<unit>{'|'.join(UNITS_S)}))?"
    rf"(?:[_.](?P<after>{_STATISTIC}))?"
)


def read_spelling(text: str) -> tuple[str, str | None]:
    """Return the metric's path and the unit in its name (s, ms, us), None where it names none.

    What is no latency is returned as it is, in lower case. Raises ``UserError`` for two statistics.
    """
    match = _LATENCY.fullmatch(text.strip().lower())
    if match is None:
        return text.strip().lower(), None
    if match["before"] and match["after"]:
        raise UserError(f"metric {text.strip()!r} names two statistics", hint="for example ttft_p99")
    statistic = (match["before"] or match["after"] or "").replace("median", "p50")
    name = f"{match['name'].replace('e2el', 'e2e')}_s"
    return f"{name}.{statistic}" if statistic else name, match["unit"]
