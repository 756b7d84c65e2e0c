"""Whether `apex validate` names the right part: servers whose truth is known, because it was simulated.

    python -m benchmarks.fidelity.confusion [--seeds N]

A server is simulated with one thing changed (a factor on the prices of a family of kernels, a host time, the frontend,
the KV blocks), its figures get the noise that repeats of real servers have, and are then taken for measurements of the
unchanged server. The changes go through engine profiles and settings, not through the code that looks for them. Prints,
for what is changed and what is known (means of one run, means of six, every request of six), how often the part is
named first, how often it is among those that cannot be told from the first, and how often it is missed.
"""

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from benchmarks.fidelity.profile_changes import changed
from simulator.engine_profiles.engine_profile import load_profile
from simulator.results.metrics import request_latencies_s
from simulator.validation.deployment import Deployment
from simulator.validation.difference import where_it_sits
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.workload.parse import parse_workload
from simulator.workload.traces.recorded import MeasuredRequests
from simulator.workload.workload import Workload

NOISE: Final = {"ttft_s": 0.03, "tpot_s": 0.01}  # of a run's mean; repeats of public servers: docs/accuracy.md


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What differs on the real server, and the names under which it is found: any of ``parts``."""

    name: str
    parts: tuple[str, ...]
    profile: Mapping[str, Any] = field(default_factory=dict)  # dotted key, value
    added: Mapping[str, float] = field(default_factory=dict)  # dotted key, what is added
    blocks: float = 1.0


TRUTHS: Final = (
    Truth(name="nothing", parts=()),
    Truth(
        name="attention of decoding x 1.5",
        parts=("attention of decoding",),
        profile={"price_factors.attention_decode": 1.5},
    ),
    Truth(
        name="attention of prompts x 2",
        parts=("attention of prompts",),
        profile={"price_factors.attention_prefill": 2.0},
    ),
    Truth(name="products x 1.3", parts=("products",), profile={"price_factors.gemm": 1.3}),
    Truth(name="products x 0.8", parts=("products",), profile={"price_factors.gemm": 0.8}),
    Truth(name="experts x 1.3", parts=("experts",), profile={"price_factors.experts": 1.3}),
    Truth(name="transfers x 2", parts=("transfers",), profile={"price_factors.collective": 2.0}),
    Truth(name="host + 2 ms per step", parts=("host per step",), added={"host.serial_step_s": 2e-3}),
    Truth(name="host + 40 us per sequence", parts=("host per sequence",), added={"host.serial_sequence_s": 40e-6}),
    Truth(name="frontend + 30 ms", parts=("frontend",), added={"host.frontend_s": 30e-3}),
    Truth(name="KV blocks halved", parts=("KV blocks",), blocks=0.5),
)
SERVERS: Final = tuple(
    Deployment(
        model=model,
        cluster="h100-sxm-8",
        plan="tp2",
        engine="vllm-0.19",
        settings={"max_model_len": 32768, "num_gpu_blocks": 8000},
    )
    for model in ("llama-3.1-8b", "qwen3-30b-a3b")
)
WORKLOADS: Final = (
    "closed:isl=1024,osl=256,concurrency=1,prompts_per_slot=20",
    "closed:isl=1024,osl=256,concurrency=16,prompts_per_slot=10",
    "closed:isl=512,osl=256,concurrency=256,prompts_per_slot=4",
    "closed:isl=8192,osl=128,concurrency=4,prompts_per_slot=10",
    "synthetic:chat,rate=6,n=300,seed=1",
    "synthetic:isl=2000,osl=200,isl_cv=1.0,osl_cv=0.5,rate=4,n=200,seed=2",
)
KNOWN: Final = {"means of one run": (1, False), "means of six runs": (6, False), "requests of six runs": (6, True)}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="draws of the noise")
    parser.add_argument("--says", action="store_true", help="print what is said of each")
    options = parser.parse_args()
    predictor = Predictor()
    workloads = [parse_workload(text) for text in WORKLOADS]
    print(f"| what is true | {' | '.join(KNOWN)} | named instead |\n| --- |{' ---: |' * len(KNOWN)} --- |")
    for truth in TRUTHS:
        cells, others = [], Counter[str]()
        for count, has_requests in KNOWN.values():
            tally = Counter[str]()
            for server in SERVERS:
                if truth.name.startswith("experts") and server.model == "llama-3.1-8b":
                    continue
                for seed in range(options.seeds):
                    chosen = workloads if count > 1 else [workloads[1 + seed % (len(workloads) - 1)]]
                    runs = [
                        _run(predictor, server, truth, workload, seed=seed, has_requests=has_requests)
                        for workload in chosen
                    ]
                    found = where_it_sits([run for run in runs if run is not None], "the server")
                    if found is None:
                        continue
                    outcome, named = _judged(found.explanation, truth)
                    tally[outcome] += 1
                    others.update(named)
                    if options.says:
                        print("   ", truth.name, "|", count, has_requests, "|", "; ".join(found.sentences()))
            cells.append(" / ".join(str(tally[name]) for name in ("first", "among", "missed")))
        wrong = ", ".join(f"{name} {times}" for name, times in others.most_common(4))
        print(f"| {truth.name} | {' | '.join(cells)} | {wrong or '-'} |", flush=True)


def _judged(explanation: Any, truth: Truth) -> tuple[str, list[str]]:
    parts = explanation.parts
    if not truth.parts:
        return ("first", []) if not parts else ("missed", [parts[0].name])
    if any(one.name in truth.parts for one in parts[:1]):
        return "first", []
    if any(one.name in truth.parts or set(one.rivals) & set(truth.parts) for one in parts):
        return "among", [parts[0].name]
    return "missed", [parts[0].name] if parts else ["nothing"]


def _run(
    predictor: Predictor, server: Deployment, truth: Truth, workload: Workload, *, seed: int, has_requests: bool
) -> ValidatedRun | None:
    profile = load_profile(server.engine)
    values = {key: _value(profile, key) + more for key, more in truth.added.items()}
    settings = {**server.settings, "num_gpu_blocks": round(server.settings["num_gpu_blocks"] * truth.blocks)}
    real = predictor.predict(
        _measured(replace(server, settings=settings), workload, {}),
        changed(profile, {**truth.profile, **values}),
        with_interval=False,
    )
    if isinstance(real, UnusableRun):
        raise SystemExit(f"{truth.name}: {real.reason}")
    draw = np.random.default_rng([seed, len(workload), len(truth.name)])
    factors = {name: float(np.exp(draw.normal(0.0, noise))) for name, noise in NOISE.items()}
    measured = {f"{name}.mean": real.predicted[f"{name}.mean"] * factor for name, factor in factors.items()}
    requests = _requests(real, factors, draw) if has_requests else None
    found = predictor.predict(replace(_measured(server, workload, measured), requests=requests), with_interval=False)
    return None if isinstance(found, UnusableRun) else found


def _value(profile: Any, key: str) -> float:
    for part in key.split("."):
        profile = getattr(profile, part)
    return float(profile)


def _measured(server: Deployment, workload: Workload, measured: Mapping[str, float]) -> MeasuredRun:
    return MeasuredRun(
        name=workload.name,
        place=workload.name,
        tool="simulated",
        deployment=server,
        workload=workload,
        measured=measured,
    )


def _requests(real: ValidatedRun, factors: Mapping[str, float], draw: np.random.Generator) -> MeasuredRequests:
    """Return what a client would have kept of every request: the run's own factor, and a few percent of each one's."""
    run = real.outcome.run
    assert run is not None
    latencies = request_latencies_s(run)
    own = np.exp(draw.normal(0.0, 0.05, len(run)))
    ttft_s = latencies["ttft_s"] * factors["ttft_s"] * own
    decode_s = latencies["tpot_s"] * np.maximum(run.output_tokens - 1, 0) * factors["tpot_s"]
    return MeasuredRequests(
        sent_s=run.arrival_ps * 1e-12, ttft_s=ttft_s, e2e_s=ttft_s + decode_s, output_tokens=run.output_tokens
    )


if __name__ == "__main__":
    main()
