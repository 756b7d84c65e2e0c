"""The stages of a campaign, each resumable: what a slice has not finished the next one goes on with.

The machine and its instruments, known quantities, tests marked gpu, our timing beside `do_bench`; lists of points
(`profiler.campaign.point_lists`), whole-step anchors and their parts, joules, sustained clocks, and the adaptive
profile with what time is left. Which of them run, in which order and for how long is `profiler.campaign.stage_list`. A
stage that reaches its cap tells what it has, one that fails tells why, and the next one comes; how that is kept is
`profiler.campaign.course`. Rows go to the store; comparisons and the state of the stages to ``campaign/`` beside it,
and after each stage everything into one archive.
"""

import errno
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click
import pyarrow as pa

from cluster_specs.errors import OutputError
from cluster_specs.files.whole import make_folder, write_text
from profiler.campaign.anchors import anchor_steps, compare_steps, grouped, save_steps, with_parts
from profiler.campaign.archive import pack
from profiler.campaign.course import GRACE_S, Course
from profiler.campaign.gpu_tests import TESTS, run_gpu_tests
from profiler.campaign.known_products import known_products
from profiler.campaign.machine_facts import machine_facts
from profiler.campaign.point_lists import PointList, listed_points, write_points
from profiler.campaign.stage_list import Stage
from profiler.campaign.timers import compare_timers, compared_ops, load_timers, save_timers
from profiler.device_health import device_lost, is_usable
from profiler.device_spec import device_spec
from profiler.duration import format_duration
from profiler.errors import DeviceLost
from profiler.journal import only_run_in, unwritable
from profiler.machine import Machine
from profiler.ranks import RankPlace
from profiler.request import ENERGY_POINTS, ProfileRequest
from profiler.run import Outcome
from profiler.selftest import self_test
from profiler.session import open_bench, profile
from profiler.signals import listening
from profiler.timing import TimingPolicy
from profiles_db.parquet_files import write_parquet
from profiles_db.store import open_store

# A point that hangs must not outlast the slice by minutes; on a CPU the campaign is a rehearsal of its own course.
_POLICIES: Final = {
    "cuda": TimingPolicy(point_timeout_s=20.0),
    "cpu": TimingPolicy(warmup_s=0.0, min_samples=3, min_s=0.0, max_s=0.05, point_timeout_s=20.0),
}
_DISK_ERRORS: Final = frozenset({errno.EACCES, errno.EDQUOT, errno.EIO, errno.ENOSPC, errno.EPERM, errno.EROFS})
Result = dict[str, Any]


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
        started_s: float | None = None,
    ) -> None:
        self._db = db
        self._device = device
        self._dtypes = dtypes
        self._target_error = target_error
        self._stages = stages
        self._families = families
        self._energy_points = energy_points
        self._folder = db / "campaign"
        self._parent_pid = os.getppid()
        self._course = Course(
            self._folder,
            slice_s=slice_s,
            total_s=total_s,
            grace_s=GRACE_S[device],
            started_s=time.monotonic() if started_s is None else started_s,
        )

    @property
    def results(self) -> dict[str, Result]:
        """What the stages have said, in their order."""
        return {stage.name: self.state[stage.name] for stage in self._stages if stage.name in self.state}

    @property
    def state(self) -> Result:
        """What finished stages have said, the runs and the time so far."""
        return self._course.state

    @property
    def spent_s(self) -> float:
        """Seconds all slices have taken so far."""
        return self._course.spent_s

    def run(self) -> bool:
        """Work through the stages until the slice is over; returns whether all are finished.

        Raises ``UserError`` where the device is not there or another run has the folder, before anything is written,
        or where the folder refuses.
        """
        with self._machine() as machine:
            click.echo(f"campaign on {machine.name}", err=True)
        try:
            with only_run_in(self._db):
                self._course.save()
            with listening(_abort):
                return self._run_stages()
        except OSError as error:
            raise unwritable(self._db, error) from error

    def _run_stages(self) -> bool:
        for stage in self._stages:
            if stage.name in self.state:
                continue
            self._leave_if_orphaned()
            if self._course.is_over and self._course.has_another_slice:
                return False
            result = self._course.refusal(stage) or self._run_stage(stage)
            if result is None:
                return False
            self._course.tell(stage.name, result)
            pack(self._db)
        return True

    def _run_stage(self, stage: Stage) -> Result | None:
        """Run one; a failure is its result, save where the process or the disk can no longer be used."""
        methods: dict[str, Callable[[], Result | None]] = {
            "machine": self._facts,
            "self_test": self._self_test,
            "tests": self._tests,
            "timers": self._timers,
            "anchors": self._anchors,
            "joules": self._joules,
            "clocks": self._clocks,
            "profile": self._profile,
        }
        method = methods.get(stage.name, lambda: self._listed(stage.name, self._lists(stage.name)))
        with self._course.running(stage):
            click.echo(f"== {stage.name}: {format_duration(max(self._course.left_s, 0.0))} left for it", err=True)
            try:
                return method()
            except (click.Abort, DeviceLost, OutputError):
                raise
            except Exception as error:  # a defect of one stage must not cost the others the device's time
                if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
                    raise
                text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:500]
        click.echo(f"{stage.name} failed: {text}", err=True)
        with self._machine() as machine:
            if not is_usable(machine.device):
                self._course.tell(stage.name, {"failed": text})
                raise device_lost(f"the stage {stage.name}")
        return {"failed": text}

    def _facts(self) -> Result:
        with self._machine() as machine:
            facts = machine_facts(machine)
        make_folder(self._folder)
        write_text(self._folder / "machine.json", json.dumps(facts, indent=1))
        lines = [f"{found['topic']}: {found['text']}" for found in facts["findings"] if found["severity"] != "ok"]
        for line in lines:
            click.echo(line, err=True)
        return {"python": facts["python"], "nvml_answers": len(facts["nvml"]), "lines": lines}

    def _tests(self) -> Result:
        """Run the tests that need a GPU; a failure is recorded and the campaign goes on."""
        if self._device != "cuda" or not TESTS.is_dir():
            return {"left_out": ["the tests marked gpu: they need a GPU and a checkout"]}
        result = run_gpu_tests(self._course.left_s)
        click.echo(result["tail"], err=True)
        return result

    def _self_test(self) -> Result:
        with self._machine() as machine:
            spec = device_spec(machine.name)
            policy = TimingPolicy(max_s=1.0) if self._device == "cuda" else _POLICIES["cpu"]
            said: Result = {
                "left_out": [f"the verdict on this machine: no bundled spec of {machine.name}"],
                "lines": [],
            }
            if spec is not None:
                result = self_test(spec, machine.device, gpu=machine.gpu, policy=policy)
                rows = pa.Table.from_pylist([asdict(quantity) for quantity in result.quantities])
                write_parquet(rows, self._folder / "self_test.parquet")
                said = {"trusted": result.is_trusted, "lines": result.lines()}
            products = known_products(machine.device, policy, machine.throttle)
            said["lines"] = [*said["lines"], *map(str, products)]
            said["flop_per_s"] = {product.name: product.flop_per_s for product in products}
            for line in said["lines"]:
                click.echo(line, err=True)
            if not is_usable(machine.device):
                self._course.tell("self_test", said)
                raise device_lost("a known product")
        return said

    def _timers(self) -> Result | None:
        path = self._folder / "timers.parquet"
        rows = load_timers(path)
        done = {row.op for row in rows}
        todo = [op for op in compared_ops(self._device, self._dtypes) if str(op) not in done]
        with self._machine() as machine:
            bench = open_bench(self._request(), machine)
            while todo and self._course.left_s > 0:
                self._leave_if_orphaned()
                op = todo.pop(0)
                rows.append(compare_timers(bench, op, machine.name))
                save_timers(rows, path)
                if rows[-1].note and not is_usable(machine.device):
                    raise device_lost(op)
        if todo and self._course.goes_on:
            return None
        timed = [row for row in rows if row.cold_s is not None]
        ratios: dict[str, float] = {}
        for name in ("hot_s", "do_bench_s", "do_bench_cudagraph_s"):
            over = [getattr(row, name) / row.cold_s for row in timed if getattr(row, name) is not None]
            if over:
                ratios[f"median_{name}_over_cold_s"] = statistics.median(over)
        return {"ops": len(rows), "timed": len(timed), "left_out": [str(op) for op in todo], **ratios}

    def _lists(self, stage: str) -> tuple[PointList, ...]:
        lists = listed_points(stage, self._device, self._dtypes)  # type: ignore[arg-type]  # click has checked it
        if self._families is None or stage == "clocks":
            return lists
        kept = (
            PointList(ops=tuple(op for op in one.ops if op.family in self._families), caches=one.caches)
            for one in lists
        )
        return tuple(one for one in kept if one.ops)

    def _listed(self, stage: str, lists: Sequence[PointList], **changes: Any) -> Result | None:
        """Measure lists of points one after the other; returns what became of them, None where a slice ends it."""
        said: Result = {"points": 0, "stored": 0, "statuses": {}, "left_out": []}
        if not lists:
            said["left_out"].append("all of it: --dtypes and --families leave no point of it")
        for index, one in enumerate(lists):
            manifest = self._folder / f"{stage}-{index}.json"
            make_folder(self._folder)
            write_points(one.ops, manifest)
            outcome = self._measure(manifest=manifest, exhaustive=True, caches=one.caches or None, **changes)
            if not outcome.is_fulfilled and self._course.goes_on:
                return None
            said["points"] += len(one.ops) * max(len(one.caches), 1)
            said["stored"] += outcome.measured + outcome.already
            for status, count in outcome.statuses.items():
                said["statuses"][status] = said["statuses"].get(status, 0) + count
            said["left_out"] += outcome.left_out
        return said

    def _anchors(self) -> Result | None:
        """Measure steps and their parts group by group, then compare."""
        steps = anchor_steps(self._device, self._dtypes)
        lists = [PointList(ops=tuple(with_parts(group))) for group in grouped(steps)]
        said = self._listed("anchors", lists)
        if said is None:
            return None
        with self._machine() as machine:
            backend = open_bench(self._request(), machine).step_backend
            found = compare_steps(open_store(self._db, bundled=None), machine.name, steps, backend)
        save_steps(found, self._folder / "steps.parquet")
        errors = [comparison.error for comparison in found]
        for comparison in found:
            click.echo(f"{comparison.error:+7.1%}  {comparison.measured_s * 1e6:10.1f} us  {comparison.step}", err=True)
        return {
            **said,
            "steps": len(steps),
            "compared": len(found),
            "median_error": statistics.median(errors) if errors else None,
            "median_absolute_error": statistics.median(map(abs, errors)) if errors else None,
        }

    def _joules(self) -> Result | None:
        """Measure joules, seven seconds a point; the points asked for are the first of the list."""
        left, lists = self._energy_points, []
        for one in self._lists("joules"):
            lists.append(PointList(ops=one.ops[:left], caches=one.caches))
            left -= len(lists[-1].ops)
        said = self._listed("joules", [one for one in lists if one.ops], energy="all")
        if said is not None:
            store = open_store(self._db, bundled=None)
            families = sorted({op.family for one in lists for op in one.ops})
            rows = [row for family in families for row in store.read(family).to_pylist()]
            said["with_joules"] = sum(row["energy_j"] is not None for row in rows)
            if self._device == "cpu":
                said["left_out"].append("joules: a CPU has no counter that NVML reads; the points are timed alone")
        return said

    def _clocks(self) -> Result | None:
        """Tell the clock that seconds of a large product leave, for each format."""
        said = self._listed("clocks", self._lists("clocks"), tells_sustained_clocks=True)
        if said is not None:
            runs = open_store(self._db, bundled=None).runs().to_pylist()
            said["sustained_mhz"] = {}
            for told in (run["sustained_clocks"] for run in runs if run["sustained_clocks"]):
                said["sustained_mhz"] |= json.loads(told)
            if self._device == "cpu":
                said["left_out"].append("sustained clocks: a CPU tells none")
        return said

    def _profile(self) -> Result | None:
        """Measure the general grid until it is known well enough, or the campaign's time is over."""
        outcome = self._measure(
            families=self._families,
            dtypes=self._dtypes,
            energy="some" if self._energy_points else "none",
            energy_points=self._energy_points,
        )
        if not outcome.is_fulfilled and self._course.goes_on:
            return None
        return {
            "measured_in_last_slice": outcome.measured,
            "fulfilled": outcome.is_fulfilled,
            "left_out": outcome.left_out,
            "drift_frac": outcome.drift_frac,
        }

    def _machine(self) -> Machine:
        return Machine.open(self._device, None, RankPlace(), threads=1)

    def _request(self, **changes: Any) -> ProfileRequest:
        return ProfileRequest(
            **{"tells_sustained_clocks": False, **changes},
            db=self._db,
            device=self._device,  # type: ignore[arg-type]  # click has checked the choice
            budget_s=max(self._course.left_s, 1.0),
            target_error=self._target_error,
            policy=_POLICIES[self._device],
            command=("make", "gpu-campaign"),
        )

    def _measure(self, **changes: Any) -> Outcome:
        outcome = profile(self._request(**changes), RankPlace(), lambda line: click.echo(line, err=True))
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(outcome.statuses.items())) or "no new rows"
        click.echo(f"{statuses}; {outcome.already} already measured", err=True)
        for sentence in outcome.left_out:
            click.echo(f"left out: {sentence}", err=True)
        self.state["runs"].append(outcome.run_id)
        self._course.save()
        if outcome.stopped_by is not None:
            raise click.Abort
        self._leave_if_orphaned()
        return outcome

    def _leave_if_orphaned(self) -> None:
        """End where the command that keeps this worker was killed: what a stage leaves out is then no result of it."""
        if os.getppid() != self._parent_pid:
            raise click.Abort


def _abort(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - signal's signature
    """End the stage at a signal, through everything that takes an exception for a kernel's; rows are stored already."""
    raise KeyboardInterrupt
