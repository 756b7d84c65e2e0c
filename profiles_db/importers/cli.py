"""``apex import``: one subcommand per foreign tool; prints what was kept, what was dropped and why.

stdout carries one row per foreign table (or ``--json``), stderr the reasons. Exit codes: 0 done, 2 wrong usage or input
that cannot be used.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from profiles_db.terminal import DB_OPTION, JSON_OPTION, opened, print_rows

if TYPE_CHECKING:
    from profiles_db.importers.counting import TableCount
    from profiles_db.store import Store


@click.group(name="import")
def import_group() -> None:
    """Import other tools' measurements."""


@import_group.command("aiconfigurator")
@DB_OPTION
@click.option("--system", "systems", multiple=True, required=True, help="For example h100_sxm, or all; repeatable.")
@click.option(
    "--framework",
    "frameworks",
    multiple=True,
    default=("vllm",),
    show_default=True,
    help="vllm, sglang, trtllm or all; repeatable.",
)
@click.option("--version", "versions", multiple=True, help="Default: the newest complete one; all; or nccl-2.27.3.")
@click.option("--table", "tables", multiple=True, help="For example gemm; default: every table.")
@click.option("--include-unfit", is_flag=True, help="Keep eager and suspect rows, labelled, instead of dropping them.")
@click.option("--list", "list_only", is_flag=True, help="Only list what the wheel holds for the system.")
@JSON_OPTION
def aiconfigurator_command(
    *,
    db: Path | None,
    systems: tuple[str, ...],
    frameworks: tuple[str, ...],
    versions: tuple[str, ...],
    tables: tuple[str, ...],
    include_unfit: bool,
    list_only: bool,
    as_json: bool,
) -> None:
    """Import the tables of the installed aiconfigurator-core wheel."""
    from profiles_db.importers.aiconfigurator import SYSTEMS, import_tables, open_wheel, select_tables

    wheel = open_wheel()
    chosen = tuple(SYSTEMS) if "all" in systems else systems
    if list_only:
        rows = [
            {"system": system, "framework": item.framework, "version": item.version, "table": item.table}
            for system in chosen
            for item in wheel.iter_tables(system)
        ]
        print_rows(rows, as_json=as_json)
        return
    picked = [select_tables(wheel, system, frameworks, versions, tables) for system in chosen]
    store = opened(db, must_exist=False)
    counts = []
    for items in picked:
        counts += import_tables(wheel, items, store, include_unfit=include_unfit)
    _print_counts(counts, store, as_json=as_json)


def _print_counts(counts: "list[TableCount]", store: "Store", *, as_json: bool) -> None:
    """Print what became of every foreign table, and say on stderr what was dropped and why."""
    from collections import Counter
    from dataclasses import asdict

    if as_json:
        print_rows([asdict(count) for count in counts], as_json=True)
    else:
        print_rows(
            [
                {
                    "table": count.table,
                    "family": count.family or "-",
                    "rows in": count.rows_in,
                    "kept": count.kept,
                    "dropped": sum(count.dropped.values()),
                    "repeated keys": count.repeats.keys if count.repeats else 0,
                    "spread p50": f"{count.repeats.median_frac:.1%}" if count.repeats else "",
                    "p90": f"{count.repeats.p90_frac:.1%}" if count.repeats else "",
                }
                for count in counts
            ],
            as_json=False,
        )
    reasons: Counter[str] = Counter()
    for count in counts:
        reasons.update(count.dropped)
        for note in count.notes:
            click.echo(f"note: {count.table}: {note}", err=True)
    for reason, rows in reasons.most_common():
        click.echo(f"dropped {rows} rows: {reason}", err=True)
    kept, rows_in = sum(count.kept for count in counts), sum(count.rows_in for count in counts)
    click.echo(f"kept {kept} of {rows_in} rows in {store.root}", err=True)
