"""Results of `vllm bench serve` as a server would give them that behaves just as the simulator says."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from simulator.engine_profiles.engine_profile import EngineProfile
from simulator.results.metrics import request_latencies_s
from simulator.simulate import replay
from simulator.validation.deployment import Deployment
from simulator.workload.parse import parse_workload
from simulator.workload.workload import CappedLoop, ClosedLoop
from tests.simulator.deployments import start_of

DEPLOYMENT = Deployment(model="llama-3.1-8b", cluster="h100-sxm-1", plan="tp1", costs=Path("analytic"))


def simulated_result(
    traffic: str, deployment: Deployment = DEPLOYMENT, profile: EngineProfile | None = None, **changes: Any
) -> dict[str, Any]:
    """Serve ``traffic`` in the simulator, and write down what `vllm bench serve --save-detailed` would have."""
    workload = parse_workload(traffic)
    serving = deployment.serving(profile)
    result = replay(serving, start_of(serving, deployment.plan, workload), workload)
    run = result.run
    assert run is not None
    times, client = request_latencies_s(run), workload.client
    measured, outputs = run.measured, run.output_tokens[run.measured]
    starts, ttft, e2e = run.arrival_ps[measured] * 1e-12, times["ttft_s"][measured], times["e2e_s"][measured]
    duration = float((starts + e2e).max() - starts.min())
    is_closed, rate = isinstance(client, ClosedLoop), round((len(starts) - 1) / float(np.ptp(starts)), 3)
    return {
        "date": "20261201-000000", "endpoint_type": "openai", "backend": "openai", "label": "openai",
        "model_id": "meta-llama/Llama-3.1-8B-Instruct", "tokenizer_id": "meta-llama/Llama-3.1-8B-Instruct",
        "num_prompts": len(starts), "request_rate": "inf" if is_closed else rate, "burstiness": 1.0,
        "max_concurrency": client.concurrency if isinstance(client, ClosedLoop | CappedLoop) else None,
        "duration": duration, "completed": len(starts), "failed": 0,
        "total_input_tokens": int(run.prompt_tokens[measured].sum()), "total_output_tokens": int(outputs.sum()),
        "request_throughput": len(starts) / duration, "request_goodput": None,
        "output_throughput": int(outputs.sum()) / duration,
        "total_token_throughput": int((outputs + run.prompt_tokens[measured]).sum()) / duration,
        "input_lens": run.prompt_tokens[measured].tolist(), "output_lens": outputs.tolist(),
        "ttfts": ttft.tolist(),
        "itls": [np.full(n - 1, (e - t) / max(n - 1, 1)).tolist()
                 for n, t, e in zip(outputs.tolist(), ttft, e2e, strict=True)],
        "start_times": (1000.0 + starts).tolist(), "generated_texts": ["x"] * len(starts), "errors": [""] * len(starts),
        "mean_ttft_ms": 1e3 * float(ttft.mean()), "median_ttft_ms": 1e3 * float(np.median(ttft)),
        "std_ttft_ms": 1e3 * float(ttft.std()), "p99_ttft_ms": 1e3 * float(np.percentile(ttft, 99)),
        **changes,
    }  # fmt: skip


def with_failures(result: dict[str, Any], count: int) -> dict[str, Any]:
    """Let the first ``count`` requests of a result fail, and what the client sums up agree."""
    served = len(result["input_lens"]) - count
    outputs = [0] * count + result["output_lens"][count:]
    return result | {
        "errors": ["boom"] * count + [""] * served, "output_lens": outputs, "completed": served, "failed": count,
        "total_input_tokens": sum(result["input_lens"][count:]), "total_output_tokens": sum(outputs),
        "mean_ttft_ms": None,
    }  # fmt: skip


def without_details(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result as it is saved without ``--save-detailed``."""
    lists = {"input_lens", "output_lens", "ttfts", "itls", "start_times", "generated_texts", "errors"}
    return {key: value for key, value in result.items() if key not in lists}


def save_results(path: Path, *results: dict[str, Any]) -> Path:
    """Write one result, or several as ``--append-result`` does."""
    path.write_text("\n".join(map(json.dumps, results)))
    return path
