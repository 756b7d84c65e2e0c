"""The measured runs beside their predictions: the same requests, replayed under an engine profile."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.witness.prices import CLUSTER, PLAN
from benchmarks.witness.server import KV_BLOCKS, MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS
from benchmarks.witness.workloads import BLOCK_TOKENS, SERVERS, WorkloadCase
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.validation.deployment import Deployment
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.validation.read_results import read_results
from simulator.workload.workload import PrefixBlocks, Workload

METRICS: Final = {
    "ttft_s.mean": "TTFT",
    "tpot_s.mean": "TPOT",
    "e2e_s.mean": "E2E",
    "throughput_tokens_per_s": "tokens/s",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessedRun:
    """One run of a workload, and the file its client wrote."""

    case: WorkloadCase
    name: str
    result: Path
    model: Path


def deployment_of(run: WitnessedRun, fit: Path, profile: Path, settings: Mapping[str, Any]) -> Deployment:
    """Return the server of a run as the simulator names it."""
    context = next(server.context for server in SERVERS if server.name == run.case.server)
    limits = {"max_num_seqs": MAX_NUM_SEQS, "max_num_batched_tokens": MAX_NUM_BATCHED_TOKENS, "max_model_len": context}
    return Deployment(
        model=str(run.model),
        cluster=CLUSTER,
        plan=PLAN,
        engine=str(profile),
        costs=fit,
        settings={**limits, "enforce_eager": True, "enable_prefix_caching": True, **settings},
    )


def measured_run(run: WitnessedRun, fit: Path, profile: Path) -> MeasuredRun | UnusableRun:
    """Read a run: its requests share what the client made them share, its server has the blocks it told of."""
    found = read_results([run.result], deployment_of(run, fit, profile, {}))[0]
    if isinstance(found, UnusableRun):
        return found
    blocks = {"num_gpu_blocks": json.loads(run.result.read_text())[KV_BLOCKS]}
    workload = found.workload
    if run.case.prefix:
        workload = replace(workload, prefix=shared_prefix(workload, run.case.prefix))
    return replace(found, workload=workload, deployment=deployment_of(run, fit, profile, blocks))


def shared_prefix(workload: Workload, prefix_tokens: int) -> PrefixBlocks:
    """Return ids of the whole blocks of every prompt: equal for the common beginning, different for all others."""
    counts = workload.prompt_tokens // BLOCK_TOKENS
    shared = prefix_tokens // BLOCK_TOKENS
    ids: list[int] = []
    for count in counts.tolist():
        common = min(shared, count)
        ids += [*range(common), *(shared + len(ids) + place for place in range(count - common))]
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    return PrefixBlocks(block_tokens=BLOCK_TOKENS, offsets=offsets, ids=np.array(ids, dtype=np.int64))


def predict(
    runs: Iterable[WitnessedRun], fit: Path, profile: Path, predictor: Predictor, own: EngineProfile | None = None
) -> dict[str, ValidatedRun | UnusableRun]:
    """Predict every run by its name, under ``own`` in place of the profile at ``profile``."""
    engine = own or load_profile(str(profile))
    found: dict[str, ValidatedRun | UnusableRun] = {}
    for run in runs:
        measured = measured_run(run, fit, profile)
        found[run.name] = measured if isinstance(measured, UnusableRun) else predictor.predict(measured, engine)
    return found
