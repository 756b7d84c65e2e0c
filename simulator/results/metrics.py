"""What a user of the service sees: latencies, throughput, goodput, and where the time went.

Over answered, measured requests: ``ttft_s`` = first token - sent, ``e2e_s`` = last token - sent, ``tpot_s`` =
(e2e_s - ttft_s) / (output_tokens - 1) for requests with at least two tokens, ``queue_s`` = first admission - sent.
``itl_s`` pools the gaps between what the client receives of a request, tokens or (with a streaming interval) chunks of
them, over all requests; its quantiles take each request's mean gap, weighted by the number of its gaps. Rates are over
the span from the first measured send to the last measured finish.
"""

import math
from collections.abc import Iterable
from dataclasses import field, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from simulator.engine.result import EngineResult, over_replicas
from simulator.results.log_histogram import LogHistogram

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
        p50, p90, p95, p99 = _quantiles(values)
        return cls(mean=float(values.mean()), p50=p50, p90=p90, p95=p95, p99=p99)

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

    @classmethod
    def of_sketch(cls, sketch: LogHistogram, *, is_weighted: bool = False) -> "Distribution":
        """Summarise a stream as ``of`` does, or as ``of_weighted``; quantiles are within the sketch's error."""
        quantile = sketch.quantile if is_weighted else sketch.quantile_between
        p50, p90, p95, p99 = map(quantile, _QUANTILES)
        return cls(mean=sketch.mean, p50=p50, p90=p90, p95=p95, p99=p99)


def _quantiles(values: F64) -> list[float]:
    """Return what ``numpy.quantile`` does, which takes longer than a short replay and imports ``numpy.ma``."""
    last = len(values) - 1
    places = [last * frac for frac in _QUANTILES]
    pairs = [(int(place), min(int(place) + 1, last)) for place in places]
    ordered = np.partition(values, sorted({last, *(at for pair in pairs for at in pair)}))
    if np.isnan(ordered[last]):
        return [math.nan] * len(places)
    found = []
    for place, pair in zip(places, pairs, strict=True):
        low, high = (float(ordered[at]) for at in pair)
        share, step = place - pair[0], high - low
        found.append(high - step * (1 - share) if share >= 0.5 else low + step * share)  # as numpy rounds
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSlo:
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
    draft_frac: float  # the draft model of speculative decoding
    encoder_frac: float  # the encoder of images and audio
    host_frac: float  # host time that the device waited for
    bubble_frac: float  # pipeline stages waiting between steps
    idle_frac: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OfReplicas:
    """What a run says of its replicas, and so of one pool of two; see ``Metrics``."""

    utilisation_frac: float
    kv_use_frac: float
    kv_peak_frac: float
    mean_batch_seqs: float
    steps: int
    tokens_per_decode: float
    preemptions: int
    prefix_hit_frac: float
    breakdown: Breakdown

    @classmethod
    def of(cls, result: EngineResult, *, hit_tokens: int, prompt_tokens: int) -> "OfReplicas":
        """Take it from the sums of the replicas; of ``prompt_tokens`` that were answered ``hit_tokens`` were cached."""
        replicas = result.replicas
        active_s = over_replicas(replicas.active_ps) * _S_PER_PS
        span_ps = over_replicas(replicas.last_end_ps) * replicas.stages
        per_active = 1.0 / active_s if active_s > 0 else np.nan
        decodes = int((replicas.decode_tokens - replicas.draft_tokens).sum())
        return cls(
            utilisation_frac=over_replicas(replicas.busy_ps) / span_ps if span_ps > 0 else np.nan,
            kv_use_frac=float(replicas.used_block_s.sum()) * per_active / result.num_gpu_blocks,
            kv_peak_frac=float(replicas.peak_blocks.max()) / result.num_gpu_blocks,
            mean_batch_seqs=float(replicas.running_s.sum()) * per_active,
            steps=int(replicas.steps.sum()),
            tokens_per_decode=1.0 + int(replicas.accepted_tokens.sum()) / decodes if decodes else np.nan,
            preemptions=int(replicas.preemptions.sum()),
            prefix_hit_frac=hit_tokens / prompt_tokens if prompt_tokens else np.nan,
            breakdown=_breakdown(result),
        )

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, as those of ``Metrics``."""
        plain: dict[str, Any] = _plain(self)
        if not self.breakdown.encoder_frac:
            del plain["breakdown"]["encoder_frac"]
        return plain


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
    rejected: dict[str, int]  # measured, by reason; with ``finished`` they make up ``requests``
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
    tokens_per_decode: float  # mean gain of a sequence per decode step: 1 without speculative decoding
    preemptions: int
    prefix_hit_frac: float  # prompt tokens found in the prefix cache at first admission
    breakdown: Breakdown

    def to_json(self) -> dict[str, Any]:
        """Nested plain values, NaN as None; the encoder's share stands where there is an encoder."""
        plain = {name: _plain(getattr(self, name)) for name in self.__slots__}
        if not self.breakdown.encoder_frac:
            del plain["breakdown"]["encoder_frac"]
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Distribution | Breakdown | OfReplicas):
        return {name: _plain(getattr(value, name)) for name in value.__slots__}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


_SUMMARISED: Final = frozenset(one.name for one in fields(Metrics))


def is_summarised(path: str) -> bool:
    """Whether ``summarise`` tells a metric, which other figures (energy, price, use of the device) are not in."""
    return path.partition(".")[0] in _SUMMARISED


def request_latencies_s(result: EngineResult) -> dict[str, F64]:
    """Latencies [n] of every request in seconds, NaN where they never happened: ttft_s, tpot_s, e2e_s, queue_s."""
    done = result.is_finished
    ttft = np.where(done, (result.first_token_ps - result.arrival_ps) * _S_PER_PS, np.nan)
    e2e = np.where(done, (result.finish_ps - result.arrival_ps) * _S_PER_PS, np.nan)
    queue = np.where(done, (result.scheduled_ps - result.arrival_ps) * _S_PER_PS, np.nan)
    gaps = result.output_tokens - 1
    tpot = np.where(gaps > 0, (e2e - ttft) / np.maximum(gaps, 1), np.nan)
    return {"ttft_s": ttft, "tpot_s": tpot, "e2e_s": e2e, "queue_s": queue}


@dataclass(slots=True, kw_only=True)
class _Counts:
    """Sums over measured requests, of one result or of many."""

    requests: int = 0
    finished: int = 0
    good: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    hit_tokens: int = 0
    first_arrival_ps: int | None = None
    last_arrival_ps: int = 0
    last_finish_ps: int = 0
    rejected: dict[str, int] = field(default_factory=dict)

    def add(self, result: EngineResult, good: NDArray[np.bool_]) -> None:
        """Count the requests of ``result``; ``good`` tells which of the answered ones meet the SLO."""
        chosen = result.is_finished & result.measured
        self.requests += int(np.count_nonzero(result.measured))
        self.finished += int(np.count_nonzero(chosen))
        self.good += int(np.count_nonzero(good))
        self.prompt_tokens += int(result.prompt_tokens[chosen].sum())
        self.output_tokens += int(result.output_tokens[chosen].sum())
        self.hit_tokens += int(result.hit_tokens[chosen].sum())
        if chosen.any():
            first = int(result.arrival_ps[chosen].min())
            self.first_arrival_ps = first if self.first_arrival_ps is None else min(first, self.first_arrival_ps)
            self.last_arrival_ps = max(self.last_arrival_ps, int(result.arrival_ps[chosen].max()))
            self.last_finish_ps = max(self.last_finish_ps, int(result.finish_ps[chosen].max()))
        for reason, count in result.rejections(measured_only=True).items():
            self.rejected[reason] = self.rejected.get(reason, 0) + count

    @property
    def duration_s(self) -> float:
        """From the first measured send to the last measured finish."""
        return 0.0 if self.first_arrival_ps is None else (self.last_finish_ps - self.first_arrival_ps) * _S_PER_PS


def summarise_replicas(result: EngineResult) -> OfReplicas:
    """Sum up what ``summarise`` says of a run's replicas alone."""
    chosen = result.is_finished & result.measured
    return OfReplicas.of(
        result,
        hit_tokens=int(result.hit_tokens[chosen].sum()),
        prompt_tokens=int(result.prompt_tokens[chosen].sum()),
    )


def summarise(result: EngineResult, slo: RequestSlo | None = None) -> Metrics:
    """Metrics of one run; ``slo`` decides the goodput."""
    latency = _measured_latencies_s(result)
    counts = _Counts()
    counts.add(result, _meets(slo or RequestSlo(), latency))
    distributions = {name: Distribution.of(latency[name]) for name in ("ttft_s", "e2e_s", "queue_s")}
    distributions["tpot_s"] = Distribution.of(latency["tpot_s"][latency["tokens"] > 1])
    gaps = latency["gaps"]
    distributions["itl_s"] = Distribution.of_weighted(latency["itl_s"][gaps > 0], gaps[gaps > 0])
    return _metrics(distributions, counts, result)


class StreamedMetrics:
    """Metrics of a run in parts (``run_stream``), part after part in bounded memory.

    Quantiles are within ``sketch.RELATIVE_ERROR``; all else is what ``summarise`` says of the same run in one piece.
    """

    def __init__(self, slo: RequestSlo | None = None) -> None:
        self._slo = slo or RequestSlo()
        self._sketches = {name: LogHistogram() for name in ("ttft_s", "tpot_s", "itl_s", "e2e_s", "queue_s")}
        self._counts = _Counts()
        self._last: EngineResult | None = None

    def add(self, part: EngineResult) -> None:
        """Count what ``part`` has finished; its sums of the replicas replace those of the part before."""
        latency = _measured_latencies_s(part)
        self._counts.add(part, _meets(self._slo, latency))
        for name in ("ttft_s", "e2e_s", "queue_s"):
            self._sketches[name].add(latency[name])
        self._sketches["tpot_s"].add(latency["tpot_s"][latency["tokens"] > 1])
        gaps = latency["gaps"]
        self._sketches["itl_s"].add(latency["itl_s"][gaps > 0], gaps[gaps > 0])
        self._last = part

    @property
    def output_tokens(self) -> int:
        """Tokens of all answers so far."""
        return self._counts.output_tokens

    @property
    def arrival_span_s(self) -> float:
        """From the first answered request's sending to the last one's."""
        counts = self._counts
        return (
            0.0 if counts.first_arrival_ps is None else (counts.last_arrival_ps - counts.first_arrival_ps) * _S_PER_PS
        )

    @property
    def last(self) -> EngineResult:
        """The last part; it holds the sums of the replicas over all parts."""
        if self._last is None:
            raise UserError("the stream has no requests")
        return self._last

    def metrics(self) -> Metrics:
        """Metrics of the parts so far."""
        found = {name: Distribution.of_sketch(it, is_weighted=name == "itl_s") for name, it in self._sketches.items()}
        return _metrics(found, self._counts, self.last)


def summarise_stream(results: Iterable[EngineResult], slo: RequestSlo | None = None) -> Metrics:
    """Metrics of a run in parts, all of which are read here."""
    streamed = StreamedMetrics(slo)
    for part in results:
        streamed.add(part)
    return streamed.metrics()


def _measured_latencies_s(result: EngineResult) -> dict[str, F64]:
    """Latencies of answered, measured requests, their ``tokens``, and the ``gaps`` between their chunks."""
    chosen = result.is_finished & result.measured
    latency = {name: values[chosen] for name, values in request_latencies_s(result).items()}
    latency["tokens"] = result.output_tokens[chosen].astype(np.float64)
    gaps = result.chunks.after_first(result.output_tokens[chosen])
    latency["gaps"] = gaps.astype(np.float64)
    latency["itl_s"] = (latency["e2e_s"] - latency["ttft_s"]) / np.maximum(gaps, 1)
    return latency


def _metrics(distributions: dict[str, Distribution], counts: _Counts, result: EngineResult) -> Metrics:
    """Put together requests and the sums of the replicas, which ``result`` holds."""
    duration_s = counts.duration_s
    per_s = 1.0 / duration_s if duration_s > 0 else np.nan
    own = OfReplicas.of(result, hit_tokens=counts.hit_tokens, prompt_tokens=counts.prompt_tokens)
    known: dict[str, Any] = {**distributions, **{name: getattr(own, name) for name in OfReplicas.__slots__}}
    return Metrics(
        **known,
        requests=counts.requests,
        finished=counts.finished,
        rejected=counts.rejected,
        duration_s=duration_s,
        throughput_tokens_per_s=counts.output_tokens * per_s,
        throughput_total_tokens_per_s=(counts.output_tokens + counts.prompt_tokens) * per_s,
        throughput_requests_per_s=counts.finished * per_s,
        goodput_requests_per_s=counts.good * per_s,
        slo_attainment_frac=counts.good / counts.requests if counts.requests else np.nan,
    )


def _meets(slo: RequestSlo, latency: dict[str, F64]) -> NDArray[np.bool_]:
    """Whether each request meets every limit; one token has no TPOT to miss."""
    ttft, tpot, e2e = latency["ttft_s"], latency["tpot_s"], latency["e2e_s"]
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
    span = over_replicas(replicas.last_end_ps) * replicas.stages
    share = 1.0 / span if span > 0 else np.nan
    return Breakdown(
        token_frac=over_replicas(replicas.token_ps) * share,
        attention_frac=over_replicas(replicas.attention_ps) * share,
        sample_frac=over_replicas(replicas.sample_ps) * share,
        send_frac=over_replicas(replicas.send_ps) * share,
        draft_frac=over_replicas(replicas.draft_ps) * share,
        encoder_frac=over_replicas(replicas.encoder_ps) * share,
        host_frac=over_replicas(replicas.host_ps) * share,
        bubble_frac=over_replicas(replicas.bubble_ps) * share,
        idle_frac=(span - over_replicas(replicas.busy_ps) - over_replicas(replicas.bubble_ps)) * share,
    )
