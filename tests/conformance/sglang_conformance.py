"""Run SGLang's own scheduler and this engine on the same random workloads and compare them step by step.

python -m tests.conformance.sglang_conformance --python PYTHON_WITH_SGLANG [--cases 1000] [--group retraction]
... --show "retraction:17"    # both logs around the first difference
... --freeze                  # write the cases and SGLang's logs that the tests keep
"""

import argparse
import json
import lzma
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.conformance.kept_logs import as_differences, summed
from tests.conformance.sglang_cases import COLUMNS, GROUPS, Case, Log, difference, make_case, run_engine

_SIDE: Final = Path(__file__).parent / "sglang_scheduler.py"
KEPT: Final = Path(__file__).parent / "sglang_logs.jsonl.xz"
_KEPT_OF_GROUP: Final = 10  # with retraction, and without
_KEPT_SEEDS: Final = 100
_MOST_STEPS: Final = 600  # of a kept log


class SGLang:
    """SGLang's side, in its own interpreter, kept open."""

    def __init__(self, python: str) -> None:
        self._process = subprocess.Popen(
            [python, str(_SIDE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if "APEX_CONFORMANCE_TRACE" in os.environ else subprocess.DEVNULL,
            text=True,
        )
        self.version: str = self._answer()["version"]

    def __call__(self, case: Case) -> Log:
        """Run one case."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while not (line := self._process.stdout.readline()).startswith("@"):
            if not line:
                raise RuntimeError(f"the interpreter with SGLang ended with code {self._process.wait()}")
        return dict(json.loads(line[1:]))

    def close(self) -> None:
        """End the interpreter."""
        self._process.communicate()


def run_ours(case: Case) -> Log:
    """Serve a case with the engine; a defect it reports is a result."""
    try:
        return run_engine(case)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "steps": [], "requests": []}


def show(case: Case, ours: Log, theirs: Log) -> None:
    """Print both logs around the first difference."""
    print(json.dumps({name: value for name, value in case.items() if name != "requests"}))
    for i, request in enumerate(case["requests"]):
        print(i, request, *(log["requests"][i] if log["requests"] else None for log in (ours, theirs)))
    found = difference(ours, theirs)
    print(found)
    at = found[1] if found and not found[0].startswith("request") else 0
    print("side    step " + " ".join(f"{name:>12}" for name in COLUMNS))
    for k in range(max(0, at - 6), at + 5):
        for name, log in (("engine", ours), ("sglang", theirs)):
            if k < len(log["steps"]):
                print(f"{name} {k:5d} " + " ".join(f"{x:>12}" for x in log["steps"][k]))


def kept_logs() -> Iterator[tuple[Case, Log]]:
    """Yield kept cases with what SGLang's own scheduler made of them."""
    with lzma.open(KEPT, "rt", encoding="utf-8") as file:
        next(file)  # the version
        for line in file:
            kept = json.loads(line)
            yield kept["case"], {name: summed(kept[name]) for name in ("steps", "requests")}


def freeze(version: str, run: Callable[[Case], Log]) -> None:
    """Keep short cases of every group: the first ones, and among the others those with a retraction."""
    with lzma.open(KEPT, "wt", preset=9, encoding="utf-8") as file:
        print(json.dumps({"sglang": version}), file=file)
        for group in GROUPS:
            plain = retracted = 0
            for seed in range(_KEPT_SEEDS):
                case = make_case(group, seed)
                log = run(case)
                is_retracting = any(request[3] for request in log["requests"])
                if len(log["steps"]) > _MOST_STEPS or (retracted if is_retracting else plain) >= _KEPT_OF_GROUP:
                    continue
                retracted += is_retracting
                plain += not is_retracting
                kept = {"case": case} | {name: as_differences(log[name]) for name in ("steps", "requests")}
                print(json.dumps(kept, separators=(",", ":")), file=file)


def main() -> None:
    """Compare, show or freeze."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=os.environ.get("APEX_SGLANG_PYTHON"))
    parser.add_argument("--group", action="append", choices=list(GROUPS))
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--show")
    parser.add_argument("--freeze", action="store_true")
    args = parser.parse_args()
    sglang = SGLang(args.python)
    if args.freeze:
        freeze(sglang.version, sglang)
        return
    if args.show:
        group, seed = args.show.split(":")
        case = make_case(group, int(seed))
        show(case, run_ours(case), sglang(case))
        return
    print(f"SGLang {sglang.version}")
    for group in args.group or GROUPS:
        kinds: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        retracted = hits = steps = 0
        for seed in range(args.first, args.first + args.cases):
            case = make_case(group, seed)
            theirs = sglang(case)
            found = difference(run_ours(case), theirs)
            kind = found[0] if found else "identical"
            kinds[kind] += 1
            examples.setdefault(kind, []).append(str(seed))
            retracted += any(request[3] for request in theirs["requests"])
            hits += any(request[4] for request in theirs["requests"])
            steps += len(theirs["steps"])
        print(
            f"{group}: {kinds['identical']} of {args.cases} identical; {steps:,} steps, "
            f"{retracted} with retraction, {hits} with hits",
            flush=True,
        )
        for kind, count in kinds.most_common(8):
            if kind != "identical":
                print(f"    {count:5d}  {kind[:110]}  {' '.join(examples[kind][:6])}", flush=True)


if __name__ == "__main__":
    main()
