"""Count random workloads on which vLLM's own scheduler and the engine agree, step by step, group by group.

Run ``python -m benchmarks.conformance --vllm PYTHON`` (an interpreter with vLLM); ``--package FOLDER`` puts the Python
files of another vLLM in front of it. ``--seeds FIRST:END`` chooses the workloads, ``--group`` some of the groups.
``--json`` prints a line per group, to be kept in ``results/conformance.jsonl``; ``--table`` writes the table of
``docs/reference/conformance.md`` from that file.
"""

import argparse
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.conformance.scheduler_cases import GROUPS, draw_case
from tests.conformance.scheduler_logs import VllmScheduler, difference, engine_log

RESULTS: Final = Path(__file__).parent / "results" / "conformance.jsonl"
PAGE: Final = Path(__file__).parents[1] / "docs" / "reference" / "conformance.md"
_BEGIN: Final = "<!-- written by python -m benchmarks.conformance --table -->"
_END: Final = "<!-- end -->"


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


def write_table() -> None:
    """Write what is kept of the comparisons into the page."""
    lines = [
        "| vLLM | group | seeds | identical | steps | with preemption | with prefix hits | first difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kept in map(json.loads, RESULTS.read_text(encoding="utf-8").splitlines()):
        kinds = "; ".join(f"{count}: {kind}" for kind, count in kept["differences"].items())
        cells = [kept["version"], kept["group"], kept["seeds"], f"{kept['identical']:,} of {kept['cases']:,}"]
        cells += [f"{kept[name]:,}" for name in ("steps", "preempting", "hitting")]
        lines.append("| " + " | ".join([*cells, kinds or "-"]) + " |")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text("\n".join([before + _BEGIN, "", *lines, "", _END]) + after, encoding="utf-8")


def main() -> None:
    """Compare the groups asked for, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--vllm", help="interpreter that has vLLM")
    task.add_argument("--table", action="store_true", help="write the table of the page from the kept results")
    parser.add_argument("--package", default="", help="folder with the Python files of another vLLM")
    parser.add_argument("--seeds", default="0:1000")
    parser.add_argument("--group", action="append", choices=list(GROUPS), help="repeatable; default: all")
    parser.add_argument("--json", action="store_true", help="print a line of JSON per group")
    arguments = parser.parse_args()
    if arguments.table:
        write_table()
        return
    first, end = map(int, arguments.seeds.split(":"))
    with VllmScheduler(arguments.vllm, arguments.package) as real:
        for group in arguments.group or GROUPS:
            count = compare_group(real, group, range(first, end))
            about = {"version": real.version, "seeds": arguments.seeds}
            print(json.dumps(about | count.plain()) if arguments.json else count.shown(), flush=True)


if __name__ == "__main__":
    main()
