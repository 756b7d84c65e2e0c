"""What a user of the service sees: latencies, throughput, goodput, and where the time went.

Over answered, measured requests: ``ttft_s`` = first token - sent, ``e2e_s`` = last token - sent, ``tpot_s`` =
(e2e_s - ttft_s) / (output_tokens - 1) for requests with at least two tokens, ``queue_s`` = first admission - sent.
``itl_s`` pools the gaps between a request's tokens over all requests. Rates are over the span from the first measured
send to the last measured finish.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simulator.engine.result import EngineResult

F64 = NDArray[np.float64]

_S_PER_PS: Final = 1e-12
_QUANTILES: Final = (0.5, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """Mean and quantiles; NaN where there is no value."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float

    @classmethod
    def of(cls, values: F64) -> "Distribution":
        """Summarise ``values`` [n]; quantiles interpolate linearly."""
        if len(values) == 0:
            return cls(mean=np.nan, p50=np.nan, p90=np.nan, p95=np.nan, p99=np.nan)
        p50, p90, p95, p99 = np.quantile(values, _QUANTILES)
        return cls(mean=float(values.mean()), p50=float(p50), p90=float(p90), p95=float(p95), p99=float(p99))

    @classmethod
    def of_weighted(cls, values: F64, weights: F64) -> "Distribution":
        """Summarise ``values`` [n] that stand for ``weights`` [n] equal observations each."""
        total = float(weights.sum())
        if total == 0.0:
            return cls.of(np.zeros(0))
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(weights[order])
        at = np.searchsorted(reached, np.array(_QUANTILES) * total).clip(0, len(values) - 1)
        p50, p90, p95, p99 = values[order][at]
        mean = float((values * weights).sum()) / total
        return cls(mean=mean, p50=float(p50), p90=float(p90), p95=float(p95), p99=float(p99))


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Limits a request must meet to count as good; None does not bind."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """Shares of the replicas' time, summing to 1 over the span each replica was in use."""

    token_frac: float  # GEMMs, norms, collectives: what depends on the number of tokens
    attention_frac: float
    sample_frac: float
    send_frac: float
    host_frac: float  # host time that the device waited for
    bubble_frac: float  # pipeline stages waiting between steps
    idle_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Summary of one run; see the module for the definitions."""

    ttft_s: Distribution
    tpot_s: Distribution
    itl_s: Distribution
    e2e_s: Distribution
    queue_s: Distribution
    requests: int  # measured
    finished: int  # measured and answered
    rejected: dict[str, int]  # by reason, warm-up included
    duration_s: float
    throughput_tokens_per_s: float  # output tokens
    throughput_total_tokens_per_s: float  # prompt and output tokens
    throughput_requests_per_s: float
    goodput_requests_per_s: float  # meeting every limit of the SLO; all answered ones without an SLO
    slo_attainment_frac: float
    utilisation_frac: float  # busy share of the span from start to each replica's last step, mean over stages
    kv_use_frac: float  # mean over the time in which a step is under way
    kv_peak_frac: float
    mean_batch_seqs: float  # over the same time
    steps: int
    preemptions: int
    prefix_hit_frac: float  # prompt tokens found in the prefix cache at first admission
    breakdown: Breakdown

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, NaN as None."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and np.isnan(value) else value


def request_latencies_s(result: EngineResult) -> dict[str, F64]:
    """Latencies [n] of every request in seconds, NaN where they never happened: ttft_s, tpot_s, e2e_s, queue_s."""
    done = result.is_finished
    ttft = np.where(done, (result.first_token_ps - result.arrival_ps) * _S_PER_PS, np.nan)
    e2e = np.where(done, (result.finish_ps - result.arrival_ps) * _S_PER_PS, np.nan)
    queue = np.where(done, (result.scheduled_ps - result.arrival_ps) * _S_PER_PS, np.nan)
    gaps = result.output_tokens - 1
    tpot = np.where(gaps > 0, (e2e - ttft) / np.maximum(gaps, 1), np.nan)
    return {"ttft_s": ttft, "tpot_s": tpot, "e2e_s": e2e, "queue_s": queue}


def summarise(result: EngineResult, slo: Slo | None = None) -> Metrics:
    """Metrics of one run; ``slo`` decides the goodput."""
    latency = request_latencies_s(result)
    chosen = result.is_finished & result.measured
    ttft, tpot, e2e, queue = (latency[name][chosen] for name in ("ttft_s", "tpot_s", "e2e_s", "queue_s"))
    output = result.output_tokens[chosen]
    has_gaps = output > 1
    good = _meets(slo or Slo(), ttft, tpot, e2e)
    duration_s = 0.0
    if chosen.any():
        duration_s = float(result.finish_ps[chosen].max() - result.arrival_ps[chosen].min()) * _S_PER_PS
    per_s = 1.0 / duration_s if duration_s > 0 else np.nan
    measured = int(np.count_nonzero(result.measured))
    prompt_tokens = int(result.prompt_tokens[chosen].sum())
    replicas = result.replicas
    active_us = float(replicas.active_ps.sum()) * 1e-6
    span_ps = float(replicas.last_end_ps.sum()) * replicas.stages
    per_active = 1.0 / active_us if active_us > 0 else np.nan
    return Metrics(
        ttft_s=Distribution.of(ttft),
        tpot_s=Distribution.of(tpot[has_gaps]),
        itl_s=Distribution.of_weighted(tpot[has_gaps], (output[has_gaps] - 1).astype(np.float64)),
        e2e_s=Distribution.of(e2e),
        queue_s=Distribution.of(queue),
        requests=measured,
        finished=len(ttft),
        rejected=result.rejections(),
        duration_s=duration_s,
        throughput_tokens_per_s=float(output.sum()) * per_s,
        throughput_total_tokens_per_s=float(output.sum() + prompt_tokens) * per_s,
        throughput_requests_per_s=len(ttft) * per_s,
        goodput_requests_per_s=int(np.count_nonzero(good)) * per_s,
        slo_attainment_frac=float(np.count_nonzero(good)) / measured if measured else np.nan,
        utilisation_frac=float(replicas.busy_ps.sum()) / span_ps if span_ps > 0 else np.nan,
        kv_use_frac=float(replicas.used_block_us.sum()) * per_active / result.num_gpu_blocks,
        kv_peak_frac=float(replicas.peak_blocks.max()) / result.num_gpu_blocks,
        mean_batch_seqs=float(replicas.running_us.sum()) * per_active,
        steps=int(replicas.steps.sum()),
        preemptions=int(replicas.preemptions.sum()),
        prefix_hit_frac=float(result.hit_tokens[chosen].sum()) / prompt_tokens if prompt_tokens else np.nan,
        breakdown=_breakdown(result),
    )


def _meets(slo: Slo, ttft: F64, tpot: F64, e2e: F64) -> NDArray[np.bool_]:
    """Whether each request meets every limit; one token has no TPOT to miss."""
    good = np.ones(len(ttft), dtype=np.bool_)
    if slo.ttft_s is not None:
        good &= ttft <= slo.ttft_s
    if slo.tpot_s is not None:
        good &= np.isnan(tpot) | (tpot <= slo.tpot_s)
    if slo.e2e_s is not None:
        good &= e2e <= slo.e2e_s
    return good


def _breakdown(result: EngineResult) -> Breakdown:
    replicas = result.replicas
    span = float(replicas.last_end_ps.sum()) * replicas.stages
    share = 1.0 / span if span > 0 else np.nan
    return Breakdown(
        token_frac=float(replicas.token_ps.sum()) * share,
        attention_frac=float(replicas.attention_ps.sum()) * share,
        sample_frac=float(replicas.sample_ps.sum()) * share,
        send_frac=float(replicas.send_ps.sum()) * share,
        host_frac=float(replicas.host_ps.sum()) * share,
        bubble_frac=float(replicas.bubble_ps.sum()) * share,
        idle_frac=float((replicas.last_end_ps * replicas.stages - replicas.busy_ps - replicas.bubble_ps).sum()) * share,
    )
