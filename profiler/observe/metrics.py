"""What an engine's metrics endpoint tells of itself, out of Prometheus text.

Only lines of the names below reach the parser: an endpoint tells thousands, and the loop that reads them is the one
that takes the times. Names from the engines' sources: vllm v1/metrics/loggers.py (`gpu_` names before 0.11), sglang
srt/observability/metrics_collector.py, tensorrt_llm metrics/collector.py.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiler.observe.facts import ServerReading

_Samples = Sequence[tuple[str, Mapping[str, str], float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """Metrics of one engine; of several names for the same quantity the first that is there counts."""

    engine: str
    prefix: str
    running: tuple[str, ...]
    waiting: tuple[str, ...]
    preemptions: tuple[str, ...]
    prefix_hit_tokens: tuple[str, ...]
    prefix_query_tokens: tuple[str, ...]
    num_blocks: tuple[str, ...] = ()
    block_size: tuple[str, ...] = ()
    kv_tokens: tuple[str, ...] = ()
    config: str | None = None  # a metric that holds num_gpu_blocks and block_size as labels


_ENGINES: Final = (
    _Names(
        engine="vllm",
        prefix="vllm:",
        running=("vllm:num_requests_running",),
        waiting=("vllm:num_requests_waiting",),
        preemptions=("vllm:num_preemptions_total",),
        prefix_hit_tokens=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        prefix_query_tokens=("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
        config="vllm:cache_config_info",
    ),
    _Names(
        engine="sglang",
        prefix="sglang:",
        running=("sglang:num_running_reqs",),
        waiting=("sglang:num_queue_reqs",),
        preemptions=("sglang:num_retracted_requests_total",),
        prefix_hit_tokens=("sglang:cached_tokens_total",),
        prefix_query_tokens=("sglang:prompt_tokens_total",),
        num_blocks=("sglang:num_pages",),
        block_size=("sglang:page_size",),
        kv_tokens=("sglang:max_total_num_tokens",),
    ),
    _Names(
        engine="tensorrt-llm",
        prefix="trtllm_",
        running=("trtllm_num_requests_running",),
        waiting=("trtllm_num_requests_waiting",),
        preemptions=(),
        prefix_hit_tokens=("trtllm_prompt_cached_tokens_total",),
        prefix_query_tokens=("trtllm_prompt_tokens_total",),
        num_blocks=("trtllm_kv_cache_max_blocks",),
        block_size=("trtllm_kv_cache_tokens_per_block",),
    ),
)
_WANTED: Final = tuple(
    name
    for engine in _ENGINES
    for group in (
        engine.running,
        engine.waiting,
        engine.preemptions,
        engine.prefix_hit_tokens,
        engine.prefix_query_tokens,
        engine.num_blocks,
        engine.block_size,
        engine.kv_tokens,
        (engine.config,) if engine.config else (),
    )
    for name in group
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """One reading of the endpoint; ``num_gpu_blocks`` and ``block_size`` are those of one engine."""

    engine: str
    engines: int | None
    num_gpu_blocks: int | None
    block_size: int | None
    reading: ServerReading


def read_metrics(text: str, place: str) -> EngineMetrics | None:
    """Return what a known engine tells, None where none of its metrics is there; ``UserError`` for damaged text."""
    from prometheus_client.parser import text_string_to_metric_families

    lines = [line for line in text.splitlines() if line.startswith(_WANTED)]
    try:
        families = list(text_string_to_metric_families("\n".join(lines) + "\n"))
    except (ValueError, KeyError, IndexError) as error:
        raise UserError(f"{place}: is no Prometheus text: {error}") from error
    samples = [(sample.name, sample.labels, float(sample.value)) for family in families for sample in family.samples]
    names = next((names for names in _ENGINES if any(name.startswith(names.prefix) for name, _, _ in samples)), None)
    return None if names is None else _told(names, [sample for sample in samples if _is_first_rank(sample[1])])


def _is_first_rank(labels: Mapping[str, str]) -> bool:
    """Whether a series is an engine's own: ranks of one engine that all report would be counted several times."""
    return all(labels.get(rank, "0") in {"0", ""} for rank in ("tp_rank", "pp_rank"))


def _told(names: _Names, samples: _Samples) -> EngineMetrics:
    blocks, block_size = _cache_of(names, samples)
    running = _values(samples, names.running)
    return EngineMetrics(
        engine=names.engine,
        engines=len(running) or None,
        num_gpu_blocks=blocks,
        block_size=block_size,
        reading=ServerReading(
            running=_sum(running),
            waiting=_sum(_values(samples, names.waiting)),
            preemptions=_sum(_values(samples, names.preemptions)),
            prefix_hit_tokens=_sum(_values(samples, names.prefix_hit_tokens)),
            prefix_query_tokens=_sum(_values(samples, names.prefix_query_tokens)),
        ),
    )


def _cache_of(names: _Names, samples: _Samples) -> tuple[int | None, int | None]:
    """Blocks and tokens per block of one engine; of engines that differ, the one with the fewest blocks."""
    if names.config is not None:
        labels = [labels for name, labels, _ in samples if name == names.config]
        counts = [int(told["num_gpu_blocks"]) for told in labels if told.get("num_gpu_blocks", "").isdecimal()]
        sizes = [int(told["block_size"]) for told in labels if told.get("block_size", "").isdecimal()]
        return min(counts, default=None), min(sizes, default=None)
    block_size = _least(samples, names.block_size)
    blocks = _least(samples, names.num_blocks)
    if blocks is None and block_size is not None and (tokens := _least(samples, names.kv_tokens)) is not None:
        blocks = tokens // block_size
    return blocks, block_size


def _least(samples: _Samples, names: Sequence[str]) -> int | None:
    return min((int(value) for value in _values(samples, names) if value >= 1), default=None)


def _values(samples: _Samples, names: Sequence[str]) -> list[float]:
    for wanted in names:
        if found := [value for name, _, value in samples if name == wanted]:
            return found
    return []


def _sum(values: Sequence[float]) -> float | None:
    return sum(values) if values else None
