"""Metrics of a measured run, by the definitions that benchmark clients and `simulator.results.metrics` share.

Over the requests that were answered: ``tpot_s`` = (e2e_s - ttft_s) / (output_tokens - 1) of each request with at least
two tokens; ``itl_s`` pools the gaps between the parts of all answers, one observation per gap. Rates are over the
client's own duration, which starts before the first request is sent; where it gives none, over the span from the first
sending to the last answer. Source: vllm-project/vllm vllm/benchmarks/serve.py, `calculate_metrics`.
"""

from collections.abc import Mapping
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from simulator.results.metrics import Distribution
from simulator.workload.traces.recorded import MeasuredRequests
from simulator.workload.workload import Workload


def request_metrics(requests: MeasuredRequests) -> dict[str, float]:
    """Return mean and quantiles by path of every latency that is known of all requests that have it."""
    found: dict[str, float] = {}
    several = requests.output_tokens > 1
    values = {
        "ttft_s": requests.ttft_s,
        "tpot_s": requests.tpot_s[several],
        "e2e_s": requests.e2e_s,
        "itl_s": np.zeros(0) if requests.gap_s is None else requests.gap_s,
    }
    for name, latencies in values.items():
        if len(latencies) and np.isfinite(latencies).all():
            found |= _paths(name, latencies)
    return found


def rates(workload: Workload, duration_s: float) -> dict[str, float]:
    """Return requests and tokens per second of a run whose requests were all answered within ``duration_s``."""
    outputs = int(workload.output_tokens.sum())
    return {
        "duration_s": duration_s,
        "throughput_requests_per_s": len(workload) / duration_s,
        "throughput_tokens_per_s": outputs / duration_s,
        "throughput_total_tokens_per_s": (outputs + int(workload.prompt_tokens.sum())) / duration_s,
    }


def span_s(requests: MeasuredRequests) -> float | None:
    """Return the time from the first sending to the last answer; None where sendings or answers are not known."""
    ends = requests.sent_s + requests.e2e_s
    return float(ends.max() - requests.sent_s.min()) if np.isfinite(ends).all() else None


def _paths(name: str, values: NDArray[np.float64]) -> Mapping[str, float]:
    return {f"{name}.{statistic}": float(value) for statistic, value in asdict(Distribution.of(values)).items()}
