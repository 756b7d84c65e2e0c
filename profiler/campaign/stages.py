"""The stages of a campaign, each resumable: what a slice has not finished the next one goes on with.

The self-test, the tests marked gpu, our timing beside `do_bench`, whole-step anchors and their parts, and the adaptive
profile with energy; which of them run, in which order and for how long at most is `profiler.campaign.stage_list`. A
stage that reaches its cap tells what it has. Rows go to the store; comparisons and the state of the stages to
``campaign/`` beside it.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
import pyarrow as pa

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import read_document
from cluster_specs.files.whole import make_folder, write_text
from profiler.campaign.anchors import PARTS, anchor_steps, compare_steps, save_steps, write_manifest
from profiler.campaign.stage_list import Stage
from profiler.campaign.timers import compare_timers, compared_ops, load_timers, save_timers
from profiler.device_health import device_lost, is_usable
from profiler.device_spec import device_spec
from profiler.duration import format_duration
from profiler.journal import unwritable
from profiler.machine import Machine
from profiler.ranks import RankPlace
from profiler.request import ENERGY_POINTS, ProfileRequest
from profiler.run import Outcome
from profiler.selftest import self_test
from profiler.session import open_bench, profile
from profiler.timing import TimingPolicy
from profiles_db.parquet_files import write_parquet
from profiles_db.store import open_store

# Time for the last point, the summary and the interpreter's end, and its share of a short slice.
_MARGIN_S: Final = 20.0
_MARGIN_SHARE: Final = 0.1
# A point that hangs must not outlast the slice by minutes; on a CPU the campaign is a rehearsal of its own course.
_POLICIES: Final = {
    "cuda": TimingPolicy(point_timeout_s=20.0),
    "cpu": TimingPolicy(warmup_s=0.0, min_samples=3, min_s=0.0, max_s=0.05, point_timeout_s=20.0),
}
_RANK_VARIABLES: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Campaign:
    """The stages over one output folder; ``state`` holds what finished stages have to say."""

    def __init__(
        self,
        db: Path,
        *,
        slice_s: float,
        total_s: float,
        device: str,
        dtypes: tuple[str, ...],
        target_error: float,
        stages: Sequence[Stage],
        families: tuple[str, ...] | None = None,
        energy_points: int = ENERGY_POINTS,
    ) -> None:
        self._db = db
        self._device = device
        self._dtypes = dtypes
        self._target_error = target_error
        self._stages = stages
        self._families = families
        self._energy_points = energy_points
        self._stage_ends_s = math.inf
        self._started_s = time.monotonic()
        self._margin_s = min(_MARGIN_S, _MARGIN_SHARE * slice_s)
        self._slice_s = slice_s - self._margin_s
        self._total_s = total_s
        self._folder = db / "campaign"
        self._state_path = self._folder / "state.json"
        self.state: dict[str, Any] = {"spent_s": 0.0, "runs": []}
        if self._state_path.exists():
            self.state = _read_state(self._state_path)
        self._spent_before_s = float(self.state["spent_s"])

    @property
    def spent_s(self) -> float:
        """Seconds all slices have taken so far."""
        return self._spent_before_s + time.monotonic() - self._started_s

    @property
    def left_s(self) -> float:
        """Seconds of this stage that are left."""
        return min(self._slice_left_s, self._stage_ends_s - time.monotonic())

    @property
    def _slice_left_s(self) -> float:
        return self._slice_s - (time.monotonic() - self._started_s)

    @property
    def _ends_by_cap(self) -> bool:
        """Whether the stage's own cap comes before the end of the slice."""
        return self._stage_ends_s - time.monotonic() < self._slice_left_s

    def run(self) -> bool:
        """Work through the stages until the slice is over; returns whether all are finished.

        Raises ``UserError`` where the device is not there, before anything is written, or the folder refuses.
        """
        with self._machine() as machine:
            click.echo(f"campaign on {machine.name}", err=True)
        try:
            self._save()
            return self._run_stages()
        except OSError as error:
            raise unwritable(self._db, error) from error

    def _run_stages(self) -> bool:
        methods: dict[str, Callable[[], dict[str, Any] | None]] = {
            "tests": self._tests,
            "self_test": self._self_test,
            "anchors": self._anchors,
            "timers": self._timers,
            "profile": self._profile,
        }
        for stage in self._stages:
            if stage.name in self.state:
                continue
            if self._slice_left_s <= 0:
                return False
            self._stage_ends_s = math.inf if stage.cap_s is None else time.monotonic() + stage.cap_s
            click.echo(f"== {stage.name}: {format_duration(self.left_s)} left for it", err=True)
            result = methods[stage.name]()
            if result is not None:
                self.state[stage.name] = result
            self._save()
            if result is None:
                return False
        return True

    def _save(self) -> None:
        self.state["spent_s"] = round(self.spent_s, 1)
        make_folder(self._folder)
        write_text(self._state_path, json.dumps(self.state, indent=1))

    def _tests(self) -> dict[str, Any]:
        """Run the tests that need a GPU; a failure is recorded and the campaign goes on."""
        tests = Path(__file__).parents[2] / "tests" / "profiler"
        if self._device != "cuda" or not tests.is_dir():
            return {"skipped": "the tests marked gpu need a GPU and a checkout"}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-q", "-rfE", str(tests)]
        # Other versions of plugins and of torch may warn; that is no news about the GPU.
        command += ["-W", "default", "-o", "addopts=--import-mode=importlib"]
        limit_s = self.left_s
        environment = {name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES}
        try:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                timeout=limit_s, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = (error.stdout or b"").decode(errors="replace")
            return {"skipped": f"the tests took longer than {format_duration(limit_s)}", "tail": said[-2000:]}
        click.echo(done.stdout[-4000:], err=True)
        return {"exit_code": done.returncode, "tail": done.stdout[-2000:]}

    def _self_test(self) -> dict[str, Any]:
        with self._machine() as machine:
            spec = device_spec(machine.name)
            if spec is None:
                return {"skipped": f"no bundled spec of {machine.name}"}
            try:
                policy = None if self._device == "cuda" else _POLICIES["cpu"]
                result = self_test(spec, machine.device, gpu=machine.gpu, policy=policy)
            except RuntimeError as error:
                self.state["self_test"] = {"failed": str(error)[:500]}
                self._save()
                if not is_usable(machine.device):
                    raise device_lost("the self-test") from error
                return {"failed": str(error)[:500]}
        click.echo("\n".join(result.lines()), err=True)
        rows = pa.Table.from_pylist([asdict(quantity) for quantity in result.quantities])
        write_parquet(rows, self._folder / "self_test.parquet")
        return {"trusted": result.is_trusted, "lines": result.lines()}

    def _anchors(self) -> dict[str, Any] | None:
        """Measure steps and their parts, then compare."""
        steps = anchor_steps(self._device, self._dtypes)
        manifest = self._folder / "anchors.json"
        make_folder(self._folder)
        write_manifest(steps, manifest)
        for families in (("step",), PARTS):
            outcome = self._measure(manifest=manifest, families=families, exhaustive=True)
            if not outcome.is_fulfilled and not self._ends_by_cap:
                return None
        with self._machine() as machine:
            backend = open_bench(self._request(), machine).step_backend
            found = compare_steps(open_store(self._db, bundled=None), machine.name, steps, backend)
        save_steps(found, self._folder / "steps.parquet")
        errors = [comparison.error for comparison in found]
        for comparison in found:
            click.echo(f"{comparison.error:+7.1%}  {comparison.measured_s * 1e6:10.1f} us  {comparison.step}", err=True)
        return {
            "steps": len(steps),
            "compared": len(found),
            "median_error": statistics.median(errors) if errors else None,
            "median_absolute_error": statistics.median(map(abs, errors)) if errors else None,
        }

    def _timers(self) -> dict[str, Any] | None:
        path = self._folder / "timers.parquet"
        rows = load_timers(path)
        done = {row.op for row in rows}
        with self._machine() as machine:
            bench = open_bench(self._request(), machine)
            for op in compared_ops(self._device, self._dtypes):
                if str(op) in done:
                    continue
                if self.left_s <= 0:
                    if self._ends_by_cap:
                        break
                    return None
                rows.append(compare_timers(bench, op, machine.name))
                save_timers(rows, path)
                if rows[-1].note and not is_usable(machine.device):
                    raise device_lost(op)
        timed = [row for row in rows if row.cold_s is not None]
        ratios: dict[str, float] = {}
        for name in ("hot_s", "do_bench_s", "do_bench_cudagraph_s"):
            over = [getattr(row, name) / row.cold_s for row in timed if getattr(row, name) is not None]
            if over:
                ratios[f"median_{name}_over_cold_s"] = statistics.median(over)
        return {"ops": len(rows), "timed": len(timed), **ratios}

    def _profile(self) -> dict[str, Any] | None:
        """Measure the general grid until it is known well enough, or the campaign's time is over."""
        ends_campaign = self._total_s - self.spent_s <= self.left_s + self._margin_s + 1.0
        outcome = self._measure(
            families=self._families,
            energy="some" if self._energy_points else "none",
            energy_points=self._energy_points,
            budget_s=min(self.left_s, self._total_s - self.spent_s),
        )
        if not (outcome.is_fulfilled or self._ends_by_cap or ends_campaign):
            return None
        return {
            "measured_in_last_slice": outcome.measured,
            "fulfilled": outcome.is_fulfilled,
            "left_out": outcome.left_out,
            "drift_frac": outcome.drift_frac,
        }

    def _machine(self) -> Machine:
        return Machine.open(self._device, None, RankPlace(), threads=1)

    def _request(self, *, budget_s: float | None = None, **changes: Any) -> ProfileRequest:
        return ProfileRequest(
            db=self._db,
            device=self._device,  # type: ignore[arg-type]  # click has checked the choice
            dtypes=self._dtypes,
            budget_s=max(self.left_s if budget_s is None else budget_s, 1.0),
            target_error=self._target_error,
            policy=_POLICIES[self._device],
            command=("make", "gpu-campaign"),
            **changes,
        )

    def _measure(self, **changes: Any) -> Outcome:
        outcome = profile(self._request(**changes), RankPlace(), lambda line: click.echo(line, err=True))
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(outcome.statuses.items())) or "no new rows"
        click.echo(f"{statuses}; {outcome.already} already measured", err=True)
        for sentence in outcome.left_out:
            click.echo(f"left out: {sentence}", err=True)
        self.state["runs"].append(outcome.run_id)
        self._save()
        if outcome.stopped_by is not None:
            raise click.Abort
        return outcome


def _read_state(path: Path) -> dict[str, Any]:
    """Return what earlier slices have done; raises ``UserError`` where the file does not say it."""
    match parse_json(read_document(path), str(path), hint="remove it: the stages start again, stored rows stay"):
        case {"spent_s": float() | int(), "runs": list()} as state:
            return dict(state)
        case _:
            raise UserError(
                f"{path}: is not the state of a campaign", hint="remove it: the stages start again, stored rows stay"
            )
