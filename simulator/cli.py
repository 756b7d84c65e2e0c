"""The `apex` command: a group that imports a subcommand's module only when it runs.

`apex --help` must stay instant, so the group knows each command's one-line help and the place of its code as text.
"""

import contextlib
import errno
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from cluster_specs.command_line import Command, Group, tell
from cluster_specs.errors import OutputError, UserError
from simulator.errors import EXIT_DEFECT, EngineDefectError

# What a write to a full disk, to a reader who left or to a closed descriptor says; files being opened have a name.
_REFUSED_WRITES: Final = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})

# name -> (module, attribute, one-line help)
_COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "search": (
        "simulator.commands.search",
        "search",
        "Find the best plan for a model, a cluster and a trace.",
    ),
    "simulate": ("simulator.commands.simulate", "simulate", "Simulate one plan."),
    "sweep": ("simulator.commands.sweep", "sweep", "Simulate plans at several rates, and find their knees."),
    "rerun": ("simulator.commands.rerun", "rerun", "Make a saved answer again, and say what differs."),
    "whatif": ("simulator.commands.rerun", "whatif", "Make a saved answer again with options changed."),
    "validate": (
        "simulator.commands.validate",
        "validate",
        "Compare results of a real server with what is predicted.",
    ),
    "calibrate": (
        "simulator.commands.calibrate",
        "calibrate",
        "Estimate an engine profile's constants from runs of a server.",
    ),
    "report": ("simulator.commands.report", "report", "Make the page of a search that was saved."),
    "trace": ("simulator.commands.trace", "trace", "Generate, convert or describe a request trace."),
    "models": ("simulator.commands.models", "models", "List bundled models, or show one."),
    "clusters": (
        "simulator.commands.clusters",
        "clusters",
        "List bundled clusters and devices, or show one.",
    ),
    "engines": ("simulator.commands.engines", "engines", "List bundled engine profiles, or show one."),
    "shapes": ("simulator.commands.shapes", "shapes", "Write the op shapes a search will ask for."),
    "profile": ("profiler.profile_command", "profile", "Measure this machine's ops into Parquet."),
    "observe": ("profiler.observe.command", "observe", "Measure a running server under a ladder of loads."),
    "doctor": ("profiler.profile_command", "doctor", "Check whether this machine can be measured well."),
    "fit": ("simulator.commands.fit", "fit", "Turn measurements into a fitted cost model."),
    "compare": (
        "costmodel.compare.compare_command",
        "compare",
        "Show fitted against measured, or two sets of measurements.",
    ),
    "db": ("profiles_db.db_command", "db", "List, show, verify, merge or export measurements."),
    "import": ("profiles_db.db_command", "import_group", "Import other tools' measurements."),
}


class _LazyGroup(click.Group):
    """Resolves subcommands by string, so that one command never pays for another's imports."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            import difflib

            close = difflib.get_close_matches(cmd_name, _COMMANDS, n=1)
            if close:
                raise click.UsageError(f"No such command {cmd_name!r}. Did you mean {close[0]!r}?", ctx)
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, Command | Group)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="apex-planner", prog_name="apex")
def apex() -> None:
    """Find how to serve an LLM on a cluster without renting the cluster."""


def _end_without_output(error: OSError) -> int:
    """Say that standard output took no more, unless its reader has left; the interpreter must not try again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        return OutputError.exit_code
    return tell(OutputError(f"standard output: cannot be written: {error.strerror}", hint="is the disk full?"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends in one message, a hint and exit code 2, never a traceback."""
    try:
        given = list(arguments) if arguments is not None else None
        code = apex.main(args=given, prog_name="apex", standalone_mode=False)
    except click.exceptions.Abort as error:
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None  # click takes the end of any file for a person's wish to stop
        click.echo("interrupted", err=True)
        sys.exit(130)
    except (click.ClickException, UserError) as error:
        sys.exit(tell(error))
    except OSError as error:
        if error.filename is not None or error.errno not in _REFUSED_WRITES:
            raise
        sys.exit(_end_without_output(error))
    except EngineDefectError as error:
        click.echo(f"error: engine defect: {error}", err=True)
        click.echo("hint: there is no result; please report this with the command and its files", err=True)
        sys.exit(EXIT_DEFECT)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
