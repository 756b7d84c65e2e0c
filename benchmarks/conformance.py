"""Count random workloads on which vLLM's own scheduler and the engine agree, step by step, group by group.

Run ``python -m benchmarks.conformance --vllm PYTHON`` (an interpreter with vLLM); ``--package FOLDER`` puts the Python
files of another vLLM in front of it. ``--seeds FIRST:END`` chooses the workloads, ``--group`` some of the groups.
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.conformance.scheduler_cases import GROUPS, draw_case
from tests.conformance.scheduler_logs import VllmScheduler, difference, engine_log


@dataclass(slots=True, kw_only=True)
class Count:
    """What the workloads of one group showed."""

    group: str
    cases: int = 0
    identical: int = 0
    steps: int = 0
    preempting: int = 0  # workloads in which somebody was preempted
    hitting: int = 0  # workloads with a prefix hit
    differences: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, steps: int, requests: list[list[int]], found: str | None) -> None:
        """Count one workload."""
        self.cases += 1
        self.steps += steps
        self.preempting += any(row[3] for row in requests)
        self.hitting += any(row[4] for row in requests)
        if found is None:
            self.identical += 1
        else:
            self.differences[found] += 1
            self.examples.setdefault(found, []).append(name)

    def shown(self) -> str:
        """Return one line, and one more for each kind of difference."""
        lines = [
            f"{self.group:20} {self.identical:6,} of {self.cases:6,} identical; {self.steps:9,} steps, "
            f"{self.preempting:5,} with preemption, {self.hitting:5,} with prefix hits"
        ]
        for kind, count in self.differences.most_common():
            lines.append(f"    {count:5,}  {kind}   {' '.join(self.examples[kind][:4])}")
        return "\n".join(lines)

    def plain(self) -> dict[str, Any]:
        """Return the counts as JSON holds them."""
        return {
            "group": self.group,
            "cases": self.cases,
            "identical": self.identical,
            "steps": self.steps,
            "preempting": self.preempting,
            "hitting": self.hitting,
            "differences": dict(self.differences),
        }


def compare_group(real: VllmScheduler, group: str, seeds: range) -> Count:
    """Serve the cases of one group on both sides."""
    count = Count(group=group)
    for seed in seeds:
        case = draw_case(group, seed)
        theirs = real.log(case)
        found = difference(engine_log(case), theirs)
        count.add(case["name"], len(theirs.get("steps", ())), theirs.get("requests", []), found)
    return count


def main() -> None:
    """Compare the groups asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", required=True, help="interpreter that has vLLM")
    parser.add_argument("--package", default="", help="folder with the Python files of another vLLM")
    parser.add_argument("--seeds", default="0:1000")
    parser.add_argument("--group", action="append", choices=list(GROUPS), help="repeatable; default: all")
    parser.add_argument("--json", action="store_true", help="print a line of JSON per group")
    arguments = parser.parse_args()
    first, end = map(int, arguments.seeds.split(":"))
    with VllmScheduler(arguments.vllm, arguments.package) as real:
        for group in arguments.group or GROUPS:
            count = compare_group(real, group, range(first, end))
            about = {"version": real.version, "seeds": arguments.seeds}
            print(json.dumps(about | count.plain()) if arguments.json else count.shown(), flush=True)


if __name__ == "__main__":
    main()
