"""``apex import``: one subcommand per foreign tool; prints what was kept, what was dropped and why.

stdout carries one row per foreign table (or ``--json``), stderr the reasons. Exit codes: 0 done, 2 wrong usage or input
that cannot be used.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_specs.command_line import Group, check_outputs, refuse_given
from profiles_db.terminal import DB_OPTION, JSON_OPTION, opened, print_rows

if TYPE_CHECKING:
    from profiles_db.importers.counting import TableCount
    from profiles_db.store import Store

_DEVICE = click.option("--device", help="Name of the device here, for example h100-sxm; default: as the files say.")


@click.group(cls=Group, name="import")
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
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of tables (systems/data of an unpacked wheel) instead of the installed wheel.",
)
@click.option("--list", "list_only", is_flag=True, help="Only list what the wheel holds for the system.")
@JSON_OPTION
@click.pass_context
def aiconfigurator_command(
    context: click.Context,
    /,
    *,
    db: Path | None,
    systems: tuple[str, ...],
    frameworks: tuple[str, ...],
    versions: tuple[str, ...],
    tables: tuple[str, ...],
    include_unfit: bool,
    folder: Path | None,
    list_only: bool,
    as_json: bool,
) -> None:
    """Import the tables of the installed aiconfigurator-core wheel."""
    from profiles_db.importers.aiconfigurator import import_tables
    from profiles_db.importers.aiconfigurator_wheel import SYSTEMS, open_wheel, select_tables

    wheel = open_wheel(folder)
    chosen = systems
    if "all" in systems:
        chosen = tuple(SYSTEMS)
        for system in wheel.unknown_systems():
            click.echo(f"note: system {system} has no name here and is left out", err=True)
    if list_only:
        refuse_given(
            context,
            *("frameworks", "versions", "tables", "include_unfit"),
            because="--list shows all there is of the system and imports nothing",
        )
        rows = [
            {"system": system, "framework": item.framework, "version": item.version, "table": item.table}
            for system in chosen
            for item in wheel.iter_tables(system)
        ]
        print_rows(rows, as_json=as_json)
        return
    picked = []
    for system in chosen:
        if "all" in systems and not {"all", *wheel.frameworks(system)} & set(frameworks):
            click.echo(f"note: system {system} has no tables of {', '.join(frameworks)} and is left out", err=True)
            continue
        picked.append(select_tables(wheel, system, frameworks, versions, tables))
    store = opened(db, must_exist=False)
    counts = []
    for items in picked:
        counts += import_tables(wheel, items, store, include_unfit=include_unfit)
    _print_counts(counts, store, as_json=as_json)


@import_group.command("apex-plus")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@DB_OPTION
@_DEVICE
@click.option("--include-unfit", is_flag=True, help="Keep outliers, labelled, instead of dropping them.")
@JSON_OPTION
def apex_plus_command(path: Path, *, db: Path | None, device: str | None, include_unfit: bool, as_json: bool) -> None:
    """Import apex_plus profile tables: one CSV file, or all under PATH."""
    from profiles_db.importers.apex_plus import import_apex_plus

    store = opened(db, must_exist=False)
    _print_counts(import_apex_plus(path, store, device=device, include_unfit=include_unfit), store, as_json=as_json)


@import_group.command("vidur")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@DB_OPTION
@_DEVICE
@JSON_OPTION
def vidur_command(path: Path, *, db: Path | None, device: str | None, as_json: bool) -> None:
    """Import Vidur's profiling CSVs: one file, or all under PATH (its data/profiling)."""
    from profiles_db.importers.vidur import import_vidur

    store = opened(db, must_exist=False)
    _print_counts(import_vidur(path, store, device=device), store, as_json=as_json)


@import_group.command("llmservingsim")
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@DB_OPTION
@_DEVICE
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="The model's config.json; default: configs/model of the repository the tables stand in.",
)
@JSON_OPTION
def llmservingsim_command(
    path: Path, *, db: Path | None, device: str | None, config: Path | None, as_json: bool
) -> None:
    """Import LLMServingSim's profile tables: one CSV file, or all under PATH (its profiler folder)."""
    from profiles_db.importers.llmservingsim import import_llmservingsim

    store = opened(db, must_exist=False)
    _print_counts(import_llmservingsim(path, store, device=device, config=config), store, as_json=as_json)


@import_group.command("nccl-tests")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False))
@DB_OPTION
@_DEVICE
@click.option("--kind", help="all_reduce, all_gather ...; default: as the output or the file name says.")
@click.option("--level", help="Link level, for example nvlink; default: by device, or network over several nodes.")
@click.option("--in-place", is_flag=True, help="Take the in-place figures instead of the out-of-place ones.")
@JSON_OPTION
def nccl_tests_command(
    paths: tuple[Path, ...],
    *,
    db: Path | None,
    device: str | None,
    kind: str | None,
    level: str | None,
    in_place: bool,
    as_json: bool,
) -> None:
    """Import outputs of nccl-tests or rccl-tests: text of any number of runs, or the JSON of -J."""
    from profiles_db.importers.nccl_tests import import_nccl_tests

    store = opened(db, must_exist=False)
    placement = "in_place" if in_place else "out_of_place"
    counts = import_nccl_tests(paths, store, device=device, kind=kind, level=level, placement=placement)
    _print_counts(counts, store, as_json=as_json)


@import_group.command("vllm-bench")
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@DB_OPTION
@_DEVICE
@click.option("--requests", type=click.Path(path_type=Path, dir_okay=False), help="Write one row per request here.")
@click.option("--result", type=click.IntRange(min=1), help="Which of several appended results; the first is 1.")
@JSON_OPTION
@click.pass_context
def vllm_bench_command(
    context: click.Context,
    /,
    *,
    path: Path,
    db: Path | None,
    device: str | None,
    requests: Path | None,
    result: int | None,
    as_json: bool,
) -> None:
    """Read a vLLM benchmark's JSON: `serve` prints a summary in seconds, `forward` is stored as steps.

    --db and --device say where and as what steps are stored; a summary is not stored.
    """
    from profiles_db.exporting import export, form_of
    from profiles_db.importers.vllm_forward import import_forward
    from profiles_db.importers.vllm_serve import is_serve_result, load_json, read_serve

    if requests is not None:
        form_of(requests)
        check_outputs([requests], [path])
    document = load_json(path, result=result)
    if not is_serve_result(document):
        refuse_given(context, "requests", because=f"{path} is of `forward`, which has no requests")
        store = opened(db, must_exist=False)
        _print_counts([import_forward(path, document, store, device=device)], store, as_json=as_json)
        return
    served = read_serve(path, document)
    print_rows([_flat(served.summary)], as_json=as_json)
    for note in served.notes:
        click.echo(f"note: {note}", err=True)
    if requests is not None and served.requests is not None:
        export(served.requests, requests)
        click.echo(f"{served.requests.num_rows} requests to {requests}", err=True)


def _flat(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Give a metric's statistics columns of their own: ``ttft_s.mean``."""
    flat: dict[str, Any] = {}
    for name, value in summary.items():
        flat |= {f"{name}.{key}": number for key, number in value.items()} if isinstance(value, dict) else {name: value}
    return flat


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
