"""``apex db``: the command line of the measurement store; ``apex import`` is ``profiles_db.importers.import_command``.

stdout carries data (a table, or ``--json``), stderr everything said about it. Exit codes: 0 done; 1 ``db verify`` found
something that needs a person; 2 wrong usage or a file that cannot be used.
"""

from pathlib import Path
from typing import Any

import click

from cluster_specs.command_line import Group, check_outputs
from profiles_db.importers.import_command import import_group
from profiles_db.terminal import DB_OPTION, JSON_OPTION, opened, print_rows

__all__ = ["db", "import_group"]

_FAMILY = click.option("--family", help="gemm, attention, moe, elementwise, collective, step or run.")
_DEVICE = click.option("--device", help="For example h100-sxm.")


@click.group(cls=Group)
def db() -> None:
    """List, show, verify, merge or export measurements."""


@db.command("ls")
@DB_OPTION
@_DEVICE
@_FAMILY
@JSON_OPTION
def list_command(db: Path | None, device: str | None, family: str | None, as_json: bool) -> None:
    """Count the rows per device, family, framework, origin and status."""
    from profiles_db.summary import summarise

    store = opened(db)
    rows = summarise(store, device=device, family=family)
    if not rows:
        click.echo(f"no measurements in {store.root}", err=True)
    print_rows(rows, as_json=as_json)


@db.command("show")
@click.argument("family")
@DB_OPTION
@_DEVICE
@click.option("--where", "filters", multiple=True, metavar="COLUMN=VALUE", help="Keep rows of this value; repeatable.")
@click.option("--columns", help="Comma-separated columns (default: those that vary).")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--all-statuses", is_flag=True, help="Failed points too.")
@JSON_OPTION
def show_command(
    *,
    family: str,
    db: Path | None,
    device: str | None,
    filters: tuple[str, ...],
    columns: str | None,
    limit: int,
    all_statuses: bool,
    as_json: bool,
) -> None:
    """Show rows of FAMILY."""
    from profiles_db.filters import parse_filters
    from profiles_db.summary import varying_columns

    store = opened(db)
    where = parse_filters(family, filters)
    stated = None if columns is None else columns.split(",")
    statuses = None if all_statuses else ("ok",)
    table = store.read(family, device=device, columns=stated, statuses=statuses, where=where)
    shown = table.select(stated or varying_columns(table)).slice(0, limit).to_pylist()
    if not table.num_rows:
        click.echo(f"no such row of {family} in {store.root}; `apex db ls` counts what there is", err=True)
    if table.num_rows > limit:
        click.echo(f"{limit} of {table.num_rows} rows; --limit shows more", err=True)
    print_rows(shown, as_json=as_json)


@db.command("verify")
@DB_OPTION
@JSON_OPTION
def verify_command(db: Path | None, as_json: bool) -> None:
    """Check every file and row; exit code 1 when something needs a person."""
    from profiles_db.verify import verify

    store = opened(db)
    findings = verify(store)
    print_rows([finding.as_row() for finding in findings], as_json=as_json)
    serious = sum(finding.is_serious for finding in findings)
    click.echo(f"{len(findings)} findings, {serious} of them serious", err=True)
    if serious:
        raise SystemExit(1)


@db.command("merge")
@click.argument("sources", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@DB_OPTION
@click.option("--compact", is_flag=True, help="Afterwards fold each device's many small files into one per family.")
@JSON_OPTION
def merge_command(sources: tuple[Path, ...], db: Path | None, compact: bool, as_json: bool) -> None:
    """Copy the rows of other databases SOURCES into yours; rows already there are counted, not repeated."""
    from profiles_db.merging import compact_files, merge_from
    from profiles_db.store import open_store

    if not sources and not compact:
        raise click.UsageError("nothing to do: name databases to merge, or pass --compact")
    store = opened(db, must_exist=False)
    rows: list[dict[str, Any]] = []
    for source in sources:
        rows += [{"source": str(source), **count} for count in merge_from(store, open_store(source, bundled=None))]
    if compact:
        for count in compact_files(store):
            if doubled := count.pop("doubled"):
                place = f"{count['device']}/{count['family']}"
                click.echo(f"note: {place}: {doubled} rows that were stored twice are kept once", err=True)
            rows.append({"source": "compact", **count})
    print_rows(rows, as_json=as_json)


@db.command("export")
@click.argument("family")
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
@DB_OPTION
@_DEVICE
@click.option("--where", "filters", multiple=True, metavar="COLUMN=VALUE", help="Keep rows of this value; repeatable.")
@click.option("--format", "form", type=click.Choice(["csv", "parquet", "json"]), help="Default: OUTPUT's suffix.")
@click.option("--median", is_flag=True, help="Fold repeats of a point into the row of median latency.")
def export_command(
    *,
    family: str,
    output: Path,
    db: Path | None,
    device: str | None,
    filters: tuple[str, ...],
    form: str | None,
    median: bool,
) -> None:
    """Write rows of FAMILY, every status, to OUTPUT."""
    from profiles_db.exporting import export, form_of
    from profiles_db.filters import parse_filters

    store = opened(db)
    form = form_of(output, form)
    check_outputs([output], [file.path for file in store.iter_files()])
    where = parse_filters(family, filters)
    table = store.read(family, device=device, statuses=None, where=where, repeats="median" if median else "keep")
    export(table, output, form)
    click.echo(f"{table.num_rows} rows to {output}", err=True)
