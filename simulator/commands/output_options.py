"""The options that write a run in full, and the writing itself."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cluster_specs.command_line import check_outputs
from cluster_specs.lazy_dataclass import dataclass

if TYPE_CHECKING:
    from simulator.engine.result import EngineResult

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, dir_okay=False)
_OPTIONS = (
    click.option("--requests-out", type=_FILE, metavar="FILE", help="Write one row per request (Parquet)."),
    click.option("--iterations-out", type=_FILE, metavar="FILE", help="Write one row per engine step (Parquet)."),
    click.option("--chrome-trace", type=_FILE, metavar="FILE", help="Write the timeline for Perfetto (JSON)."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFiles:
    """Files to write a run into; None writes none."""

    requests_out: Path | None
    iterations_out: Path | None
    chrome_trace: Path | None

    @property
    def need_log(self) -> bool:
        """Whether the engine must keep its iteration log."""
        return self.iterations_out is not None or self.chrome_trace is not None

    def check(self, inputs: Sequence[str]) -> None:
        """Refuse two outputs in one file, an output over an input, and a folder that cannot be written."""
        check_outputs((self.requests_out, self.iterations_out, self.chrome_trace), inputs)

    def write(self, run: "EngineResult") -> None:
        """Write each file whole and say on stderr what it holds."""
        if (self.requests_out, self.iterations_out, self.chrome_trace) == (None, None, None):
            return
        from simulator.outputs.chrome_trace import MAX_EVENTS, write_chrome_trace
        from simulator.outputs.iterations import iteration_table
        from simulator.outputs.requests import request_table
        from simulator.outputs.tables import write_table

        if self.requests_out is not None:
            write_table(request_table(run), self.requests_out)
            click.echo(f"{self.requests_out}: {len(run)} requests", err=True)
        if self.iterations_out is not None:
            table = iteration_table(run)
            write_table(table, self.iterations_out)
            click.echo(f"{self.iterations_out}: {table.num_rows} iterations", err=True)
        if self.chrome_trace is not None:
            kept = write_chrome_trace(run, self.chrome_trace)
            line = f"{self.chrome_trace}: {kept.iterations} iterations, {kept.requests} requests"
            if not kept.is_whole:
                line += (
                    f"; cut at {kept.until_s:.3f} s, {kept.all_iterations - kept.iterations} iterations and "
                    f"{kept.all_requests - kept.requests} requests left out (at most {MAX_EVENTS} events; --limit N "
                    "simulates fewer requests)"
                )
            click.echo(line, err=True)


def output_options(command: Command) -> Command:
    """Add the options; what click collects makes an ``OutputFiles``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
