"""Kills 2-rank profiles at random times and resumes them, to see whether a row is lost or there twice.

    python benchmarks/profiler_kills.py --kills 50

Each kill hits the launcher, one rank or all of them, with SIGKILL, SIGTERM or SIGINT, while the ranks start or while
they measure; the launcher is `apex profile` or torchrun, drawn anew for every start. Before each kill every row on disk
(journal and store) is noted. A profile that has measured everything is checked and followed by one in a new folder:
each row noted must be in the store with the very same time, and every point of the manifest exactly once.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from profiler.point import row_identity
from profiles_db.schema import FAMILIES
from profiles_db.store import open_store

GEMM_COLUMNS: Final = ["m", "n", "k", "scaling", "quantise", "dtype"]
COLLECTIVE_COLUMNS: Final = ["kind", "ranks", "nodes", "level", "message_bytes", "dtype"]
KINDS: Final = ("all_reduce", "all_gather", "all_to_all")
TARGETS: Final = ("launcher", "one rank", "all")
SIGNALS: Final = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LAUNCHERS: Final = {
    "apex profile": ["-m", "simulator.cli", "profile", "--nproc-per-node", "2"],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "profiler"],
}
# One kill in four comes while the ranks start; the others this long, at most, after the next row.
_WHILE_STARTING: Final = 0.25
_START_S: Final = 10.0
_AFTER_ROW_S: Final = 1.5
_HANG_S: Final = 600.0
_POLL_S: Final = 0.2


def write_manifest(path: Path) -> int:
    """Write GEMMs in bf16, FP8 and W8A8 and collectives over two ranks; returns the number of points."""
    formats = (("bf16", "none"), ("fp8", "row"), ("w8a8", "row"))
    gemms = [
        [m, n, 256, scaling, False, dtype]
        for m in (1, 2, 4, 8, 16, 32, 64, 128)
        for n in (128, 256, 512, 1024)
        for dtype, scaling in formats
    ]
    collectives = [[kind, 2, 1, "memory", 1 << e, "bf16"] for kind in KINDS for e in range(10, 22, 2)]
    tables = {
        "gemm": {"columns": GEMM_COLUMNS, "rows": gemms},
        "collective": {"columns": COLLECTIVE_COLUMNS, "rows": collectives},
    }
    path.write_text(json.dumps({"apex_shape_manifest": 1, "families": tables}))
    return len(gemms) + len(collectives)


def stored_rows(db: Path) -> list[tuple[Any, float | None]]:
    """Identity and time of every row in the store, repeats kept."""
    store = open_store(db, bundled=None)
    return [
        (row_identity(family, row), row["latency_s"])
        for family in FAMILIES
        for row in store.read(family, statuses=None).to_pylist()
    ]


def on_disk(db: Path) -> dict[Any, float | None]:
    """Time of every row in the store and in whole journal lines, by identity."""
    rows = {}
    for path in (db / ".profile").glob("rows-*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # its rows were stored meanwhile
            for line in path.read_text().splitlines():
                with contextlib.suppress(ValueError):  # the line being written
                    entry = json.loads(line)
                    rows[row_identity(entry["family"], entry["row"])] = entry["row"].get("latency_s")
    return rows | dict(stored_rows(db)) if db.exists() else rows


def ranks_of(launcher: int) -> list[int]:
    """Return the ranks that a launcher has started."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
        return [int(child) for child in children if is_rank(int(child))]
    return []


def is_rank(pid: int) -> bool:
    """Whether a process is a rank that has not ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return "-m\0profiler\0" in Path(f"/proc/{pid}/cmdline").read_text()  # empty of a process nobody waited for
    return False


def wait_until(is_true: Callable[[], bool]) -> float:
    """Wait for a condition; returns the seconds it took, and raises ``TimeoutError`` for a hang."""
    started = time.monotonic()
    while not is_true():
        if time.monotonic() > started + _HANG_S:
            raise TimeoutError(f"nothing happened in {_HANG_S:g} s")
        time.sleep(_POLL_S)
    return time.monotonic() - started


@dataclass(slots=True)
class Profile:
    """One folder, measured to its end under kills, and what was seen in it before each."""

    db: Path
    manifest: Path
    points: int
    draw: random.Random
    seen: dict[Any, float | None] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    starts: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    slowest_end_s: float = 0.0

    def start(self) -> subprocess.Popen[bytes]:
        """Start or resume the profile under a launcher drawn anew."""
        name = self.draw.choice(list(LAUNCHERS))
        self.starts[name] += 1
        own = ["--device", "cpu", "--manifest", str(self.manifest), "--db", str(self.db), "--exhaustive"]
        command = [sys.executable, *LAUNCHERS[name], *own]
        with (self.db.parent / "said.txt").open("ab") as said:
            return subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)

    def kill_once(self, run: subprocess.Popen[bytes]) -> None:
        """Wait for a random time, note what is on disk, and kill; the run may have ended before."""
        if self.draw.random() < _WHILE_STARTING:
            when = "starting"
            time.sleep(self.draw.uniform(0.0, _START_S))
        else:
            when, count = "measuring", len(on_disk(self.db))
            wait_until(lambda: run.poll() is not None or len(on_disk(self.db)) > count)
            time.sleep(self.draw.uniform(0.0, _AFTER_ROW_S))
        ranks = ranks_of(run.pid)
        target, number = self.draw.choice(TARGETS), self.draw.choice(SIGNALS)
        if run.poll() is not None or (target != "launcher" and not ranks):
            return
        self.seen |= on_disk(self.db)
        pids = {"launcher": [run.pid], "one rank": [self.draw.choice(ranks)] if ranks else [], "all": [run.pid, *ranks]}
        for pid in pids[target]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        self.kills[f"{target}, {number.name}, while {when}"] += 1
        if target == "one rank":
            return  # its launcher decides whether to start again
        self.slowest_end_s = max(self.slowest_end_s, wait_until(lambda: run.poll() is not None))
        # Ranks whose launcher was killed end by themselves, after the point in flight.
        self.slowest_end_s = max(self.slowest_end_s, wait_until(lambda: not any(map(is_rank, ranks))))

    def measure_under_kills(self, kills: int) -> None:
        """Start, kill and start again until everything is measured; without kills once so many were made."""
        run = self.start()
        while True:
            if self.kills.total() < kills:
                self.kill_once(run)
            else:
                run.wait(_HANG_S)
            if (code := run.poll()) is not None:
                self.ends[str(code)] += 1
                if code == 0 and len(on_disk(self.db)) >= self.points:
                    return
                run = self.start()

    def verdict(self) -> dict[str, int]:
        """Count rows that were seen and are gone or changed, rows there twice, and points without a row."""
        rows = stored_rows(self.db)
        left = dict(rows)
        return {
            "rows_lost": sum(left.get(identity, "gone") != latency for identity, latency in self.seen.items()),
            "rows_twice": len(rows) - len(left),
            "points_missing": self.points - len(left),
            "files_left": len(list((self.db / ".profile").glob("rows-*"))),
        }


def run_profiles(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Measure one profile after the other until so many kills were made; returns what became of all rows."""
    draw = random.Random(seed)
    manifest = folder / "shapes.json"
    points = write_manifest(manifest)
    done: list[Profile] = []
    started = time.monotonic()
    while (left := kills - sum(profile.kills.total() for profile in done)) > 0:
        place = folder / str(len(done))
        place.mkdir()
        profile = Profile(place / "db", manifest, points, draw)
        profile.measure_under_kills(left)
        done.append(profile)
        print(f"profile {len(done)}: {profile.kills.total()} kills, {profile.verdict()}", file=sys.stderr, flush=True)
    return {
        "profiles": len(done),
        "points_each": points,
        "kills": _summed(profile.kills for profile in done),
        "kills_in_all": sum(profile.kills.total() for profile in done),
        "starts": _summed(profile.starts for profile in done),
        "exit_codes": _summed(profile.ends for profile in done),
        "rows_seen_before_kills": sum(len(profile.seen) for profile in done),
        "slowest_end_s": round(max(profile.slowest_end_s for profile in done), 1),
        "wall_s": round(time.monotonic() - started, 1),
        **_summed(Counter(profile.verdict()) for profile in done),
    }


def _summed(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, kill, resume, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        result = run_profiles(Path(folder), options.kills, options.seed)
    print(json.dumps(result, indent=1))
    sys.exit(1 if result["rows_lost"] or result["rows_twice"] or result["points_missing"] else 0)


if __name__ == "__main__":
    main()
