"""The file of an observation: one line of JSON per rung, in the layout of ``vllm bench serve --save-detailed``.

Whatever reads that client's appended results reads this. What it has no key for stands under ``observed``:
the client's own lag, and how the rung ended; the server under ``server``.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from profiler.observe.answer import Answer
from profiler.observe.facts import ObservedServer
from profiler.observe.rung_run import RungResult

KEY: Final = "observed"
_LAG_SHARE: Final = 0.10  # of a median gap or TTFT: beyond, the client is part of what was measured
_CPU_SHARE: Final = 0.80  # of one core: beyond, chunks queue in the client
_PERCENTILES: Final = (50, 99)


def result_of(result: RungResult, server: ObservedServer, remarks: Sequence[str], date: str) -> dict[str, Any]:
    """Return one rung as a document; a rung without a whole answer has none to return (``ValueError``)."""
    served = result.served
    if not served:
        raise ValueError("a rung without a whole answer is no result")
    duration_s = result.ended_s - result.began_s
    inputs, outputs = ([getattr(answer, name) for answer in served] for name in ("input_tokens", "output_tokens"))
    client = client_of(result)
    said = [*remarks, *([result.reason] if result.reason else []), *client.pop("remarks")]
    return {
        "date": date,
        "backend": "openai",
        "endpoint_type": "openai",
        "model_id": server.model,
        "num_prompts": len(result.answers),
        "request_rate": "inf" if result.rung.rate_per_s is None else result.rung.rate_per_s,
        "burstiness": 1.0,
        "max_concurrency": result.rung.concurrency,
        "duration": duration_s,
        "completed": len(served),
        "failed": len(result.answers) - len(served),
        "total_input_tokens": sum(inputs),
        "total_output_tokens": sum(outputs),
        "request_throughput": len(served) / duration_s,
        "output_throughput": sum(outputs) / duration_s,
        "total_token_throughput": (sum(inputs) + sum(outputs)) / duration_s,
        **summary_ms(served),
        **_lists(result.answers),
        "server": server.to_document(result.before, result.after),
        KEY: {
            "schema": 1,
            "ending": result.ending,
            "remarks": said,
            "lengths": "usage" if all(answer.is_counted for answer in served) else "asked",
            "running_mean": _mean([look.running for look in result.looks]),
            "waiting_max": max((look.waiting for look in result.looks if look.waiting is not None), default=None),
            "client": client,
        },
    }


def summary_ms(served: Sequence[Answer]) -> dict[str, float]:
    """Mean, median, standard deviation and p99 of TTFT, TPOT, ITL and E2E in milliseconds, by that client's names."""
    values = {
        "ttft": [answer.ttft_s for answer in served],
        "tpot": [
            (answer.e2e_s - answer.ttft_s) / (answer.output_tokens - 1) for answer in served if answer.output_tokens > 1
        ],
        "itl": [gap for answer in served for gap in np.diff(answer.chunk_s).tolist()],
        "e2el": [answer.e2e_s for answer in served],
    }
    found: dict[str, float] = {}
    for name, seconds in values.items():
        of = 1e3 * np.array(seconds or [0.0])
        found |= {f"mean_{name}_ms": float(of.mean()), f"std_{name}_ms": float(of.std())}
        found |= {f"median_{name}_ms": float(np.median(of)), f"p99_{name}_ms": float(np.percentile(of, 99))}
    return found


def client_of(result: RungResult) -> dict[str, Any]:
    """Return how late the client itself was, and remarks where that is part of what it measured."""
    served = result.served
    lags_s = np.array([lag for answer in served for lag in answer.lag_s])
    late_s = np.array([answer.start_s - answer.due_s for answer in result.answers if answer.due_s is not None])
    cpu_frac = result.cpu_s / max(result.ended_s - result.began_s, 1e-9)
    gaps_s = [gap for answer in served for gap in np.diff(answer.chunk_s).tolist()]
    remarks = []
    for what, seconds in (("gap between chunks", gaps_s), ("TTFT", [answer.ttft_s for answer in served])):
        if seconds and lags_s.mean() > _LAG_SHARE * float(np.median(seconds)):
            remarks.append(
                f"the client was a bottleneck: its mean lag of {1e3 * lags_s.mean():.2f} ms is over {_LAG_SHARE:.0%} "
                f"of the median {what}, {1e3 * float(np.median(seconds)):.2f} ms"
            )
    if cpu_frac > _CPU_SHARE:
        remarks.append(f"the client was a bottleneck: it kept a core busy for {cpu_frac:.0%} of the time")
    return {
        "mean_lag_ms": 1e3 * float(lags_s.mean()),
        **{f"p{percent}_lag_ms": 1e3 * float(np.percentile(lags_s, percent)) for percent in _PERCENTILES},
        "max_lag_ms": 1e3 * float(lags_s.max()),
        "p99_late_ms": 1e3 * float(np.percentile(late_s, 99)) if len(late_s) else None,
        "cpu_frac": cpu_frac,
        "is_bottleneck": bool(remarks),
        "remarks": remarks,
    }


def _lists(answers: Sequence[Answer]) -> dict[str, list[Any]]:
    """One entry per request in the order of sending; a failed one has its error and no times."""
    return {
        "input_lens": [answer.input_tokens for answer in answers],
        "output_lens": [answer.output_tokens if answer.is_ok else 0 for answer in answers],
        "start_times": [answer.start_s for answer in answers],
        "ttfts": [answer.ttft_s if answer.is_ok else 0.0 for answer in answers],
        "itls": [np.diff(answer.chunk_s).tolist() if answer.is_ok else [] for answer in answers],
        "errors": [answer.error or "" for answer in answers],
    }


def _mean(values: Sequence[float | None]) -> float | None:
    told = [value for value in values if value is not None]
    return sum(told) / len(told) if told else None


def as_lines(results: Sequence[dict[str, Any]]) -> str:
    """Return the file's text."""
    return "".join(json.dumps(result, allow_nan=False) + "\n" for result in results)
