"""What two peers cost beside this project: the same runs, timed in turns, in one go (part of ``make bench``).

Run ``python benchmarks/peers.py``; prints one JSON object. On first use each program is installed into an environment
of its own below ``build/peers``: this checkout with its core dependencies, AISimulate from the package index (1.6 GB),
and what apex_plus's simulation imports, beside a clone of its repository. A peer that cannot be installed, fetched or
run leaves a row that says why. Time is that of whole commands; what a request adds is the difference between the two
lengths of a run. Of the repeats, taken in turns, the median counts.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

from command_times import ROOT, Run, run, size_bytes

LENGTHS: Final = (1_000, 10_000)  # requests
ENVIRONMENT: Final = {
    **{key: value for key, value in os.environ.items() if key not in {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}},
    "HF_HUB_OFFLINE": "1",
}

# The paper's own implementation, at the commit that was read.
APEX_PLUS: Final = "https://github.com/microsoft/apex_plus"
APEX_PLUS_COMMIT: Final = "8769096536a34e8b3010fd444021f13858663a93"
APEX_PLUS_IMPORTS: Final = ("numpy", "pandas", "prettytable", "tqdm", "transformers")  # not torch, not Ray
APEX_PLUS_REQUESTS: Final = 512

# One deployment and one traffic, as AISimulate reads it: Llama-3.1-70B in FP8 on eight H100s.
PREDICTION: Final = """\
traffic:
  source: {type: synthetic, input_tokens: 550, output_tokens: 250}
  load: {type: poisson, requests_per_second: 8}
  stop: {requests: %d}
engine:
  mode: aggregated
  model: meta-llama/Meta-Llama-3.1-70B
  hardware: h100_sxm
  backend: vllm
  gemm_quant_mode: fp8
  workers: {aggregated: {parallelism: {tensor: 8}}}
"""
SERVED: Final = ("--model", "llama-3.1-70b", "--cluster", "h100-sxm-8")


class NotRunError(Exception):
    """A peer could not be installed, fetched or run."""


def must(command: Sequence[str], what: str, **more: Any) -> str:
    """Run a command that prepares something and return what it prints; the last line of a failure is its reason."""
    try:
        found = subprocess.run(command, check=True, capture_output=True, text=True, env=ENVIRONMENT, **more)
    except OSError as error:
        raise NotRunError(f"{what}: {error}") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or [f"exit code {error.returncode}"]
        raise NotRunError(f"{what}: {lines[-1]}") from error
    return found.stdout


def environment_of(folder: Path, *packages: str) -> Path:
    """Return the ``bin`` folder of an environment that holds ``packages``; made once."""
    ready = folder / ".ready"
    if not ready.exists():
        must([sys.executable, "-m", "venv", "--clear", str(folder)], "environment")
        install = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        must([*install, *packages], "installation")
        ready.touch()
    return folder / "bin"


def in_turns(commands: Mapping[str, Sequence[str]], repeats: int) -> dict[str, dict[str, float]]:
    """Run each command once unmeasured, then all of them ``repeats`` times in turns; medians of each."""
    try:
        for command in commands.values():
            run(command, ENVIRONMENT)
        rounds = [{name: run(command, ENVIRONMENT) for name, command in commands.items()} for _ in range(repeats)]
    except (OSError, SystemExit) as error:
        raise NotRunError(str(error).strip().splitlines()[-1]) from error
    return {name: medians([one[name] for one in rounds]) for name in commands}


def medians(runs: Sequence[Run]) -> dict[str, float]:
    """Return the middle of each figure."""
    return {name: median(getattr(one, name) for one in runs) for name in ("wall_s", "cpu_s", "peak_bytes")}


def against_aisimulate(apex: Path, folder: Path, repeats: int) -> dict[str, Any]:
    """One plan under Poisson traffic, with 1,000 and 10,000 requests."""
    environment = folder / "aisimulate"
    peer = environment_of(environment, "--pre", "--only-binary=:all:", "aisimulate")
    version = must([str(peer / "python"), "-c", VERSION_OF % "aisimulate"], "version").strip()
    rows = {}
    with tempfile.TemporaryDirectory() as scratch:
        for requests in LENGTHS:
            settings = Path(scratch) / f"{requests}.yaml"
            settings.write_text(PREDICTION % requests, encoding="utf-8")
            out = ("--output-dir", str(Path(scratch) / "out"), "--overwrite")
            traffic = f"synthetic:isl=550,osl=250,rate=8,n={requests}"
            rows[str(requests)] = in_turns(
                {
                    "apex": [str(apex / "apex"), "simulate", *SERVED, "--plan", "tp8-w.fp8", "--trace", traffic],
                    "peer": [str(peer / "aisimulate"), "predict", "-c", str(settings), *out],
                },
                repeats,
            )
        settings = Path(scratch) / f"{LENGTHS[-1]}.yaml"
        command = [str(peer / "aisimulate"), "predict", "-c", str(settings), *out]
        said = [re.search(r"Wall Time \(ms\): ([\d,.]+)", must(command, "aisimulate")) for _ in range(repeats)]
    peer_s = [float(one[1].replace(",", "")) / 1e3 for one in said if one]
    replay_s, whole_s = apex_warm_s(apex, repeats)
    return {
        "version": version,
        "size_bytes": size_bytes(environment),
        "commands": rows,
        "replay_s": {"apex": replay_s, "apex, plan and intervals included": whole_s, "peer": min(peer_s, default=None)},
    }


VERSION_OF: Final = "from importlib.metadata import version; print(version('%s'))"

# In a warm process: the replay alone, and what a search spends on one more plan with its intervals.
WARM: Final = """
import sys, time
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import choose_costs
from simulator.engine.run import run_replicas
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.simulate import simulate
from simulator.workload.parse import parse_workload

cluster, model = load_cluster("h100-sxm-8"), load_model("llama-3.1-70b")
costs, plan = choose_costs(None, cluster), parse_plan("tp8-w.fp8")
workload = parse_workload(sys.argv[1])
start = simulate(plan, workload, cluster, costs, model=model).start
def replay():
    run_replicas(start.compiled.tables("middle"), start.limits_at("middle"), workload, router=start.router)
def whole():
    simulate(plan, workload, cluster, costs, model=model)
for work in (replay, whole):
    seconds = []
    for _ in range(int(sys.argv[2]) + 1):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    print(min(seconds))
"""


def apex_warm_s(apex: Path, repeats: int) -> tuple[float, float]:
    """Seconds of a replay of the longer run, and of a whole simulation of it with intervals, in a warm process."""
    traffic = f"synthetic:isl=550,osl=250,rate=8,n={LENGTHS[-1]}"
    replay_s, whole_s = must([str(apex / "python"), "-c", WARM, traffic, str(repeats)], "replay").split()
    return float(replay_s), float(whole_s)


def against_apex_plus(apex: Path, folder: Path) -> dict[str, Any]:
    """Every plan of Llama-3-70B on eight H100s for one workload; once, as the peer takes minutes."""
    clone = folder / "apex_plus"
    if not (clone / "main.py").exists():
        must(["git", "clone", "--quiet", APEX_PLUS, str(clone)], "its repository could not be fetched")
    must(["git", "-C", str(clone), "checkout", "--quiet", APEX_PLUS_COMMIT], "its repository could not be fetched")
    peer = environment_of(folder / "apex_plus_environment", *APEX_PLUS_IMPORTS)
    lengths = ("--prompt-len", "550", "--output-len", "250", "--num-requests", str(APEX_PLUS_REQUESTS))
    model = ("--model", "llama3-70b", "--num-gpus-per-node", "8", "--gpu", "H100-SXM-80GB")
    command = [str(peer / "python"), "main.py", *model, *lengths, "--disable-ray", "--all"]
    begun = os.times()
    printed = must(command, "apex_plus", cwd=clone)
    spent = os.times()
    plans = re.search(r"Generated (\d+) decoder candidate plans", printed)
    if plans is None:
        raise NotRunError("apex_plus printed no number of plans")
    # The peer's requests are all there at the start; so are those of a closed loop with a slot for each.
    traffic = f"closed:isl=550,osl=250,concurrency={APEX_PLUS_REQUESTS},prompts_per_slot=1,warmup_per_slot=0,ratio=1"
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch) / "search.json"
        search = [str(apex / "apex"), "search", *SERVED, "--trace", traffic, "-o", str(result)]
        own = in_turns({"apex": search}, 3)["apex"]
        counts = json.loads(result.read_text(encoding="utf-8"))["counts"]
    peer_s = spent.children_user + spent.children_system - begun.children_user - begun.children_system
    return {
        "requests": APEX_PLUS_REQUESTS,
        "apex": {"cpu_s": own["cpu_s"], "plans": counts["simulated"]},
        "peer": {"cpu_s": peer_s, "plans": int(plans[1])},
    }


def or_reason(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return what a measurement found, or why it could not be taken."""
    try:
        return measure(*arguments)
    except NotRunError as error:
        return {"not_run": str(error)}


def main() -> None:
    """Install what is missing, time everything, print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "peers", help="where the peers are installed")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["make", "--silent", "setup", f"VENV={folder / 'apex'}"], cwd=ROOT, check=True, stdout=sys.stderr)
    apex = folder / "apex" / "bin"
    results = {
        "aisimulate": or_reason(against_aisimulate, apex, folder, chosen.repeats),
        "apex_plus": or_reason(against_apex_plus, apex, folder),
    }
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
