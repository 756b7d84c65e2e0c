"""`make witness`: serve, measure, profile, fit, predict, calibrate, and write docs/witness.md.

    python -m benchmarks.witness [--python PYTHON] [--short] [--again]

Stages leave files below ``build/witness`` and are not repeated while those are there; ``--again`` forgets all but the
environment and the models. ``--short`` runs a quarter of the requests into a folder and a page of its own.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from benchmarks.witness.environment import ROOT, Environment, cores, open_environment
from benchmarks.witness.host_times import HostRun, HostTimes, host_times, write_profile
from benchmarks.witness.models import make_models
from benchmarks.witness.page import Findings, write_page
from benchmarks.witness.predictions import WitnessedRun, measured_run, predict
from benchmarks.witness.prices import ProfilerRun, apex, fit, write_shapes
from benchmarks.witness.server import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS, serving
from benchmarks.witness.workloads import HOST_SERVERS, HOST_WORKLOADS, SERVERS, WORKLOADS, ServerCase, WorkloadCase
from cluster_specs.errors import UserError
from simulator.engine_profiles.engine_profile import load_profile
from simulator.validation.difference import where_it_sits
from simulator.validation.measured_run import UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun

_T = TypeVar("_T")
PAGE: Final = ROOT / "docs" / "witness.md"
_PROFILE_S: Final = {"narrow": 60, "models": 330}
_SHORT_PROFILE_S: Final = {"narrow": 30, "models": 120}
_CALIBRATE_S: Final = 300.0
# Sequences and tokens of the largest steps of the servers whose ops are measured together.
_LARGEST_STEPS: Final = {
    "narrow": (16, 256),  # 16 prompts of 16 tokens
    "models": (MAX_NUM_SEQS, MAX_NUM_BATCHED_TOKENS),
}
_STAGES: Final = "stages.json"


@dataclass(slots=True)
class Witness:
    """One run of the witness: its folder, and what it has found so far."""

    folder: Path
    is_short: bool
    failures: list[str] = field(default_factory=list)
    stages: dict[str, float] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Say what begins, and keep how long it takes."""
        began_s = time.monotonic()
        print(f"[{(began_s - self.started_s) / 60:4.1f} min] {name}", flush=True)
        try:
            yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.monotonic() - began_s
            (self.folder / _STAGES).write_text(json.dumps(self.stages, indent=2))

    def attempt(self, what: str, action: Callable[[], _T]) -> _T | None:
        """Do something whose failure is told on the page instead of ending the run."""
        try:
            return action()
        except Exception as error:  # half an hour of measuring is not thrown away for what one part does wrong
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            line = f"{what}: {kind}{error}".replace(f"{ROOT}{os.sep}", "")
            print(f"           {line}", flush=True)
            self.failures.append(line)
            return None

    def cases(self) -> list[WorkloadCase]:
        """Return the workloads, the engine's own first."""
        found = [*HOST_WORKLOADS, *WORKLOADS]
        if not self.is_short:
            return found
        return [replace(case, requests=max(case.requests // 4, (case.concurrency or 2) + 1), runs=1) for case in found]


def main(arguments: list[str]) -> int:
    """Run every stage that has not left its files yet; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.witness", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--python", help="a Python that has vLLM for CPUs; without it one is made, once")
    parser.add_argument("--short", action="store_true", help="a quarter of the requests, into a folder of its own")
    parser.add_argument("--again", action="store_true", help="measure again what was measured")
    asked = parser.parse_args(arguments)
    home = ROOT / "build" / "witness"
    witness = Witness(home / ("short" if asked.short else "whole"), asked.short)
    if asked.again and witness.folder.exists():
        shutil.rmtree(witness.folder)
    witness.folder.mkdir(parents=True, exist_ok=True)
    if (witness.folder / _STAGES).exists():  # a run that was cut off goes on
        witness.stages |= json.loads((witness.folder / _STAGES).read_text())
    try:
        found = _run(witness, asked.python, home)
    except UserError as error:
        print(f"Error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    target = witness.folder / "witness.md" if asked.short else PAGE
    target.write_text(write_page(found))
    print(f"[{(time.monotonic() - witness.started_s) / 60:4.1f} min] wrote {target}", flush=True)
    return 0


def _run(witness: Witness, python: str | None, home: Path) -> Findings:
    compute, others = cores()
    with witness.stage("environment"):
        environment = open_environment(python, home)
    with witness.stage("models"):
        models = make_models(environment, home / "models")
    runs = _measure(witness, environment, models, (compute, others))
    engine = witness.folder / "kernels-alone.toml"
    version = environment.version.split("+")[0]
    write_profile(engine, f"vllm-{version}-kernels-alone", version, HostTimes(), "none")
    summaries = _profile(witness, environment, models, engine, compute)
    costs = witness.folder / "cpu.fit.parquet"
    with witness.stage("fit"):
        fit(witness.folder / "db", costs)
    predictor = Predictor()
    with witness.stage("predict blind"):
        times = _host(runs, costs, engine, predictor)
        blind_profile = witness.folder / "blind.toml"
        write_profile(
            blind_profile,
            f"vllm-{version}-cpu",
            version,
            times,
            "servers of models that have next to nothing to compute",
        )
        rest = [run for run in runs if run.case.server not in HOST_SERVERS]
        blind = predict(rest, costs, blind_profile, predictor)
    with witness.stage("where the differences sit"):
        differences = witness.attempt("differences", partial(_differences, blind, rest)) or []
    calibrated, said = {}, ""
    with witness.stage("calibrate"):
        learnt = witness.folder / "calibrated.toml"
        told = witness.attempt("calibration", lambda: _calibrate(rest, costs, blind_profile, learnt))
        if told is not None:
            said = told
            calibrated = predict(rest, costs, blind_profile, predictor, load_profile(str(learnt)))
    return Findings(
        machine=_machine(),
        version=environment.version,
        runs=rest,
        blind=blind,
        calibrated=calibrated,
        times=times,
        calibration=said.replace(f"{ROOT}{os.sep}", ""),
        profiler=summaries,
        differences=differences,
        failures=witness.failures,
        stages=witness.stages,
    )


def _measure(
    witness: Witness, environment: Environment, models: dict[str, Path], used: tuple[int, int]
) -> list[WitnessedRun]:
    """Serve every model and drive its workloads; runs whose results are there already are not made again."""
    results = witness.folder / "results"
    results.mkdir(exist_ok=True)
    cases = witness.cases()
    for server in SERVERS:
        todo = [
            (case, number, results / f"{name}.json")
            for case in cases
            if case.server == server.name
            for number, name in enumerate(case.run_names())
            if not (results / f"{name}.json").exists()
        ]
        if not todo:
            continue
        with witness.stage(f"serve {server.name}"):
            serve = partial(_serve, witness, environment, server, model=models[server.model], used=used, todo=todo)
            witness.attempt(f"server {server.name}", serve)
    model_of = {server.name: models[server.model] for server in SERVERS}
    return [
        WitnessedRun(case=case, name=name, result=results / f"{name}.json", model=model_of[case.server])
        for case in cases
        for name in case.run_names()
        if (results / f"{name}.json").exists()
    ]


def _serve(
    witness: Witness,
    environment: Environment,
    server: ServerCase,
    *,
    model: Path,
    used: tuple[int, int],
    todo: Sequence[tuple[WorkloadCase, int, Path]],
) -> None:
    """Drive workloads, each with the number of its run and the file to write, against one server."""
    log = witness.folder / f"{server.name}.log"
    with serving(server, model, environment, log, used) as running:
        running.warm_up(case for case, _, _ in todo)
        for case, number, result in todo:
            print(f"           {result.stem}", flush=True)
            witness.attempt(result.stem, partial(running.measure, case, number, result))


def _profile(witness: Witness, environment: Environment, models: dict[str, Path], engine: Path, core: int) -> list[str]:
    """Measure the ops of every model with the server's kernels; a run that ended is not made again."""
    budgets = _SHORT_PROFILE_S if witness.is_short else _PROFILE_S
    summaries = []
    for name, wanted in (("narrow", ["null", "wide"]), ("models", ["dense", "mixture"])):
        summary = witness.folder / f"profile-{name}.txt"
        if not summary.exists():
            with witness.stage(f"profile {name}"):
                shapes = witness.folder / f"{name}.shapes.json"
                sequences, tokens = _LARGEST_STEPS[name]
                write_shapes([models[it] for it in wanted], engine, shapes, sequences=sequences, tokens=tokens)
                run = ProfilerRun(
                    environment=environment,
                    shapes=shapes,
                    store=witness.folder / "db",
                    core=core,
                    budget_s=budgets[name],
                )
                summary.write_text(run.run())
        summaries.append(summary.read_text().strip())
    return summaries


def _host(runs: list[WitnessedRun], costs: Path, engine: Path, predictor: Predictor) -> HostTimes:
    """Read host times from the runs of the narrow models; raises ``UserError`` where they are missing."""
    answers = predict([run for run in runs if run.case.server in HOST_SERVERS], costs, engine, predictor)
    found = [answers.get(case.name) for case in HOST_WORKLOADS]
    if any(answer is None or isinstance(answer, UnusableRun) for answer in found):
        why = "; ".join(str(getattr(answer, "reason", "was not measured")) for answer in found)
        raise UserError(f"host times cannot be read from the narrow models' runs: {why}")
    return host_times(*(_beyond(answer, case) for answer, case in zip(found, HOST_WORKLOADS, strict=True)))


def _beyond(answer: ValidatedRun | UnusableRun | None, case: WorkloadCase) -> HostRun:
    assert isinstance(answer, ValidatedRun)
    took_s, kernels_s = answer.run.measured["e2e_s.mean"], answer.predicted["e2e_s.mean"]
    return HostRun(sequences=case.concurrency or 1, tokens=case.answer, beyond_s=took_s - kernels_s)


def _differences(answers: Mapping[str, ValidatedRun | UnusableRun], runs: list[WitnessedRun]) -> list[str]:
    """Say of each server which of its parts explains what its predictions are off by."""
    sentences = []
    for server in SERVERS:
        own = [answers[run.name] for run in runs if run.case.server == server.name]
        found = where_it_sits([answer for answer in own if isinstance(answer, ValidatedRun)], server.name)
        sentences += [] if found is None else found.sentences()
    return sentences


def _calibrate(runs: list[WitnessedRun], costs: Path, profile: Path, out: Path) -> str:
    """Run `apex calibrate` on the runs named for it, all of one server, and return what it says."""
    chosen = [run for run in runs if run.case.is_for_calibration]
    if not chosen:
        raise UserError("none of the runs to calibrate on was measured")
    measured = measured_run(chosen[0], costs, profile)
    if isinstance(measured, UnusableRun):
        raise UserError(f"{measured.name} cannot be calibrated on: {measured.reason}")
    server = measured.deployment
    words = ["--model", server.model, "--cluster", server.cluster, "--plan", server.plan, "--engine", server.engine]
    words += ["--costs", str(costs), "--enforce-eager", "-o", str(out)]
    for name in ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "num_gpu_blocks"):
        words += [f"--{name.replace('_', '-')}", str(server.settings[name])]
    return apex("calibrate", *(str(run.result) for run in chosen), *words, limit_s=_CALIBRATE_S)


def _machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return f"{model}, two cores used"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
