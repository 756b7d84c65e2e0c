"""Many numbered cases over all readers, resumable: `python -m benchmarks.fuzz --cases 100000 --state build/fuzz`.

Numbers are worked through in chunks, each by a process of its own, so that whatever one case does to its process is
that case's fault alone; a chunk that is done is a file in the state folder and is not run again. `--shrink N` looks for
the smallest input of the kind of case N that has a fault (Hypothesis); `--bytes READER` lets atheris, which watches
which lines run, break the reader's files as bytes (`pip install '.[fuzz]'`).
"""

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks.fuzz.cases import SHARES, make_case, reader_of
from benchmarks.fuzz.judge import MOST_CPU_S, judge, warm_up
from cluster_specs.files.whole import write_text

_CHUNK: Final = 1000


def main() -> int:
    """Run what the options say; returns 1 where a case had a fault."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="Numbers from --first on.")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path("build/fuzz"), help="Folder of what is done and was found.")
    parser.add_argument("--jobs", type=int, default=2, help="Processes at once.")
    parser.add_argument("--chunk", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--shrink", type=int, metavar="N", help="Find the smallest input like case N that has a fault.")
    parser.add_argument(
        "--bytes", choices=sorted(SHARES), metavar="READER", help="Fuzz one reader's files with atheris."
    )
    options = parser.parse_args()
    options.state.mkdir(parents=True, exist_ok=True)
    if options.bytes:
        words = [options.bytes, str(options.state), str(options.cases)]
        return subprocess.run([sys.executable, "-m", "benchmarks.fuzz.guided", *words], check=False).returncode
    if options.shrink is not None:
        return _shrink(options.shrink)
    if options.chunk is not None:
        _work(options.chunk, options.state)
        return 0
    warm_up()
    chunks = range(options.first // _CHUNK, -(-(options.first + options.cases) // _CHUNK))
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda chunk: _supervise(chunk, options.state), chunks))
    return _report([_result_path(options.state, chunk) for chunk in chunks])


def _result_path(state: Path, chunk: int) -> Path:
    return state / f"chunk-{chunk:05d}.json"


def _supervise(chunk: int, state: Path) -> None:
    """Run a chunk until it is done; a number whose process died of it is a fault, the others go on."""
    path = _result_path(state, chunk)
    while not path.exists():
        command = [sys.executable, "-m", "benchmarks.fuzz", "--chunk", str(chunk), "--state", str(state)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            partial = _partial(path)
            if partial["at"] is None:
                raise SystemExit(f"chunk {chunk} cannot start: {done.stderr[-2000:]}")
            fault = f"the process ended with {done.returncode}: {done.stderr[-200:]}"
            _record(partial, partial["at"], None, fault)
            write_text(path.with_suffix(".part"), json.dumps(partial))
    print(f"chunk {chunk}: {len(json.loads(path.read_text())['faults'])} faults", flush=True)


def _partial(path: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError, ValueError):  # torn by a kill: the chunk starts anew
        found: dict[str, Any] = json.loads(path.with_suffix(".part").read_text())
        return found
    return {"next": None, "at": None, "codes": {}, "faults": [], "peak_kib": 0}


def _record(result: dict[str, Any], number: int, exit_code: int | None, fault: str) -> None:
    key = f"{reader_of(number)} {exit_code}"
    result["codes"][key] = result["codes"].get(key, 0) + 1
    if fault:
        result["faults"].append({"number": number, "reader": reader_of(number), "fault": fault})
    result["next"], result["at"] = number + 1, None


def _work(chunk: int, state: Path) -> None:
    """Run a chunk's cases in this process, saying before each which it is."""
    path = _result_path(state, chunk)
    result = _partial(path)
    first = result["next"] if result["next"] is not None else chunk * _CHUNK
    for number in range(first, (chunk + 1) * _CHUNK):
        result["at"] = number
        path.with_suffix(".part").write_text(json.dumps(result))
        # What does not come back to Python is ended by the kernel; the supervisor blames this number.
        signal.setitimer(signal.ITIMER_VIRTUAL, 2 * MOST_CPU_S)
        with _folder() as folder:
            case = make_case(number, folder)
            verdict = judge(case.arguments, names=case.names)
        result["peak_kib"] = max(result["peak_kib"], verdict.peak_kib)
        _record(result, number, verdict.exit_code, verdict.fault)
    write_text(path, json.dumps(result))
    path.with_suffix(".part").unlink()


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="apex-fuzz-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _report(paths: list[Path]) -> int:
    results = [json.loads(path.read_text()) for path in paths]
    codes: Counter[str] = Counter()
    for result in results:
        codes.update(result["codes"])
    faults = [fault for result in results for fault in result["faults"]]
    for reader in SHARES:
        own = {key.partition(" ")[2]: count for key, count in codes.items() if key.partition(" ")[0] == reader}
        ended = ", ".join(f"{count} x {code}" for code, count in sorted(own.items()))
        wrong = sum(fault["reader"] == reader for fault in faults)
        print(f"{reader:<13} {sum(own.values()):>7} cases   exit codes {ended}   faults {wrong}")
    peak = max((result["peak_kib"] for result in results), default=0)
    print(f"{sum(codes.values())} cases, {len(faults)} faults, at most {peak // 1024} MB")
    for fault in faults[:50]:
        print(f"  {fault['number']} ({fault['reader']}): {fault['fault']}")
    return 1 if faults else 0


def _shrink(number: int) -> int:
    """Let Hypothesis search the draws of a reader's cases for the simplest one with a fault."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st

    reader = reader_of(number)
    print(f"case {number} is of reader {reader}: {_verdict(number)}")

    @settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @settings(phases=[Phase.generate, Phase.shrink])
    @given(rng=st.randoms(use_true_random=False))
    def check(rng: random.Random) -> None:
        with _folder() as folder:
            case = make_case(number, folder, rng=rng)
            verdict = judge(case.arguments, names=case.names)
        assert not verdict.fault, f"{' '.join(case.arguments)}: {verdict.fault}"

    try:
        check()
    except AssertionError as error:
        print(error)
        return 1
    return 0


def _verdict(number: int) -> str:
    with _folder() as folder:
        case = make_case(number, folder)
        return judge(case.arguments, names=case.names).fault or "no fault"


if __name__ == "__main__":
    sys.exit(main())
