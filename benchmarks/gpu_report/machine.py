"""Where a campaign's numbers come from, what it could not do, and how many rows it has."""

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu_report.markdown import table
from profiler.campaign.stage_list import STAGES
from profiles_db.schema import FAMILIES
from profiles_db.store import Store


def machine(db: Path, state: dict[str, Any], runs: list[dict[str, Any]]) -> str:
    """Say where the numbers come from, whether the machine could be trusted, and what every stage says."""
    last = max(runs, key=lambda run: run["started_at"])
    versions = ("driver_version", "cuda_version", "torch_version", "triton_version", "git_commit")
    facts = [f"{name.removesuffix('_version').replace('_', ' ')} {last[name]}" for name in versions if last[name]]
    idle = [run["idle_power_w"] for run in runs if run["idle_power_w"] is not None]
    if idle:
        facts.append(f"idle power {min(idle):.0f} to {max(idle):.0f} W")
    text = (
        f"Device `{last['device']}`, {', '.join(facts)}. {state['spent_s'] / 60:.1f} minutes in {len(runs)} runs.\n\n"
    )
    lines = list(state.get("self_test", {}).get("lines", []))
    lines += _instruments(db / "campaign" / "machine.json")
    tests = state.get("tests", {})
    if "tail" in tests:
        lines.append(f"tests marked gpu: {tests['tail'].strip().splitlines()[-1].strip('= ')}")
    text += "".join(f"- {line.strip()}\n" for line in lines) + "\n"
    return text + table(("stage", "what it could not do"), [(name, _shortfall(state.get(name))) for name in STAGES])


def _shortfall(result: dict[str, Any] | None) -> str:
    if result is None:
        return "not reached"
    if "failed" in result:
        return f"failed: {result['failed']}"
    return "; ".join(result.get("left_out", [])) or "-"


def _instruments(path: Path) -> list[str]:
    """Say which questions NVML refused."""
    if not path.exists():
        return []
    facts = json.loads(path.read_text(encoding="utf-8"))
    answers = facts["nvml"]
    refused = {
        name: answer["refused"] for name, answer in answers.items() if isinstance(answer, dict) and "refused" in answer
    }
    if not answers:
        return [f"NVML: {facts['without_nvml']}"]
    if not refused:
        return [f"NVML answered all {len(answers)} questions"]
    return [f"NVML refused {name}: {why}" for name, why in refused.items()]


def rows(store: Store) -> str:
    """Count what was measured, and what could not be."""
    counts: dict[tuple[str, ...], int] = {}
    joules: dict[tuple[str, ...], int] = {}
    for family in FAMILIES:
        for row in store.read(family, statuses=None).to_pylist():
            key = (family, row["dtype"], row["backend"], row["launch"], row["cache"], row["status"])
            counts[key] = counts.get(key, 0) + 1
            joules[key] = joules.get(key, 0) + (row["energy_j"] is not None)
    lines = [[*key, f"{count}", f"{joules[key]}"] for key, count in sorted(counts.items())]
    head = ("family", "format", "kernel", "launch", "operands", "status", "#rows", "#with joules")
    return "## Rows\n\n" + table(head, lines)
