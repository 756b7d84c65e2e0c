"""`apex rerun` and `apex whatif`: a saved answer made again, as it was or with options changed."""

from pathlib import Path
from typing import Any, Final

import click

from cluster_specs.command_line import Command, check_outputs, strict_json

_NAMED: Final = 10
_SAVED: Final = click.argument("result", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_JSON: Final = click.option("--json", "as_json", is_flag=True, help="Print the new answer as JSON.")
_OUT: Final = click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), help="Also write the new answer to a file."
)


@click.command(cls=Command)
@_SAVED
@_JSON
@_OUT
def rerun(result: Path, *, as_json: bool, out: Path | None) -> None:
    """Make a saved answer of search or simulate again, and say what differs and why."""
    from simulator.commands.saved_answer import read_answer, run_again
    from simulator.report.answer_difference import changed_inputs, changed_metrics, difference_table

    check_outputs([out], [result])
    saved = read_answer(result)
    answer = run_again(saved)
    _deliver(answer, as_json=as_json, out=out)
    inputs, metrics = changed_inputs(saved.document, answer), changed_metrics(saved.document, answer)
    lines = []
    old, new = saved.document["made_by"].get("version"), answer["made_by"]["version"]
    if old != new:
        lines.append(f"version of apex: {old} then, {new} now")
    if inputs:
        lines.append(f"changed since: {', '.join(inputs)}")
    if not metrics:
        lines.append("the same answer: every metric of every plan is equal")
    else:
        lines += [f"{plan}: {', '.join(paths)}" for plan, paths in list(metrics.items())[:_NAMED]]
        if len(metrics) > _NAMED:
            lines.append(f"... and {len(metrics) - _NAMED} more plans")
        lines += ["", difference_table(saved.document, answer)]
    click.echo("\n".join(lines), err=as_json)


@click.command(cls=Command)
@_SAVED
@click.option(
    "--set",
    "changes",
    multiple=True,
    required=True,
    metavar="OPTION=VALUE",
    help="Option of the command that made it: rate-scale=2, cluster=8xH200; empty takes it away.",
)
@_JSON
@_OUT
def whatif(result: Path, *, changes: tuple[str, ...], as_json: bool, out: Path | None) -> None:
    """Make a saved answer of search or simulate again with options changed, and show both."""
    from simulator.commands.saved_answer import read_answer, run_again, with_changes
    from simulator.report.answer_difference import changed_inputs, difference_table

    check_outputs([out], [result])
    saved = read_answer(result)
    changed = with_changes(saved, changes)
    answer = run_again(changed)
    _deliver(answer, as_json=as_json, out=out)
    inputs = changed_inputs(saved.document, answer)
    lines = [
        difference_table(saved.document, answer),
        "",
        f"inputs that differ: {', '.join(inputs) or 'none'}",
        f"after: apex {_shell(changed.words)}",
    ]
    click.echo("\n".join(lines), err=as_json)


def _deliver(answer: dict[str, Any], *, as_json: bool, out: Path | None) -> None:
    from cluster_specs.files.whole import write_text

    if out is not None:
        write_text(out, strict_json(answer) + "\n")
    if as_json:
        click.echo(strict_json(answer))


def _shell(words: list[str]) -> str:
    import shlex

    return shlex.join(words)
