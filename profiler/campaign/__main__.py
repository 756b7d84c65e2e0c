"""`make gpu-campaign`: ``python -m profiler.campaign --slice 9m --db DIR``, repeated until it says it is complete.

Stages, each resumable: the tests marked gpu, the self-test, whole-step anchors and their parts, our timing beside
`do_bench`, the adaptive profile with energy. What a slice has not finished the next one goes on with.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from profiler.campaign.anchors import anchor_steps, compare_steps, write_manifest
from profiler.campaign.spec import device_spec
from profiler.campaign.timers import compare_timers, compared_ops, save_timers
from profiler.duration import format_duration, parse_duration_s
from profiler.errors import ProfilerError
from profiler.machine import Machine
from profiler.ranks import Place
from profiler.request import ProfileRequest
from profiler.run import Outcome
from profiler.session import open_bench, profile
from profiles_db.store import open_store

DTYPES: Final = ("bf16", "fp8", "w8a8")
# Time for the last point, the summary and the interpreter's end.
_MARGIN_S: Final = 20.0
_TESTS_S: Final = 240.0


class Campaign:
    """The stages over one output folder; ``state`` holds what finished stages have to say."""

    def __init__(self, db: Path, *, slice_s: float, device: str, dtypes: tuple[str, ...], target_error: float) -> None:
        self._db = db
        self._device = device
        self._dtypes = dtypes
        self._target_error = target_error
        self._ends_s = time.monotonic() + slice_s - _MARGIN_S
        self._folder = db / "campaign"
        self._state_path = self._folder / "state.json"
        self.state: dict[str, Any] = {}
        if self._state_path.exists():
            self.state = json.loads(self._state_path.read_text(encoding="utf-8"))

    @property
    def left_s(self) -> float:
        """Seconds of this slice that are left."""
        return self._ends_s - time.monotonic()

    def run(self) -> bool:
        """Work through the stages until the slice is over; returns whether all are finished.

        Raises ``ProfilerError`` before anything is written where the device is not there.
        """
        with self._machine() as machine:
            click.echo(f"campaign on {machine.name}", err=True)
        stages: tuple[tuple[str, Callable[[], Any]], ...] = (
            ("tests", self._tests),
            ("self_test", self._self_test),
            ("anchors", self._anchors),
            ("timers", self._timers),
            ("profile", self._profile),
        )
        for name, stage in stages:
            if name in self.state:
                continue
            if self.left_s <= 0:
                return False
            click.echo(f"== {name}: {format_duration(self.left_s)} of the slice left", err=True)
            result = stage()
            if result is None:
                return False
            self.state[name] = result
            self._save()
        return True

    def _save(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._state_path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.state, indent=1), encoding="utf-8")
        temporary.replace(self._state_path)

    def _tests(self) -> dict[str, Any] | None:
        """Run the tests that need a GPU; a failure is recorded and the campaign goes on."""
        tests = Path(__file__).parents[2] / "tests"
        if not tests.is_dir():
            return {"skipped": "no tests folder: not a checkout"}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-q", str(tests / "profiler")]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=min(self.left_s, _TESTS_S), check=False
            )
        except subprocess.TimeoutExpired:
            return {"skipped": f"the tests took longer than {format_duration(min(self.left_s, _TESTS_S))}"}
        click.echo(done.stdout[-2000:], err=True)
        return {"exit_code": done.returncode, "tail": done.stdout[-2000:]}

    def _self_test(self) -> dict[str, Any]:
        from profiler.selftest import self_test

        with self._machine() as machine:
            spec = device_spec(machine.name)
            if spec is None:
                return {"skipped": f"no bundled spec of {machine.name}"}
            result = self_test(spec, machine.device, gpu=machine.gpu)
        click.echo("\n".join(result.lines()), err=True)
        return {"trusted": result.is_trusted, "lines": result.lines()}

    def _anchors(self) -> dict[str, Any] | None:
        """Measure steps and their parts, then compare."""
        steps = anchor_steps(self._device, self._dtypes)
        manifest = self._folder / "anchors.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        write_manifest(steps, manifest)
        parts = ("gemm", "attention", "elementwise")
        for families, energy in ((parts, "none"), (("step",), "all")):
            outcome = self._measure(manifest=manifest, families=families, energy=energy, exhaustive=True)
            if not _is_complete(outcome):
                return None
        with self._machine() as machine:
            backend = open_bench(self._request(), machine).step_backend
            found = compare_steps(open_store(self._db, bundled=None), machine.name, steps, backend)
        errors = [comparison.error for comparison in found]
        for comparison in found:
            click.echo(f"{comparison.error:+7.1%}  {comparison.measured_s * 1e6:10.1f} us  {comparison.step}", err=True)
        return {
            "steps": [{"step": c.step, "measured_s": c.measured_s, "summed_s": c.summed_s} for c in found],
            "median_error": statistics.median(errors) if errors else None,
            "median_absolute_error": statistics.median(map(abs, errors)) if errors else None,
        }

    def _timers(self) -> dict[str, Any] | None:
        rows = []
        with self._machine() as machine:
            if machine.kind != "cuda":
                return {"skipped": "do_bench times GPUs"}
            bench = open_bench(self._request(), machine)
            for op in compared_ops(self._dtypes):
                if self.left_s <= 0:
                    return None
                if (row := compare_timers(bench, op, machine.name)) is not None:
                    rows.append(row)
        save_timers(rows, self._folder / "timers.parquet")
        return {
            name: statistics.median(getattr(row, name) / row.cold_s for row in rows)
            for name in ("hot_s", "do_bench_s", "do_bench_cudagraph_s")
        }

    def _profile(self) -> dict[str, Any] | None:
        outcome = self._measure(energy="some")
        if not _is_complete(outcome):
            return None
        return {"measured": outcome.measured, "left_out": outcome.left_out, "drift_frac": outcome.drift_frac}

    def _machine(self) -> Machine:
        return Machine.open(self._device, None, Place(), threads=1)

    def _request(self, **changes: Any) -> ProfileRequest:
        return ProfileRequest(
            db=self._db,
            device=self._device,  # type: ignore[arg-type]  # click has checked the choice
            dtypes=self._dtypes,
            budget_s=max(self.left_s, 1.0),
            target_error=self._target_error,
            command=("make", "gpu-campaign"),
            **changes,
        )

    def _measure(self, **changes: Any) -> Outcome:
        outcome = profile(self._request(**changes), Place(), lambda line: click.echo(line, err=True))
        self.state.setdefault("runs", []).append(outcome.run_id)
        self._save()
        if outcome.stopped_by is not None:
            raise click.Abort
        return outcome


def _is_complete(outcome: Outcome) -> bool:
    """Whether the plan was fulfilled before the time was over."""
    return outcome.is_fulfilled


@click.command()
@click.option("--slice", "slice_text", default="9m", show_default=True, help="Longest one call may take.")
@click.option("--db", type=click.Path(path_type=Path, file_okay=False), required=True, help="Output folder.")
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda", show_default=True)
@click.option("--dtypes", default=",".join(DTYPES), show_default=True)
@click.option("--target-error", type=float, default=0.03, show_default=True)
def campaign(slice_text: str, db: Path, device: str, dtypes: str, target_error: float) -> None:
    """Run the next slice of the campaign."""
    slice_s = parse_duration_s(slice_text, "--slice")
    if slice_s < 2 * _MARGIN_S:
        raise ProfilerError(f"--slice is {slice_text!r}, must be at least {2 * _MARGIN_S:g} s")
    work = Campaign(db, slice_s=slice_s, device=device, dtypes=tuple(dtypes.split(",")), target_error=target_error)
    is_complete = work.run()
    click.echo(json.dumps({"complete": is_complete, **work.state}, indent=1))
    if not is_complete:
        click.echo("not complete: run the same command again", err=True)


if __name__ == "__main__":
    from profiler.__main__ import run_as_program

    run_as_program(campaign, "python -m profiler.campaign")
