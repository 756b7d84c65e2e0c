"""Every option of every command acts: for each there is a pair of command lines whose answers differ.

An answer is what a person gets: exit code, standard output, what stderr says of the result, and the files written.
Options whose effect needs a GPU or minutes of measuring are tried where those tests are, and named here with the place.
Options that change how an answer is shown or found, and not the answer, are listed with what they change instead.
"""

import json
import re
import shutil
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster_specs.command_line import Command
from profiles_db.store import open_store
from simulator.cli import apex, main

_ROOT = Path(__file__).parents[2]
_SERVED = "--model tiny-llama --cluster h100-sxm-2 --no-interval"
_SIMULATED = "simulate --model tiny-llama --cluster h100-sxm-2 --json"
_SEARCHED = f"search {_SERVED} --json"
_OPEN = "--trace synthetic:isl=200-400,osl=8-40,rate=400,n=60,seed=1"
_SEEING = f"--model qwen2.5-vl-7b --cluster h100-sxm-1 --json {_OPEN}"
_SEEING_2 = f"--model qwen2.5-vl-7b --cluster h100-sxm-2 --json {_OPEN}"
_SHARED_EXPERTS = "--model deepseek-v3 --cluster h200-sxm-8 --plan attn.dp8-moe.ep8 --json --engine vllm-0.6"
_RANKS = "--model deepseek-v3 --cluster h200-sxm-8 --plan attn.dp8-moe.ep8 --json --engine tensorrt-llm-1.0"
# Options that act on attention-data ranks, or on a model that has a prediction layer.
_RANKS_WAIT: dict[str, tuple[str, str, str]] = {
    "--speculative-method": (
        "{} " + f"{_RANKS} --speculative-tokens 2 --speculative-acceptance 0.5 {_OPEN}",
        "--speculative-method mtp",
        "",
    ),
    "--attention-dp-timeout-iters": ("{} " + f"{_RANKS} {_OPEN}", "--attention-dp-timeout-iters 20", ""),
    "--attention-dp-batching-wait-iters": (
        "{} " + f"{_RANKS} --attention-dp-timeout-iters 20 {_OPEN}",
        "--attention-dp-batching-wait-iters 5",
        "",
    ),
}
_DRAFTS = "--speculative-tokens 2 --speculative-acceptance 0.5"

# What is served and how, alike for search and simulate: an option and a line that it changes. {} is command and plan.
_SERVING = {
    "--model": ("{} " + _OPEN, "--model llama-3.2-1b", "--model tiny-llama"),
    "--extension": ("{} " + _OPEN, "--extension cells.py", ""),
    "--cluster": ("{} " + _OPEN, "--cluster l40s-2", "--cluster h100-sxm-2"),
    "--trace": ("{}", "--trace synthetic:isl=9,osl=9,rate=1,n=3", _OPEN),
    "--costs": ("{} " + _OPEN, "--costs analytic", ""),
    "--out-of-domain": ("{} " + _OPEN, "--out-of-domain raise", ""),
    "--usd-per-device-hour": ("{} " + _OPEN, "--usd-per-device-hour 3", ""),
    "--engine": ("{} " + _OPEN, "--engine vllm-0.6", ""),
    "--slo": ("{} " + _OPEN, "--slo ttft_s<=0.004", ""),
    "--max-num-seqs": ("{} " + _OPEN, "--max-num-seqs 2", ""),
    "--max-num-batched-tokens": ("{} " + _OPEN, "--max-num-batched-tokens 256", ""),
    "--max-model-len": ("{} " + _OPEN, "--max-model-len 2048", ""),
    "--gpu-memory-utilization": ("{} " + _OPEN, "--gpu-memory-utilization 0.5", ""),
    "--num-gpu-blocks": ("{} " + _OPEN, "--num-gpu-blocks 80", ""),
    "--block-size": ("{} " + _OPEN, "--block-size 32", ""),
    "--prefix-caching": ("{} --trace mooncake.jsonl", "--no-prefix-caching", ""),
    "--chunked-prefill": ("{} --max-num-batched-tokens 256 " + _OPEN, "--no-chunked-prefill", ""),
    "--async-scheduling": ("{} " + _OPEN, "--no-async-scheduling", ""),
    "--scheduler-recv-interval": ("{} --engine sglang-0.5 " + _OPEN, "--scheduler-recv-interval 30", ""),
    "--enforce-eager": ("{} " + _OPEN, "--enforce-eager", ""),
    "--cudagraph-mode": ("{} " + _OPEN, "--cudagraph-mode FULL_DECODE_ONLY", ""),
    "--max-cudagraph-capture-size": ("{} " + _OPEN, "--max-cudagraph-capture-size 8", ""),
    "--stream-interval": ("{} --engine vllm-0.18 " + _OPEN, "--stream-interval 10", ""),
    "--speculative-tokens": ("{} --speculative-acceptance 0.5 " + _OPEN, "--speculative-tokens 2", ""),
    "--speculative-acceptance": ("{} --speculative-tokens 2 " + _OPEN, "--speculative-acceptance 0.5", ""),
    "--draft-step-s": ("{} " + _DRAFTS + " " + _OPEN, "--draft-step-s 0.01", ""),
    "--batch-wait-timeout-iters": (
        "{} --engine tensorrt-llm-1.0 --batch-wait-max-tokens-ratio 0.9 " + _OPEN,
        "--batch-wait-timeout-iters 20",
        "",
    ),
    "--batch-wait-max-tokens-ratio": (
        "{} --engine tensorrt-llm-1.0 --batch-wait-timeout-iters 20 " + _OPEN,
        "--batch-wait-max-tokens-ratio 0.9",
        "",
    ),
}
_READING = {
    "--rate-scale": ("{} rows.csv", "--rate-scale 3", ""),
    "--length-scale": ("{} rows.csv", "--length-scale 0.5", ""),
    "--limit": ("{} rows.csv", "--limit 2", ""),
    "--format": ("{} rows.csv", "--format mooncake", ""),
    "--time-unit": ("{} rows.csv", "--time-unit ms", ""),
    "--block-tokens": ("{} mooncake.jsonl", "--block-tokens 256", ""),
    "--column": ("{} rows.csv", "--column output=more", ""),
    "--result": ("{} two-results.jsonl", "--result 2", ""),
    "--sort": ("{} unsorted.csv", "--sort", ""),
    "--turns": ("{} bailian.jsonl", "--turns after_parent", ""),
}
_MEDIA = {
    "--images": ("{} rows.csv", "--images 1:448x448", ""),
    "--audio-s": ("{} rows.csv", "--audio-s 5-30", ""),
}
_IN_SEARCH = f"{_SEARCHED} --plan dp2"
_IN_SIMULATE = f"{_SIMULATED} --plan dp2"
_IN_SWEEP = "sweep --model tiny-llama --cluster h100-sxm-2 --json --rates 200,900 --plan dp2"


def _within(start: str, cases: dict[str, tuple[str, str, str]]) -> dict[str, tuple[str, str, str]]:
    return {option: (line.replace("{}", start), added, removed) for option, (line, added, removed) in cases.items()}


# The same of a server that was measured; a result says nothing of shared prefixes and of prices.
_MEASURED = {
    option: (line.replace(_OPEN, ""), added, removed)
    for option, (line, added, removed) in {**_SERVING, **_RANKS_WAIT}.items()
    if option not in {"--trace", "--slo", "--usd-per-device-hour", "--prefix-caching"}
}
_IN_VALIDATE = "validate served.json --json --model tiny-llama --cluster h100-sxm-2 --plan dp2 --no-parts"
_THREE = "calibrate served.json served.json served.json"
_IN_CALIBRATE = f"{_THREE} --json --model llama-3.2-1b --cluster h100-sxm-2 --plan dp2 --constant price_factors.all"
# A cache that keeps states beside the running ones leaves room for fewer sequences.
_STATES = "--json --model qwen3.5-27b --cluster h100-sxm-2 --plan tp2 --engine sglang-0.5 --gpu-memory-utilization 0.42"
_PLANNED = "calibrate --plan-runs --model tiny-llama --cluster h100-sxm-2"
_FITTED = "fit --db db --device h100-sxm --prior none --out f.parquet"

# (command, option) -> line, what is added, what that takes the place of.
CASES: dict[str, dict[str, tuple[str, str, str]]] = {
    "search": {
        **_within(_IN_SEARCH, _SERVING),
        **_within(f"{_IN_SEARCH} --trace", _READING),
        "--images": (f"search {_SEEING} --no-interval", "--images 1:448x448", ""),
        "--mm-encoder-tp-mode": (
            f"search {_SEEING_2} --plan tp2 --no-interval --images 1:448x448",
            "--mm-encoder-tp-mode data",
            "",
        ),
        **_within("search --no-interval", _RANKS_WAIT),
        "--allow-unsupported": (
            f"search --no-interval {_SHARED_EXPERTS} {_OPEN}",
            "--allow-unsupported",
            "",
        ),
        "--router": (f"{_IN_SEARCH} {_OPEN}", "--router least_outstanding", ""),
        "--objective": (f"{_SEARCHED} {_OPEN}", "--objective energy_j", ""),
        "--plan": (f"{_SEARCHED} {_OPEN}", "--plan tp2", ""),
        "--weights": (f"{_SEARCHED} {_OPEN}", "--weights fp8", ""),
        "--kv": (f"{_SEARCHED} {_OPEN}", "--kv fp8", ""),
        "--axes": (f"{_SEARCHED} {_OPEN}", "--axes cells", ""),
        "--explain-space": (f"{_SEARCHED} {_OPEN}", "--explain-space", ""),
        "--fewer-devices": (f"{_SEARCHED} {_OPEN}", "--fewer-devices", ""),
        "--formats-together": (f"{_SEARCHED} {_OPEN} --kv default,fp8", "--formats-together", ""),
        "--clocks": (f"{_SEARCHED} {_OPEN}", "--clocks 1410", ""),
        "--caps": (f"{_SEARCHED} {_OPEN}", "--caps 150", ""),
        "--seqs": (f"{_SEARCHED} {_OPEN}", "--seqs 2", ""),
        "--tokens": (f"{_SEARCHED} {_OPEN}", "--tokens 256", ""),
        "--pools": (f"{_SEARCHED} {_OPEN}", "--pools", ""),
        "--interval": (f"search --model tiny-llama --cluster h100-sxm-2 --json {_OPEN}", "--no-interval", ""),
        "--json": (f"search {_SERVED} {_OPEN}", "--json", ""),
        "-o": (f"{_SEARCHED} {_OPEN}", "-o found.json", ""),
        "--report": (f"{_SEARCHED} {_OPEN}", "--report page.html", ""),
        "--top": (f"search {_SERVED} {_OPEN}", "--top 1", ""),
        "--stream": (f"{_SEARCHED} {_OPEN}", "--stream", ""),
        "--state": (f"{_SEARCHED} {_OPEN}", "--state judged.jsonl", ""),
    },
    "simulate": {
        **_within(_IN_SIMULATE, _SERVING),
        **_within(f"{_IN_SIMULATE} --trace", _READING),
        "--images": (f"simulate {_SEEING} --plan tp1", "--images 1:448x448", ""),
        "--mm-encoder-tp-mode": (
            f"simulate {_SEEING_2} --plan tp2 --images 1:448x448",
            "--mm-encoder-tp-mode data",
            "",
        ),
        **_within("simulate", _RANKS_WAIT),
        "--allow-unsupported": (
            f"simulate {_SHARED_EXPERTS} {_OPEN}",
            "--allow-unsupported",
            "",
        ),
        "--router": (f"{_IN_SIMULATE} {_OPEN}", "--router least_outstanding", ""),
        "--plan": (f"{_SIMULATED} {_OPEN}", "--plan tp2", "--plan dp2"),
        "--json": (f"simulate --model tiny-llama --cluster h100-sxm-2 --plan tp2 {_OPEN}", "--json", ""),
        "--requests-out": (f"{_IN_SIMULATE} {_OPEN}", "--requests-out requests.parquet", ""),
        "--iterations-out": (f"{_IN_SIMULATE} {_OPEN}", "--iterations-out steps.parquet", ""),
        "--chrome-trace": (f"{_IN_SIMULATE} {_OPEN}", "--chrome-trace timeline.json", ""),
        "--stream": (f"{_IN_SIMULATE} {_OPEN}", "--stream", ""),
    },
    "sweep": {
        **_within(_IN_SWEEP, _SERVING),
        **_within(f"{_IN_SWEEP} --trace", _READING),
        **_within("sweep --rates 400,900", _RANKS_WAIT),
        "--allow-unsupported": (f"sweep --rates 1,2 {_SHARED_EXPERTS} {_OPEN}", "--allow-unsupported", ""),
        "--router": (f"{_IN_SWEEP} {_OPEN}", "--router least_outstanding", ""),
        "--plan": (f"{_IN_SWEEP} {_OPEN}", "--plan tp2", "--plan dp2"),
        "--images": (f"sweep {_SEEING} --plan tp1 --rates 9,20", "--images 1:448x448", ""),
        "--mm-encoder-tp-mode": (
            f"sweep {_SEEING_2} --plan tp2 --rates 9,20 --images 1:448x448",
            "--mm-encoder-tp-mode data",
            "",
        ),
        "--rates": (f"{_IN_SWEEP.replace(' --rates 200,900', '')} {_OPEN}", "--rates 300,900", "--rates 200,900"),
        "--json": (f"{_IN_SWEEP.replace(' --json', '')} {_OPEN}", "--json", ""),
        "-o": (f"{_IN_SWEEP} {_OPEN}", "-o swept.json", ""),
    },
    "validate": {
        **_within(_IN_VALIDATE, {name: case for name, case in _MEASURED.items() if name not in _RANKS_WAIT}),
        **_within("validate served.json", {name: _MEASURED[name] for name in _RANKS_WAIT}),
        "--allow-unsupported": (f"validate served.json {_SHARED_EXPERTS}", "--allow-unsupported", ""),
        "--prefix-caching": (f"validate served.json --no-parts {_STATES}", "--no-prefix-caching", ""),
        "--router": (_IN_VALIDATE, "--router least_outstanding", ""),
        "--plan": (_IN_VALIDATE, "--plan tp2", "--plan dp2"),
        "--concurrency": (_IN_VALIDATE.replace("served.json", "records.jsonl"), "--concurrency 2", ""),
        "--request-rate": (_IN_VALIDATE.replace("served.json", "records.jsonl"), "--request-rate 9", ""),
        "--json": (_IN_VALIDATE.replace(" --json", ""), "--json", ""),
        "--parts": (_IN_VALIDATE.replace(" --no-parts", ""), "--no-parts", "--parts"),
    },
    "calibrate": {
        **_within(_IN_CALIBRATE, {name: case for name, case in _MEASURED.items() if name not in _RANKS_WAIT}),
        **_within(_THREE, {name: _MEASURED[name] for name in _RANKS_WAIT}),
        "--allow-unsupported": (f"{_THREE} {_SHARED_EXPERTS}", "--allow-unsupported", ""),
        "--prefix-caching": (f"{_THREE} {_STATES} --constant price_factors.all", "--no-prefix-caching", ""),
        "--router": (_IN_CALIBRATE, "--router least_outstanding", ""),
        "--plan": (_IN_CALIBRATE, "--plan tp2", "--plan dp2"),
        "--concurrency": (_IN_CALIBRATE.replace("served.json", "records.jsonl"), "--concurrency 2", ""),
        "--request-rate": (_IN_CALIBRATE.replace("served.json", "records.jsonl"), "--request-rate 9", ""),
        "-o": (_IN_CALIBRATE, "-o ours.toml", ""),
        "--constant": (_IN_CALIBRATE, "--constant price_factors.gemm", ""),
        "--plan-runs": ("calibrate --model tiny-llama --cluster h100-sxm-2", "--plan-runs", ""),
        "--plans": (_PLANNED, "--plans tp2", ""),
        "--runs": (_PLANNED, "--runs 6", ""),
        "--json": (_PLANNED, "--json", ""),
    },
    "trace describe": {
        **_within("trace describe --json", {**_READING, **_MEDIA}),
        "--json": ("trace describe rows.csv", "--json", ""),
    },
    "trace convert": {
        **{
            option: (f"{line} out.jsonl", added, removed)
            for option, (line, added, removed) in _within("trace convert", {**_READING, **_MEDIA}).items()
        },
        "--to": ("trace convert rows.csv out.jsonl", "--to apex", ""),
    },
    "trace generate": {
        "-o": ("trace generate synthetic:isl=9,osl=9,rate=1,n=3", "-o b.csv", "-o a.csv"),
        "--to": ("trace generate synthetic:isl=9,osl=9,rate=1,n=3 -o a.csv", "--to jsonl", ""),
    },
    "models": {
        "--json": ("models tiny-llama", "--json", ""),
        "--extension": ("models tiny-llama", "--extension cells.py", ""),
    },
    "clusters": {"--json": ("clusters h100-sxm-2", "--json", "")},
    "engines": {
        "--json": ("engines vllm-0.33", "--json", ""),
        "--toml": ("engines vllm-0.33", "--toml", ""),
    },
    "shapes": {
        "--model": ("shapes --cluster h100-sxm-2 -o s.json", "--model llama-3.2-1b", "--model tiny-llama"),
        "--cluster": ("shapes --model llama-3.2-1b -o s.json", "--cluster l40s-4", "--cluster h100-sxm-2"),
        "--trace": ("shapes --model llama-3.2-1b --cluster h100-sxm-2 -o s.json", "--trace rows.csv", ""),
        "--plan": ("shapes --model tiny-llama --cluster h100-sxm-2 -o s.json", "--plan tp2", ""),
        "--images": ("shapes --model qwen2.5-vl-7b --cluster h100-sxm-1 -o s.json", "--images 1:448x448", ""),
        "--weights": ("shapes --model tiny-llama --cluster h100-sxm-2 -o s.json", "--weights fp8", ""),
        "--kv": ("shapes --model tiny-llama --cluster h100-sxm-2 -o s.json", "--kv fp8", ""),
        "--axes": ("shapes --model tiny-llama --cluster h100-sxm-4 --allow-unsupported -o s.json", "--axes cells", ""),
        "--fewer-devices": ("shapes --model tiny-llama --cluster h100-sxm-4 -o s.json", "--fewer-devices", ""),
        "--engine": ("shapes --model tiny-llama --cluster h100-sxm-2 -o s.json", "--engine sglang-0.5", ""),
        "--extension": ("shapes --model tiny-llama --cluster h100-sxm-2 -o s.json", "--extension cells.py", ""),
        "--allow-unsupported": (
            "shapes --model deepseek-v3 --cluster h200-sxm-8 --plan attn.dp8-moe.ep8 --engine vllm-0.6 -o s.json",
            "--allow-unsupported",
            "",
        ),
        "--max-num-seqs": ("shapes --model tiny-llama --cluster h100-sxm-2 -o s.json", "--max-num-seqs 4", ""),
        "--max-num-batched-tokens": (
            "shapes --model tiny-llama --cluster h100-sxm-2 -o s.json",
            "--max-num-batched-tokens 2048",
            "",
        ),
        "--max-model-len": ("shapes --model tiny-llama --cluster h100-sxm-2 -o s.json", "--max-model-len 512", ""),
        "--json": ("shapes --model tiny-llama --cluster h100-sxm-2 -o s.json", "--json", ""),
        "-o": ("shapes --model tiny-llama --cluster h100-sxm-2", "-o t.json", "-o s.json"),
    },
    "db ls": {
        "--db": ("db ls", "--db db2", "--db db"),
        "--device": ("db ls --db db", "--device h100-sxm", ""),
        "--family": ("db ls --db db", "--family gemm", ""),
        "--json": ("db ls --db db", "--json", ""),
    },
    "db show": {
        "--db": ("db show gemm", "--db db2", "--db db"),
        "--device": ("db show gemm --db db", "--device a100-sxm-80gb", ""),
        "--where": ("db show gemm --db db", "--where m=1", ""),
        "--columns": ("db show gemm --db db", "--columns m,n", ""),
        "--limit": ("db show gemm --db db", "--limit 1", ""),
        "--all-statuses": ("db show gemm --db db", "--all-statuses", ""),
        "--json": ("db show gemm --db db", "--json", ""),
    },
    "db verify": {
        "--db": ("db verify", "--db db2", "--db db"),
        "--json": ("db verify --db db", "--json", ""),
    },
    "db merge": {
        "--db": ("db merge db2", "--db db", "--db fresh"),
        "--compact": ("db merge db2 --db db", "--compact", ""),
        "--json": ("db merge db2 --db db", "--json", ""),
    },
    "db export": {
        "--db": ("db export gemm out.csv", "--db db2", "--db db"),
        "--device": ("db export gemm out.csv --db db", "--device a100-sxm-80gb", ""),
        "--where": ("db export gemm out.csv --db db", "--where m=1", ""),
        "--format": ("db export gemm out.csv --db db", "--format json", ""),
        "--median": ("db export gemm out.csv --db db", "--median", ""),
    },
    "import aiconfigurator": {
        "--db": (_TABLES := "import aiconfigurator --from tables --system h100_sxm", "--db a", "--db b"),
        "--system": ("import aiconfigurator --from tables --db a", "--system l40s", "--system h100_sxm"),
        "--framework": (f"{_TABLES} --db a", "--framework sglang", ""),
        "--version": (f"{_TABLES} --db a", "--version 0.20.0", ""),
        "--table": (f"{_TABLES} --db a", "--table moe", ""),
        "--include-unfit": (f"{_TABLES} --db a", "--include-unfit", ""),
        "--from": ("import aiconfigurator --system h100_sxm --db a", "--from tables2", "--from tables"),
        "--list": (f"{_TABLES} --db a", "--list", ""),
        "--json": (f"{_TABLES} --db a", "--json", ""),
    },
    "import nccl-tests": {
        "--db": ("import nccl-tests all_reduce_perf.txt", "--db first", "--db second"),
        "--device": ("import nccl-tests all_reduce_perf.txt --db a", "--device h200-sxm", ""),
        "--kind": ("import nccl-tests all_reduce_perf.txt --db a", "--kind all_gather", ""),
        "--level": ("import nccl-tests all_reduce_perf.txt --db a", "--level network", ""),
        "--in-place": ("import nccl-tests all_reduce_perf.txt --db a", "--in-place", ""),
        "--json": ("import nccl-tests all_reduce_perf.txt --db a", "--json", ""),
    },
    "import llmservingsim": {
        "--db": ("import llmservingsim perf", "--db first", "--db second"),
        "--device": ("import llmservingsim perf --db a", "--device h100-sxm", ""),
        "--config": ("import llmservingsim perf --db a", "--config half.json", ""),
        "--json": ("import llmservingsim perf --db a", "--json", ""),
    },
    "import vidur": {
        "--db": ("import vidur network", "--db first", "--db second"),
        "--device": ("import vidur network --db a", "--device h100-sxm", ""),
        "--json": ("import vidur network --db a", "--json", ""),
    },
    "import apex-plus": {
        "--db": ("import apex-plus plus", "--db first", "--db second"),
        "--device": ("import apex-plus plus --db a", "--device h200-sxm", ""),
        "--include-unfit": ("import apex-plus plus --db a", "--include-unfit", ""),
        "--json": ("import apex-plus plus --db a", "--json", ""),
    },
    "import vllm-bench": {
        "--requests": ("import vllm-bench result.json --db a", "--requests r.parquet", ""),
        "--result": ("import vllm-bench two-results.jsonl --db a", "--result 2", ""),
        "--json": ("import vllm-bench result.json --db a", "--json", ""),
    },
    "fit": {
        "--db": ("fit --prior none --out f.parquet", "--db db2", "--db db"),
        "--device": ("fit --db db --prior none --out f.parquet", "--device a100-sxm-80gb", "--device h100-sxm"),
        "--cluster": (
            f"{_FITTED} --json",
            "--cluster h100-sxm-4x8",
            "",
        ),
        "--framework": (_FITTED, "--framework sglang-0.5.0", ""),
        "--prior": ("fit --db db --device h100-sxm --out f.parquet", "--prior none", ""),
        "--monotone": (_FITTED, "--monotone", ""),
        "--out": ("fit --db db --device h100-sxm --prior none", "--out g.parquet", ""),
        "--constants": ("fit --db db --device h100-sxm", "--constants", ""),
        "--json": (_FITTED, "--json", ""),
    },
    "compare": {
        "--db": ("compare h100-sxm a100-sxm-80gb", "--db db2", "--db db"),
        "--family": ("compare h100-sxm a100-sxm-80gb --db db", "--family moe", ""),
        "--match": ("compare h100-sxm a100-sxm-80gb --db db", "--match backend", ""),
        "--widest": ("compare h100-sxm a100-sxm-80gb --db db", "--widest 0", ""),
        "--cluster": ("compare analytic:h100-sxm-8 device=h100-sxm --db db", "--cluster l40s-8", ""),
        "--out": ("compare h100-sxm a100-sxm-80gb --db db", "--out pages", ""),
        "--json": ("compare h100-sxm a100-sxm-80gb --db db", "--json", ""),
    },
}

# What the help calls them, and what they change instead of the answer.
DISPLAY_ONLY = {
    "search": {"--threads": "how many threads search; docs/concepts/invariants.md holds the answer to be the same"}
}

# Effects that need minutes, torch or a GPU: the test file that tries the option, by its name or its parameter's.
_PROFILE = "tests/profiler/test_profile_command.py"
_PLAN = "tests/profiler/test_adaptive_plan.py"
ELSEWHERE = {
    "search": {"--audio-s": "tests/simulator/test_serving_items.py"},
    "simulate": {"--audio-s": "tests/simulator/test_serving_items.py"},
    "sweep": {"--audio-s": "tests/simulator/test_serving_items.py"},
    "shapes": {"--audio-s": "tests/simulator/test_serving_items.py"},
    "compare": dict.fromkeys(("--where", "--manifest"), "tests/costmodel/test_held_out_prices.py"),
    "fit": {"--manifest": "tests/costmodel/test_next_minutes.py"},
    "report": {"-o": "tests/simulator/test_search_report.py"},
    "rerun": dict.fromkeys(("--json", "-o"), "tests/simulator/test_rerun.py"),
    "whatif": dict.fromkeys(("--set", "--json", "-o"), "tests/simulator/test_rerun.py"),
    "validate": dict.fromkeys(("--mapping", "--report"), "tests/simulator/test_validation_report.py"),
    "profile": {
        "--device": _PROFILE,
        "--device-name": "tests/simulator/test_shapes_command.py",
        "--manifest": _PROFILE,
        "--extension": "tests/profiler/test_custom_ops.py",
        "--families": _PROFILE,
        "--dtypes": "tests/profiler/test_supervisor.py",
        "--kernels": "tests/profiler/test_vllm_cpu_kernels.py",
        "--cache": _PROFILE,
        "--clocks": _PROFILE,
        "--energy": "tests/profiler/test_energy_choice.py",
        "--budget": _PROFILE,
        "--target-error": _PLAN,
        "--prior": _PROFILE,
        "--exhaustive": _PROFILE,
        "--db": _PROFILE,
        "--nproc-per-node": _PROFILE,
        "--threads": "tests/profiler/test_selftest_verdict.py",
        "--seed": _PLAN,
        "--dry-run": _PROFILE,
        "--self-test": "tests/profiler/test_selftest_verdict.py",
        "--json": _PROFILE,
    },
    "observe": dict.fromkeys(
        (
            *("--model", "-o", "--max-rate", "--max-concurrency", "--duration", "--input-tokens", "--output-tokens"),
            *("--requests", "--max-ttft", "--timeout", "--seed", "--api-key-env", "--json"),
        ),
        "tests/profiler/test_observe_command.py",
    ),
    "doctor": dict.fromkeys(("--json", "--try-lock", "--reset-clocks"), "tests/profiler/test_doctor_findings.py"),
    "import vllm-bench": dict.fromkeys(("--db", "--device"), "tests/profiles_db/test_import_vllm_bench.py"),
}


def _all_commands() -> dict[str, click.Command]:
    """Return every command of apex by its words."""
    found: dict[str, click.Command] = {}
    waiting: list[tuple[str, click.Command]] = [("", apex)]
    while waiting:
        words, command = waiting.pop()
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                waiting.append((f"{words} {name}".strip(), inner))
        else:
            found[words] = command
    return found


COMMANDS = _all_commands()


@pytest.mark.parametrize("words", COMMANDS)
def test_no_single_valued_option_may_be_given_twice(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each option that takes one value is refused by name when it stands on the line twice, before anything runs."""
    command = COMMANDS[words]
    assert isinstance(command, Command)
    options = [option for option in command.params if isinstance(option, click.Option) and not option.multiple]
    assert options
    for option in options:
        one = [option.opts[0]] if option.is_flag else [option.opts[0], "1"]
        with pytest.raises(SystemExit) as stopped:
            main([*words.split(), *one, *one])
        assert stopped.value.code == 2
        assert f"{option.opts[0]}" in (said := capsys.readouterr().err)
        assert "is given twice" in said


def test_a_flag_and_its_negation_are_one_option(capsys: pytest.CaptureFixture[str]) -> None:
    """--interval and --no-interval contradict each other: refused, not the last one taken."""
    with pytest.raises(SystemExit) as stopped:
        main(["search", "--interval", "--no-interval"])
    assert stopped.value.code == 2
    assert "--interval/--no-interval is given twice" in capsys.readouterr().err


def test_every_option_has_its_case() -> None:
    """A new option without a pair of lines, a place where it is tried, or a word on what else it is for, is named."""
    listed = {
        (command, option)
        for table in (CASES, DISPLAY_ONLY, ELSEWHERE)
        for command, of_command in table.items()
        for option in of_command
    }
    options = {
        (words, parameter.opts[0])
        for words, command in COMMANDS.items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
    }
    assert options == listed


@pytest.mark.parametrize(
    ("place", "option"), [(place, option) for of_command in ELSEWHERE.values() for option, place in of_command.items()]
)
def test_options_tried_elsewhere_are_there(place: str, option: str) -> None:
    """The file named for an option has the option, or its parameter, in it."""
    text = (_ROOT / place).read_text(encoding="utf-8")
    parameter = option.removeprefix("--").replace("-", "_")
    assert option in text or re.search(rf"\b{parameter}|{parameter}\b", text)


_GEMM = frozenset({"m", "n", "k", "scaling", "quantise"})


def _gemm(device: str, framework: str, m: int, latency_s: float, **more: object) -> dict[str, object]:
    row: dict[str, object] = {"device": device, "framework": framework, "m": m, "n": 1024, "k": 1024}
    row |= {"scaling": "none", "quantise": False, "backend": "torch.cublas", "dtype": "bf16", "latency_s": latency_s}
    return row | {"launch": "graph", "cache": "cold", "status": "ok", "origin": "measured"} | more


def _fill(folder: Path, *, slower: float) -> None:
    """Make a store of two devices and two engines' rows, with a repeat, a failed point and a dip."""
    store = open_store(folder, bundled=None)
    for run, factor in (("run-1", 1.0), ("run-2", 1.1)):
        rows = [
            _gemm("h100-sxm", "vllm-0.24.0", m, slower * factor * (5e-6 + 4e-9 * m) * (1.5 if m == 64 else 1.0))
            for m in (1, 2, 4, 8, 16, 32, 64, 65, 72, 96, 128, 256, 512, 1024)
        ]
        store.append("gemm", rows, run)
    store.append(
        "gemm", [_gemm("h100-sxm", "sglang-0.5.0", m, slower * (7e-6 + 4e-9 * m)) for m in (1, 8, 64, 512)], "run-3"
    )
    store.append(
        "gemm",
        [
            _gemm("a100-sxm-80gb", "vllm-0.24.0", m, slower * (9e-6 + 8e-9 * m), backend="triton")
            for m in (1, 8, 64, 512)
        ],
        "run-4",
    )
    store.append("gemm", [_gemm("h100-sxm", "vllm-0.24.0", 4096, None, status="oom")], "run-5")  # type: ignore[arg-type]


def _tables(folder: Path, rows_of_m: int) -> None:
    """Write aiconfigurator tables: good GEMM rows and an eager one, two versions, two engines, two systems."""
    for system, engine, version in (
        ("h100_sxm", "vllm", "0.24.0"),
        ("h100_sxm", "vllm", "0.20.0"),
        ("h100_sxm", "sglang", "0.5.9"),
        ("l40s", "vllm", "0.24.0"),
    ):
        device = "NVIDIA L40S" if system == "l40s" else "NVIDIA H100 80GB HBM3"
        row = {"framework": engine.upper(), "version": version, "device": device, "op_name": "gemm"}
        row |= {"kernel_source": "torch.nn.functional.linear", "gemm_dtype": "bfloat16", "n": 64, "k": 64}
        path = folder / system / "gemm" / engine / version / "gemm_perf.parquet"
        path.parent.mkdir(parents=True)
        rows = [{**row, "m": m, "latency": 0.01} for m in range(1, 1 + rows_of_m)]
        rows.append({**row, "m": 1, "gemm_dtype": "fp8_block", "latency": 0.1})
        pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write every file that the lines read."""
    folder = tmp_path_factory.mktemp("inputs")
    rows = "".join(f"{0.05 * i},{100 + 10 * i},{5 + i % 7},{20 + i}\n" for i in range(20))
    (folder / "rows.csv").write_text("arrival_s,prompt_tokens,output_tokens,more\n" + rows)
    (folder / "unsorted.csv").write_text("arrival_s,prompt_tokens,output_tokens\n1,100,5\n0,50,5\n2,10,5\n")
    lines = [
        {"timestamp": 100 * i, "input_length": 1024, "output_length": 5, "hash_ids": [1, 2 + i % 3]} for i in range(12)
    ]
    (folder / "mooncake.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    chats = [
        {"chat_id": i, "parent_chat_id": i - 1 if i % 2 else -1, "timestamp": 0.25 * i, "input_length": 100}
        | {"output_length": 5, "type": "text", "turn": 1 + i % 2, "hash_ids": list(range(7 * i, 7 * i + 7))}
        for i in range(8)
    ]
    (folder / "bailian.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats))
    result = {"duration": 2.0, "completed": 2, "total_input_tokens": 300, "total_output_tokens": 9, "request_rate": 1.0}
    result |= {"input_lens": [100, 200], "output_lens": [4, 5], "ttfts": [0.1, 0.2], "start_times": [5.0, 6.0]}
    result |= {"itls": [[0.02] * 3, [0.02] * 4], "errors": ["", ""], "mean_ttft_ms": 150.0}
    (folder / "result.json").write_text(json.dumps(result))
    other = result | {"input_lens": [50, 60], "total_input_tokens": 110, "request_rate": 2.0}
    (folder / "two-results.jsonl").write_text(json.dumps(result) + "\n" + json.dumps(other) + "\n")
    prompts, answers = [200 + 7 * i % 200 for i in range(60)], [8 + 5 * i % 33 for i in range(60)]
    served = {"duration": 1.0, "completed": 60, "total_input_tokens": sum(prompts), "request_rate": 400.0}
    served |= {"total_output_tokens": sum(answers), "input_lens": prompts, "output_lens": answers}
    served |= {"ttfts": [0.005] * 60, "itls": [[0.002] * (n - 1) for n in answers], "errors": [""] * 60}
    (folder / "served.json").write_text(json.dumps(served | {"start_times": [i / 400 for i in range(60)]}))
    records = [
        {
            "metadata": {"request_start_ns": 10**18 + 2_500_000 * i},
            "metrics": {
                "input_sequence_length": {"value": prompt},
                "output_sequence_length": {"value": answer},
                "time_to_first_token": {"value": 5.0, "unit": "ms"},
                "request_latency": {"value": 5.0 + 2.0 * (answer - 1), "unit": "ms"},
            },
        }
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "cells.py").write_text("raise RuntimeError('the extension was run')\n")
    nccl = "# nThread 1 nGpus 8\n"
    nccl += "".join(
        f"#  Rank  {i} Group  0 Pid 1 on box device  {i} [0x1{i}] NVIDIA H100 80GB HBM3\n" for i in range(8)
    )
    nccl += "#       size  count  type  redop  root  time algbw busbw #wrong  time algbw busbw #wrong\n"
    nccl += "#        (B)  (elements)                (us) (GB/s) (GB/s)         (us) (GB/s) (GB/s)\n"
    nccl += "   1048576 262144 float sum -1 20.00 52.43 91.75 0 21.00 49.93 87.38 0\n"
    (folder / "all_reduce_perf.txt").write_text(nccl)
    vidur = folder / "network" / "a100_dgx" / "all_reduce.csv"
    vidur.parent.mkdir(parents=True)
    vidur.write_text(
        "time_stats.all_reduce.median,num_workers,size,collective,devices_per_node\n0.02,4,4096,all_reduce,4\n"
    )
    layers = folder / "perf" / "RTX4090" / "maker" / "model" / "bf16" / "tp1" / "dense.csv"
    layers.parent.mkdir(parents=True)
    layers.write_text("layer,tokens,time_us\no_proj,64,20\n")
    (layers.parents[1] / "meta.yaml").write_text("vllm_version: 0.19.0\ngpu: NVIDIA GeForce RTX 4090\n")
    sizes = {"hidden_size": 1024, "num_attention_heads": 8, "intermediate_size": 4096, "vocab_size": 32000}
    (folder / "configs" / "model" / "maker").mkdir(parents=True)
    (folder / "configs" / "model" / "maker" / "model.json").write_text(json.dumps(sizes))
    (folder / "half.json").write_text(json.dumps({**sizes, "hidden_size": 512}))
    (folder / "plus").mkdir()
    plus = "gpu,num_nodes,num_gpus_per_node,dtype,size(kb),time(us)\n"
    plus += "".join(f"H100-SXM-80GB,1,2,float,{kib},{us}\n" for kib, us in ((4, 1872), (8, 32), (16, 30)))
    (folder / "plus" / "all_gather.csv").write_text(plus)
    _fill(folder / "db", slower=1.0)
    _fill(folder / "db2", slower=2.0)
    small = {"op": "rmsnorm", "rows": 4, "width": 64, "io_bytes": 1024, "m": None}
    row = {name: value for name, value in _gemm("h100-sxm", "vllm-0.24.0", 1, 1e-6).items() if name not in _GEMM}
    open_store(folder / "db", bundled=None).append(
        "elementwise", [row | {name: value for name, value in small.items() if value is not None}], "run-6"
    )
    _tables(folder / "tables", 1)
    _tables(folder / "tables2", 2)
    return folder


def _content(path: Path) -> object:
    """Return what a file holds, without the time of day and the name of the run that wrote it."""
    if path.suffix == ".parquet" and "run" not in path.parts:
        table = pq.ParquetFile(path).read()
        return table.drop_columns([name for name in ("run_id", "created") if name in table.column_names]).to_pydict()
    return path.read_bytes() if path.suffix in {".csv", ".json", ".jsonl"} else b""


def _answer(line: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[object, ...]:
    """Run a line in a folder that holds the inputs; return what a person gets."""
    before = {path for path in folder.rglob("*") if path.is_file()}
    code: object = None
    try:
        main(line.split())
    except SystemExit as stopped:
        code = stopped.code
    except RuntimeError as error:  # the extension's own
        code = str(error)
    said = capsys.readouterr()
    talk = re.sub(r"\d+(\.\d+)? (ms|s|seconds|MB)\b", "", said.err)  # how long it took is no answer
    made = {
        re.sub(r"[0-9a-f]{8,}", "", str(path.relative_to(folder))): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path not in before
    }
    return code, _without_command(said.out), talk, made


def _without_command(text: str) -> str:
    """Return an answer without the command that it keeps, which is another one with every option."""
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if isinstance(document, dict) and "made_by" in document:
        del document["made_by"]
        return json.dumps(document)
    return text


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[object, ...]]:
    """Keep the answers of lines that several options are tried against."""
    return {}


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command, options in CASES.items() for option in options]
)
def test_every_option_changes_the_answer(  # noqa: PLR0917 - fixtures
    command: str,
    option: str,
    inputs: Path,
    answers: dict[str, tuple[object, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The answer with the option is another than without it (or than with another value); neither is a crash."""
    line, added, instead = CASES[command][option]
    assert option in added or option.replace("--", "--no-") in added
    found = []
    for words in (instead, added):
        name = words.split(" ")[0]
        # --model, --cluster and --plan stand in the line: the option takes their place.
        whole = re.sub(rf" {name} \S+", "", line) if name in {"--model", "--cluster", "--plan"} else line
        whole = f"{whole} {words}".strip()
        if whole not in answers:
            folder = tmp_path / str(len(found))
            shutil.copytree(inputs, folder)
            monkeypatch.chdir(folder)
            answers[whole] = _answer(whole, folder, capsys)
        found.append(answers[whole])
    assert found[0] != found[1]
    assert found[0][0] in {0, 2, 3}, found[0]
