"""Runs worth making as shell lines: each server once, and the clients that load it."""

import shlex
from collections.abc import Iterator
from typing import Any

from simulator.calibration.calibrate import name_of
from simulator.calibration.plan_runs import RANGE_RATIO, PlannedRun, PlannedRuns
from simulator.launch import launch_lines
from simulator.serving import Serving


def planned_lines(found: PlannedRuns, serving: Serving, model: str) -> list[str]:
    """Return the commands of every run, servers as shell lines of their engine, remarks as shell comments."""
    names = ", ".join(name_of(found.unknowns[place]) for place in found.told)
    return [
        f"# {len(found.runs)} runs, chosen by what the simulator's own slopes say they tell: {names}",
        *_servers(found, serving, model),
        "",
        "# then, with the plan of each result in a list (docs/guides/calibrate_your_server.md):",
        f"# apex calibrate runs.toml -o {serving.profile.name}-here.toml",
    ]


def planned_json(found: PlannedRuns, serving: Serving, model: str) -> dict[str, Any]:
    """Return the same as plain values."""
    return {
        "tells": [name_of(found.unknowns[place]) for place in found.told],
        "runs": [
            {
                "plan": str(run.start.plan),
                "prompt_tokens": run.prompt_tokens,
                "output_tokens": run.output_tokens,
                "concurrency": run.concurrency,
                "prompts": run.prompts,
                "result": _result(run),
                "server": list(launch_lines(serving, run.start)),
                "client": _client(run, serving, model),
            }
            for run in found.runs
        ],
    }


def _servers(found: PlannedRuns, serving: Serving, model: str) -> Iterator[str]:
    for plan in dict.fromkeys(str(run.start.plan) for run in found.runs):
        own = [run for run in found.runs if str(run.start.plan) == plan]
        widest = max(own, key=lambda run: (run.start.server.max_model_len, run.concurrency))
        yield from ("", f"# {plan}", *launch_lines(serving, widest.start))
        yield from (_client(run, serving, model) for run in own)


def _result(run: PlannedRun) -> str:
    return f"{run.start.plan}-in{run.prompt_tokens}-out{run.output_tokens}-c{run.concurrency}.json"


def _client(run: PlannedRun, serving: Serving, model: str) -> str:
    """Return the client's command: SGLang's own for SGLang, vLLM's for every server of OpenAI's interface."""
    name = shlex.quote(model) if "/" in model else "MODEL"
    lengths = f"--random-input-len {run.prompt_tokens} --random-output-len {run.output_tokens}"
    load = f"--num-prompts {run.prompts} --max-concurrency {run.concurrency}"
    if serving.profile.engine == "sglang":
        return (
            f"python -m sglang.bench_serving --backend sglang --model {name} --dataset-name random {lengths} "
            f"--random-range-ratio {1 - RANGE_RATIO:g} {load} --output-details --output-file {_result(run)}"
        )
    return (
        f"vllm bench serve --backend openai --model {name} --dataset-name random {lengths} "
        f"--random-range-ratio {RANGE_RATIO:g} --ignore-eos {load} --save-result --save-detailed "
        f"--result-filename {_result(run)}"
    )
