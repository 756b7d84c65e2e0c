"""Random workloads for SGLang's scheduler and for this engine's, and what the engine makes of one.

A case is a dictionary of plain numbers, the same for both sides; ``GROUPS`` says what each group of cases is about.
Times are picoseconds; a step takes ``step_ps`` plus ``token_ps`` per token and ``seq_ps`` per sequence on both sides.
"""

import random
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from simulator.engine.run import run_replicas
from simulator.engine_profiles.engine_limits import EngineLimits
from simulator.steps.step_tables import linear_tables
from simulator.workload.workload import ClosedLoop, OpenLoop, PrefixBlocks, Workload

Case = dict[str, Any]
Log = dict[str, Any]

GROUPS: Final = {
    "chunks": "chunks shorter and longer than prompts, KV for all",
    "sequences": "1 to 64 sequences, most of them in use",
    "retraction": "KV for a fraction of what runs",
    "radix": "shared prefixes, the same prompt again, KV so tight that prefixes are evicted",
    "units": "the same, with prefixes shared in units of 4 or 16 tokens",
    "one token": "answers of one token among others",
    "staggered": "arrivals spread over the run",
    "closed loop": "clients that wait for their answers",
    "interval": "requests looked for every 10th or 30th step",
    "no overlap": "the schedule waits for the device",
    "no cache": "the radix cache switched off",
}
COLUMNS: Final = (
    *("decision_ps", "start_ps", "end_ps", "prefill_tokens", "prefills", "decodes", "pairs", "decode_kv"),
    *("running", "waiting", "free"),
)
FIELDS: Final = ("scheduled_ps", "first_token_ps", "finish_ps", "retractions", "hit_tokens")


def make_case(group: str, seed: int) -> Case:
    """Draw one workload and its limits."""
    rng = random.Random(f"sglang {group} {seed}")
    pick = rng.choice
    max_seqs = pick([1, 2, 3, 4, 6, 8, 12, 16, 32, 64])
    longest = pick([20, 60, 100, 200])
    # This project's engine refuses more sequences than tokens of a step.
    max_tokens = max(max_seqs, pick([4, 8, 16, 24, 40, 64, 100, 150, 256]))
    n = rng.randint(1, 30)
    if group == "sequences":
        n = rng.randint(max_seqs, max_seqs + 30)
    shape = pick(["mixed", "mixed", "short", "long"])
    if group == "one token":
        shape = pick(["one", "some"])
    step_ps, token_ps, seq_ps = rng.randint(1_000, 9_000), rng.randint(0, 200), rng.randint(0, 50)
    arrivals = pick(["zero", "dense", "dense", "sparse", "closed"])
    arrivals = {"staggered": pick(["dense", "sparse"]), "closed loop": "closed"}.get(group, arrivals)
    gap = {"zero": 0, "dense": step_ps, "sparse": 20 * step_ps, "closed": 0}[arrivals]
    unit = pick([4, 16]) if group == "units" else 1
    shares = group in {"radix", "units"}
    families = rng.randint(1, 4)
    requests = []
    clock = 0
    for _ in range(n):
        prompt = rng.randint(1, longest)
        output = {
            "mixed": rng.randint(1, 40),
            "one": 1,
            "some": pick([1, 1, rng.randint(2, 30)]),
            "short": rng.randint(1, 4),
            "long": rng.randint(30, 90),
        }[shape]
        clock += int(rng.expovariate(1.0) * gap) if gap else 0
        shared = rng.randint(0, prompt // unit) if shares and rng.random() < 0.8 else 0
        if shares and rng.random() < 0.25:
            shared = prompt // unit
        requests.append(
            {"arrival": clock, "prompt": prompt, "output": output, "family": rng.randrange(families), "shared": shared}
        )
    # More than the largest request: SGLang never admits one whose prompt and answer fill the pool.
    least = max(r["prompt"] + r["output"] for r in requests) + 2
    tight = group in {"retraction", "radix", "units"}
    tight = tight or (group in {"interval", "no overlap", "no cache"} and pick([0, 1]))
    return {
        "name": f"{group}:{seed}",
        "max_seqs": max_seqs,
        "max_tokens": max_tokens,
        "tokens": least + (rng.randint(0, 2 * least) if tight else sum(r["prompt"] + r["output"] for r in requests)),
        "caching": group != "no cache",
        "shares": shares,
        "async": group != "no overlap",
        "recv_interval": pick([10, 30]) if group == "interval" else 1,
        "step_ps": step_ps,
        "token_ps": token_ps,
        "seq_ps": seq_ps,
        "concurrency": rng.randint(1, 20) if arrivals == "closed" else 0,
        "unit": unit,
        "requests": requests,
    }


def _units_of(case: Case, index: int) -> list[int]:
    """Prefix-unique ids of a prompt's whole units."""
    request = case["requests"][index]
    return [
        request["family"] * 10_000 + k if k < request["shared"] else 1_000_000 + index * 10_000 + k
        for k in range(request["prompt"] // case["unit"])
    ]


def run_engine(case: Case, *, leap: bool = False) -> Log:
    """Serve a case with this project's engine."""
    tables = linear_tables(
        max_num_seqs=case["max_seqs"],
        max_num_batched_tokens=case["max_tokens"],
        step_ps=case["step_ps"],
        token_ps=case["token_ps"],
        sample_seq_ps=case["seq_ps"],
    )
    limits = EngineLimits(
        policy="sglang",
        max_num_seqs=case["max_seqs"],
        max_num_batched_tokens=case["max_tokens"],
        max_model_len=1 << 20,
        block_size=1,
        num_gpu_blocks=case["tokens"],
        enable_prefix_caching=case["caching"],
        async_scheduling=case["async"],
        reserve_full_isl=False,
        scheduler_recv_interval=case["recv_interval"],
    )
    requests = case["requests"]
    ids = [_units_of(case, i) for i in range(len(requests))]
    workload = Workload(
        name=case["name"],
        arrival_s=np.array([r["arrival"] for r in requests]) / 1e12,
        prompt_tokens=np.array([r["prompt"] for r in requests], dtype=np.int64),
        output_tokens=np.array([r["output"] for r in requests], dtype=np.int64),
        client=ClosedLoop(concurrency=case["concurrency"]) if case["concurrency"] else OpenLoop(),
        prefix=PrefixBlocks(
            block_tokens=case["unit"],
            offsets=np.concatenate([[0], np.cumsum([len(x) for x in ids])]).astype(np.int64),
            ids=np.array([u for x in ids for u in x], dtype=np.int64),
        )
        if case["shares"]
        else None,
    )
    result = run_replicas(tables, limits, workload, log=True, leap=leap)
    assert result.log is not None
    origin = int(requests[0]["arrival"])
    steps = np.column_stack([result.log[name] for name in COLUMNS])
    if not case["concurrency"]:
        steps[:, :3] += origin
    times = [result.scheduled_ps, result.first_token_ps, result.finish_ps]
    if not case["concurrency"]:
        times = [time + origin for time in times]
    fields = np.column_stack([*times, result.preemptions, result.hit_tokens])
    return {"steps": steps.tolist(), "requests": fields.tolist()}


def difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, int] | None:
    """Kind and place of the first difference between two logs; None if they are the same."""
    if "error" in theirs:
        return f"SGLang raised {theirs['error']}", 0
    if "error" in ours:
        return f"the engine raised {ours['error']}", 0
    for k, (a, b) in enumerate(zip(ours["steps"], theirs["steps"], strict=False)):
        if a != b:
            return "step: " + ", ".join(c for c, x, y in zip(COLUMNS, a, b, strict=True) if x != y), k
    if "stuck" in theirs:
        return "SGLang is stuck", len(theirs["steps"])
    if len(ours["steps"]) != len(theirs["steps"]):
        return "number of steps", min(len(ours["steps"]), len(theirs["steps"]))
    for i, (a, b) in enumerate(zip(ours["requests"], theirs["requests"], strict=True)):
        if a != b:
            return "request: " + ", ".join(c for c, x, y in zip(FIELDS, a, b, strict=True) if x != y), i
    return None
