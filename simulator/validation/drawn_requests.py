"""Requests of runs whose client kept no list of them: as many, as long in all, sent as the client says it sent them.

Lengths are drawn as the client draws them where it states what around: with a seed of which the totals are those
measured the requests are the very ones, else they are alike. Where nothing is stated every request has the mean
lengths, which marches in step; each way leaves its note. Arrivals at a rate are drawn anew in any case.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from profiles_db.recordings.summarised_run import NominalLengths, SummarisedRun
from simulator.workload.columns import MOST_REQUESTS
from simulator.workload.generators.arrivals import generate_arrivals
from simulator.workload.generators.client import BenchmarkClient
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, Workload

Lengths = tuple[NDArray[np.int64], NDArray[np.int64]]

# Totals further apart than this are not those of other draws around the same lengths.
_MOST_APART_FRAC: Final = 0.05
_MOST_SPECIAL: Final = 8  # tokens that a tokeniser puts around a prompt


def drawn_workload(run: SummarisedRun, name: str) -> Workload:
    """Return requests that stand for those of a run; raises ``UserError`` where nothing tells lengths or load."""
    if not 1 <= run.requests <= MOST_REQUESTS:
        raise UserError(f"{run.place}: {run.requests} requests were answered, must be 1 to {MOST_REQUESTS}")
    prompts, outputs, notes = _lengths(run)
    is_closed = run.max_concurrency is not None and (run.rate_per_s is None or math.isinf(run.rate_per_s))
    if run.rate_per_s is None and not is_closed:
        raise UserError(
            f"{run.place}: neither a rate nor a concurrency is stated",
            hint="state what the client was told: --concurrency or --request-rate",
        )
    arrival_s = np.zeros(run.requests)
    if run.rate_per_s is not None and math.isfinite(run.rate_per_s):
        arrival_s = _arrivals(run, run.rate_per_s)
        notes.append(f"arrivals are drawn at {run.rate_per_s:g} requests/s: those of the run were not kept")
    warmup = run.warmup if is_closed else 0
    client: OpenLoop | ClosedLoop | CappedLoop = OpenLoop()
    if run.max_concurrency is not None:
        client = (
            ClosedLoop(concurrency=run.max_concurrency, warmup=warmup)
            if is_closed
            else CappedLoop(concurrency=run.max_concurrency)
        )
    return Workload(
        name=name,
        arrival_s=np.concatenate([np.zeros(warmup), arrival_s]),
        prompt_tokens=np.concatenate([np.full(warmup, prompts[0]), prompts]),
        output_tokens=np.concatenate([np.full(warmup, outputs[0]), outputs]),
        client=client,
        notes=tuple(f"{run.place}: {note}" for note in (*run.notes, *notes)),
    )


def _arrivals(run: SummarisedRun, rate_per_s: float) -> NDArray[np.float64]:
    """Draw arrivals from the first one on; vLLM's client stretches its own so that they take requests / rate."""
    cv = 1 / math.sqrt(run.burstiness)
    arrival_s = generate_arrivals(run.requests, process="poisson" if cv == 1 else "gamma", rate_per_s=rate_per_s, cv=cv)
    if run.spans_rate and arrival_s[-1] > 0:
        arrival_s *= run.requests / rate_per_s / arrival_s[-1]
    return np.asarray(arrival_s - arrival_s[0], dtype=np.float64)


def _lengths(run: SummarisedRun) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    if run.nominal is not None:
        prompts, outputs, are_the_runs = _drawn(run, run.nominal)
        apart = max(_apart(prompts, run.mean_prompt_tokens), _apart(outputs, run.mean_output_tokens))
        if are_the_runs or run.mean_prompt_tokens is None or apart <= _MOST_APART_FRAC:
            around = f"{run.nominal.prompt_tokens} and {run.nominal.output_tokens} tokens"
            note = f"lengths are drawn around {around} as the client draws them"
            return prompts, outputs, [f"{note}; their totals are those measured" if are_the_runs else note]
    if run.mean_prompt_tokens is None or run.mean_output_tokens is None:
        raise UserError(
            f"{run.place}: nothing tells the lengths of its requests",
            hint="take a result that states them, or one with a list per request",
        )
    note = (
        f"every request has the mean lengths, {run.mean_prompt_tokens:.0f} and {run.mean_output_tokens:.0f} tokens: "
        "TTFT of requests in step is the worst case; a list per request says which they were"
    )
    return _even(run.mean_prompt_tokens, run.requests), _even(run.mean_output_tokens, run.requests), [note]


def _drawn(run: SummarisedRun, nominal: NominalLengths) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """Draw lengths, and tell whether their totals are those of the run: then they are its own.

    A client may take the tokeniser's special tokens, as many for each, off the prompts it has drawn.
    """
    drawn = [_draw(nominal, seed, run.requests) for seed in nominal.seeds]
    for prompts, outputs in drawn:
        if run.summary.prompt_tokens is None or int(outputs.sum()) != run.summary.output_tokens:
            continue
        special, rest = divmod(int(prompts.sum()) - run.summary.prompt_tokens, run.requests)
        if rest == 0 and 0 <= special <= _MOST_SPECIAL and int(prompts.min()) > special:
            return prompts - special, outputs, True
    return *drawn[0], False


def _draw(nominal: NominalLengths, seed: int, count: int) -> Lengths:
    if nominal.draw == "sglang-bench":
        legacy = np.random.RandomState(seed)
        prompts, outputs = (
            legacy.randint(max(int(length * nominal.range_ratio), 1), length + 1, size=count).astype(np.int64)
            for length in (nominal.prompt_tokens, nominal.output_tokens)
        )
        return prompts, outputs
    client = BenchmarkClient(
        prompt_tokens=nominal.prompt_tokens,
        output_tokens=nominal.output_tokens,
        concurrency=1,
        range_ratio=nominal.range_ratio,
        draw=nominal.draw,
        seed=seed,
    )
    return client.draw_lengths(count)


def _even(mean: float, count: int) -> NDArray[np.int64]:
    """Return lengths that differ by at most one token and sum up to ``count`` times ``mean``."""
    total = round(mean * count)
    short, longer = divmod(total, count)
    return np.where(np.arange(count) < longer, short + 1, short).clip(1)


def _apart(lengths: NDArray[np.int64], mean: float | None) -> float:
    return 0.0 if mean is None else abs(float(lengths.mean()) / mean - 1) if mean > 0 else math.inf
