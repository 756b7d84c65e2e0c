"""A new user's walk: three results of a client and a `config.json` to a search that is calibrated on them.

    python -m benchmarks.calibrated_walk

Follows the commands of the README's "Your own server" to the letter, each a fresh process, and prints what each takes.
The results are those of a server that behaves as the simulator says under a profile of its own: kernels an eighth
slower, a busier host, a slower frontend. So the truth is known for plans that no result is of, and the last lines say
how far they are off with the bundled profile and with the calibrated one.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.engine_profiles.price_factors import FAMILIES
from simulator.simulate import replay
from simulator.validation.deployment import Deployment
from simulator.workload.parse import parse_workload
from tests.simulator.bench_results import save_results, simulated_result
from tests.simulator.deployments import start_of

ROOT: Final = Path(__file__).resolve().parents[1]
SECTION: Final = "## Your own server"
LOADS: Final = {"c1.json": 1, "c16.json": 16, "c64.json": 64}
OTHER_PLANS: Final = ("tp1", "tp4", "tp8")
CONFIG: Final = ROOT / "simulator" / "model" / "configs" / "llama-3.1-8b.json"
TRAFFIC: Final = "closed:isl=1024,osl=256,concurrency={},prompts_per_slot=4"


def server_profile(folder: Path) -> EngineProfile:
    """Return what the measured server really does."""
    path = folder / "truth.toml"
    path.write_text(
        'schema = 1\nname = "truth"\nextends = "vllm-0.33"\nversion = "0.33.0"\nsource = "a server made up"\n'
        '[host]\nserial_step_s = 1.5e-3\nfrontend_s = 20e-3\n[price_factors]\nsource = "made up"\n'
        + "".join(f"{family} = 1.125\n" for family in FAMILIES)
    )
    return load_profile(str(path))


def commands() -> list[list[str]]:
    """Return the `apex` commands of the README's section that take results."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text[text.index(SECTION) : text.index("## How good it is")]
    lines = re.findall(r"^apex (?:validate|calibrate|search) .*$", section, re.MULTILINE)
    return [shlex.split(line, comments=True)[1:] for line in lines]


def main() -> None:
    """Write the results, run the commands, print times and what calibration is worth for other plans."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = server_profile(folder)
        (folder / "config.json").write_bytes(CONFIG.read_bytes())
        deployment = Deployment(model=str(folder / "config.json"), cluster="h100-sxm-8", plan="tp2")
        for file, concurrency in LOADS.items():
            save_results(folder / file, simulated_result(TRAFFIC.format(concurrency), deployment, truth))
        begun = time.perf_counter()
        for words in commands():
            _timed(words, folder)
        print(f"together {time.perf_counter() - begun:.1f} s")
        _other_plans(deployment, truth, load_profile(str(folder / "ours.toml")))


def _timed(words: list[str], folder: Path) -> None:
    begun, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "simulator.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    after = os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    if done.returncode:
        raise SystemExit(f"apex {shlex.join(words)} ended with {done.returncode}:\n{done.stderr}")
    print(f"{time.perf_counter() - begun:6.1f} s, {cpu_s:6.1f} CPU-s: apex {shlex.join(words)}")
    print("\n".join(f"          {line}" for line in done.stdout.strip().splitlines()[-3:]))


def _other_plans(deployment: Deployment, truth: EngineProfile, calibrated: EngineProfile) -> None:
    """Print errors of plans that no result is of, as the profile was and calibrated."""
    workload = parse_workload(TRAFFIC.format(32))
    for plan in OTHER_PLANS:
        found = {}
        for name, profile in (("truth", truth), ("bundled", None), ("calibrated", calibrated)):
            serving = replace(deployment, plan=plan).serving(profile)
            found[name] = replay(serving, start_of(serving, plan, workload), workload).metrics
        errors = []
        for name in ("bundled", "calibrated"):
            for metric in ("ttft_s", "tpot_s"):
                error = found[name][metric]["mean"] / found["truth"][metric]["mean"] - 1.0
                errors.append(f"{name} {metric.removesuffix('_s').upper()} {error:+.1%}")
        print(f"{plan}: {', '.join(errors)}")


if __name__ == "__main__":
    main()
