"""Logs of the same case from vLLM's scheduler and from the engine, and the first thing in which they differ."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import ClosedLoop, OpenLoop, PrefixBlocks, Workload
from tests.conformance.scheduler_cases import Case

STEP_COLUMNS: Final = (
    "decision_ps",
    "start_ps",
    "end_ps",
    "prefill_tokens",
    "prefills",
    "decodes",
    "pairs",
    "decode_kv",
    "running",
    "waiting",
    "free",
)
REQUEST_COLUMNS: Final = ("scheduled", "first_token", "finish", "preemptions", "hit_tokens")
Log = dict[str, Any]


class VllmScheduler:
    """vLLM's scheduler in a process of its own, run by ``python``; ``package`` holds another vLLM's Python files."""

    def __init__(self, python: str, package: str = "") -> None:
        path = [package] if package else []
        self._process = subprocess.Popen(
            [python, str(Path(__file__).with_name("vllm_scheduler.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )
        self.version = str(self._answer()["version"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()

    def log(self, case: Case) -> Log:
        """Serve a case."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Log:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("vLLM's process ended early; what it printed says why")
        return dict(json.loads(line))


def engine_log(case: Case) -> Log:
    """Serve a case with the engine, under the limits that the case gives vLLM."""
    tables = linear_tables(
        max_num_seqs=case["max_num_seqs"],
        max_num_batched_tokens=case["max_num_batched_tokens"],
        step_ps=case["step_ps"],
        token_ps=case["token_ps"],
        sample_seq_ps=case["seq_ps"],
        stages=case["stages"],
    )
    limits = EngineLimits(
        policy="vllm-v1",
        max_num_seqs=case["max_num_seqs"],
        max_num_batched_tokens=case["max_num_batched_tokens"],
        max_model_len=case["max_model_len"],
        block_size=case["block_size"],
        num_gpu_blocks=case["num_blocks"],
        enable_chunked_prefill=case["is_chunked"],
        enable_prefix_caching=case["is_caching"],
        async_scheduling=case["is_async"],
        async_pipeline="staggered" if case["runner"] == "v2" else "unbroken",
        reserve_full_isl=case["reserve_full_isl"],
        watermark_blocks=case["watermark_blocks"],
        long_prefill_token_threshold=case["long_prefill"],
    )
    result = run_replicas(tables, limits, _workload(case), log=True, leap=False)
    assert result.log is not None
    finish_ps = np.where(result.is_finished, result.finish_ps, -1)
    requests = (result.scheduled_ps, result.first_token_ps, finish_ps, result.preemptions, result.hit_tokens)
    return {
        "steps": np.column_stack([result.log[name] for name in STEP_COLUMNS]).tolist(),
        "requests": np.column_stack(requests).tolist(),
    }


def _workload(case: Case) -> Workload:
    lengths = [len(ids) for ids in case["ids"]]
    prefix = PrefixBlocks(
        block_tokens=case["trace_block"],
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ids=np.array([name for ids in case["ids"] for name in ids], dtype=np.int64),
    )
    return Workload(
        name=case["name"],
        arrival_s=np.array(case["arrivals"]) * 1e-12,
        prompt_tokens=np.array(case["prompts"], dtype=np.int64),
        output_tokens=np.array(case["outputs"], dtype=np.int64),
        client=ClosedLoop(concurrency=case["concurrency"]) if case["concurrency"] else OpenLoop(),
        prefix=prefix if case["is_caching"] else None,
        after=np.array(case["after"], dtype=np.int64) if "after" in case else None,
        think_s=np.array(case["think_ps"]) * 1e-12 if "after" in case else None,
    )


def difference(ours: Log, theirs: Log) -> str | None:
    """Name the columns of the first step, else of the first request, in which two logs differ; None if in none."""
    if "error" in theirs:
        return f"vLLM: {theirs['error']}"
    for place, columns in (("steps", STEP_COLUMNS), ("requests", REQUEST_COLUMNS)):
        for mine, other in zip(ours[place], theirs[place], strict=False):
            names = [name for name, a, b in zip(columns, mine, other, strict=True) if a != b]
            if names:
                return f"{place}: {', '.join(names)}"
        if len(ours[place]) != len(theirs[place]):
            return f"number of {place}"
    return None


def first_rows(ours: Log, theirs: Log, around: int = 3) -> str:
    """Show both logs around the first step that differs, for a person to read."""
    pairs = list(zip(ours["steps"], theirs["steps"], strict=False))
    at = next((k for k, (mine, other) in enumerate(pairs) if list(mine) != list(other)), len(pairs))
    lines = ["step  side   " + " ".join(f"{name:>14}" for name in STEP_COLUMNS)]
    for k in range(max(0, at - around), at + around):
        for side, log in (("engine", ours), ("vllm", theirs)):
            if k < len(log["steps"]):
                lines.append(f"{k:4d}  {side:6} " + " ".join(f"{value:>14}" for value in log["steps"][k]))
    return "\n".join(lines)


if __name__ == "__main__":
    # python -m tests.conformance.scheduler_logs VLLM_PYTHON 'prefixes:17' shows one case from both sides.
    from tests.conformance.scheduler_cases import draw_case

    group, seed = sys.argv[2].rsplit(":", 1)
    with VllmScheduler(sys.argv[1]) as real:
        drawn = draw_case(group, int(seed))
        logs = engine_log(drawn), real.log(drawn)
    print({name: value for name, value in drawn.items() if not isinstance(value, list)})
    print(difference(*logs))
    print(first_rows(*logs))
