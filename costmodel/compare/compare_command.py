"""`apex compare`: fitted against measured, or two sets of measurements side by side."""

from pathlib import Path
from typing import Final

import click

from cluster_specs.command_line import Command, refuse_given, strict_json
from profiles_db.terminal import DB_OPTION, JSON_OPTION

_ANALYTIC: Final = "analytic:"


@click.command(cls=Command)
@click.argument("sides", nargs=-1, metavar="FIT | FIT FIT | FIT B | A B")
@DB_OPTION
@click.option("--family", "families", multiple=True, help="gemm, attention, moe, elementwise, collective; repeatable.")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Of one fit, how wrong a prefill and a decode step of these models is; written by `apex shapes`.",
)
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="Of a fit, these shapes only, e.g. n=8192; repeatable."
)
@click.option("--match", "also", multiple=True, metavar="COLUMN", help="Match on this column too, e.g. backend.")
@click.option(
    "--widest",
    type=click.IntRange(min=0),
    default=3,
    show_default=True,
    help="Widest ratios (of FIT alone: worst held-out points) per family.",
)
@click.option("--cluster", help="Cluster the fitted model is compared on (default: the one it was fitted on).")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for index.html, PNG plots and CSV."
)
@JSON_OPTION
@click.pass_context
def compare(
    context: click.Context,
    /,
    *,
    sides: tuple[str, ...],
    db: Path | None,
    families: tuple[str, ...],
    manifest: Path | None,
    where: tuple[str, ...],
    also: tuple[str, ...],
    widest: int,
    cluster: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Show a fitted model against its measurements, or against others, or two sets of measurements side by side.

    FIT is a file written by apex fit: says how far it is to be trusted, by what it predicts of each measured point
    without that point; --out draws that over the fitted curves, utilisation, bandwidth, error distributions and
    transfer across clocks, and writes the points as CSV. Two of them are laid over each other. With B, or
    analytic:CLUSTER for FIT, prints how far its predictions are from the measurements of B; rows it has seen are priced
    as if it had not.

    \b
    A side is a device (h100-sxm), a database folder, or key=value,... of device, origin, framework, backend, dtype,
    clock (MHz or unlocked), run and db:
      apex compare h100-sxm h200-sxm
      apex compare h100-sxm.fit.parquet origin=measured
      apex compare device=h100-sxm,origin=measured device=h100-sxm,framework=vllm-0.24.0
      apex compare device=a100-sxm-80gb,clock=1410 device=a100-sxm-80gb,clock=1095
    """  # noqa: D301 - click's marker for a paragraph to leave as it is
    from profiles_db.schema import FAMILIES

    if unknown := sorted(set(families) - set(FAMILIES)):
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(FAMILIES)}", param_hint="--family")
    if out is not None:
        from cluster_specs.extras import require_extra

        require_extra("report", "matplotlib", what="--out")
    if len(sides) == 1:
        refuse_given(
            context,
            *("db", "also"),
            because="one fitted model is compared with the rows it has kept of its own",
            hint="name what to compare it with as well, e.g. origin=measured",
        )
        _compare_fit(
            Path(sides[0]),
            families=families,
            where=where,
            manifest=manifest,
            worst=widest,
            cluster=cluster,
            out=out,
            as_json=as_json,
        )
        return
    refuse_given(context, "manifest", because="it weighs the errors of one fit")
    if len(sides) != 2:
        raise click.UsageError("give a fitted model, or two sides, e.g. apex compare h100-sxm h200-sxm")
    if all(Path(side).is_file() for side in sides):
        refuse_given(
            context, "db", "also", "widest", "cluster", because="two fits are compared at the points the first holds"
        )
        _compare_fits(Path(sides[0]), Path(sides[1]), families=families, where=where, out=out, as_json=as_json)
        return
    refuse_given(context, "where", because="it chooses shapes of a fit", hint="choose rows by key=value of a side")
    from cluster_specs.extras import require_extra

    require_extra("fit", "pandas", what="apex compare of two sides")
    if sides[0].startswith(_ANALYTIC) or Path(sides[0]).is_file():
        refuse_given(context, "also", because="prices are matched with each measured row")
        _compare_prices(*sides, db=db, families=families, cluster=cluster, widest=widest, out=out, as_json=as_json)
        return
    refuse_given(context, "cluster", because="two sets of measurements need none")
    _compare_sides(*sides, db=db, families=families, also=also, widest=widest, out=out, as_json=as_json)


def _compare_sides(
    left: str,
    right: str,
    *,
    db: Path | None,
    families: tuple[str, ...],
    also: tuple[str, ...],
    widest: int,
    out: Path | None,
    as_json: bool,
) -> None:
    from costmodel.compare.sides import coverage_notes, match_sides, parse_side, ratio_rows, widest_rows
    from costmodel.compare.tables import text_table

    a, b = parse_side(left, db), parse_side(right, db)
    matches = match_sides(a, b, families=families, also=also)
    rows, notes, points = ratio_rows(matches), coverage_notes(a, b, matches), widest_rows(matches, widest)
    if as_json:
        document = {"schema": 1, "a": a.label, "b": b.label, "families": rows, "widest": points, "notes": notes}
        click.echo(strict_json(document))
    else:
        click.echo(f"ratio = latency of {b.label} / latency of {a.label}; regions by the latter\n")
        click.echo(text_table(rows))
        if points:
            click.echo("\nwidest")
            click.echo(text_table(points))
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if out is not None:
        from costmodel.compare.page import write_page
        from costmodel.compare.sides_page import side_sections

        sections = side_sections(a, b, matches, widest=widest)
        for path in write_page(out, f"{b.label} against {a.label}", sections):
            click.echo(f"wrote {path}", err=True)


def _compare_fit(
    path: Path,
    *,
    families: tuple[str, ...],
    where: tuple[str, ...],
    manifest: Path | None,
    worst: int,
    cluster: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    from dataclasses import asdict

    from cluster_specs.load import load_cluster
    from costmodel.compare.held_out_points import clock_rows, clock_transfers, held_out_rows, overall
    from costmodel.compare.held_out_prices import points_of_families
    from costmodel.compare.step_errors import step_error_rows, step_verdict
    from costmodel.compare.tables import text_table
    from costmodel.compare.verdict import family_rows, notes, verdict, worst_points
    from costmodel.fit_file.artefact import load_artefact
    from costmodel.fitted_costs import FittedCosts
    from profiles_db.manifest import load_manifest

    artefact = load_artefact(path)
    spec = load_cluster(cluster or artefact.provenance.cluster)
    points = points_of_families(artefact, spec, families, where)
    summary, worst_rows = family_rows(artefact, points), worst_points(points, worst)
    costs = FittedCosts(artefact, spec)
    steps = [] if manifest is None else step_error_rows(load_manifest(manifest), costs)
    # What speaks of all shapes of a label is not shown where some were chosen.
    whole = () if where else tuple(points)
    rows = [row for row in held_out_rows(artefact) if row["family"] in whole]
    clocks = clock_rows([found for found in clock_transfers(artefact, spec) if found.family in whole])
    if as_json:
        document = {
            "schema": 1,
            "fit": str(path),
            "provenance": asdict(artefact.provenance),
            "verdict": verdict(summary),
            "families": summary,
            "steps": steps,
            "worst": worst_rows,
            "held_out": rows,
            "clocks": clocks,
        }
        click.echo(strict_json(document))
    else:
        click.echo(f"{verdict(summary)}\n\n{text_table(summary)}")
        if steps:
            click.echo(f"\n{step_verdict(steps)}\n\n{text_table(steps)}")
        if worst_rows:
            click.echo(f"\nworst predictions of points left out\n{text_table(worst_rows)}")
        if rows:
            click.echo(f"\nby label and held-out question\n{text_table(overall(rows))}")
        if clocks:
            click.echo(f"\nlower clocks priced from the highest alone\n{text_table(clocks)}")
    for note in notes(points):
        click.echo(f"note: {note}", err=True)
    if out is not None:
        from costmodel.compare.fit_page import fit_sections
        from costmodel.compare.page import write_page
        from costmodel.compare.points_csv import write_points

        title = f"{artefact.provenance.device}: predicted against measured"
        sections = fit_sections(artefact, spec, points, worst=worst, is_whole=not where)
        for written in [*write_page(out, title, sections), *write_points(out, points)]:
            click.echo(f"wrote {written}", err=True)


def _compare_fits(
    first: Path,
    second: Path,
    *,
    families: tuple[str, ...],
    where: tuple[str, ...],
    out: Path | None,
    as_json: bool,
) -> None:
    from cluster_specs.load import load_cluster
    from costmodel.compare.held_out_prices import points_of_families
    from costmodel.compare.tables import text_table
    from costmodel.compare.two_fits import overlay_rows, overlay_sections, overlay_verdict, overlays
    from costmodel.fit_file.artefact import load_artefact

    fits = load_artefact(first), load_artefact(second)
    on_first, on_second = (load_cluster(fit.provenance.cluster) for fit in fits)
    found = overlays(points_of_families(fits[0], on_first, families, where), fits[1], on_second, on_first)
    rows = overlay_rows(found)
    said = overlay_verdict(rows, first.name, second.name)
    if as_json:
        click.echo(strict_json({"schema": 1, "a": str(first), "b": str(second), "verdict": said, "labels": rows}))
    else:
        click.echo(f"{said}\n\nratio = price of {second.name} / measured for {first.name}\n{text_table(rows)}")
    if out is not None:
        from costmodel.compare.page import write_page

        sections = overlay_sections(found, *fits, (on_first, on_second), said)
        for written in write_page(out, f"{second.name} over {first.name}", sections):
            click.echo(f"wrote {written}", err=True)


def _compare_prices(
    model: str,
    right: str,
    *,
    db: Path | None,
    families: tuple[str, ...],
    cluster: str | None,
    widest: int,
    out: Path | None,
    as_json: bool,
) -> None:
    from cluster_specs.load import load_cluster
    from costmodel.compare.held_out_prices import held_out_costs
    from costmodel.compare.predictions import price_rows, price_side, seen_notes, worst_rows
    from costmodel.compare.sides import parse_side
    from costmodel.compare.tables import text_table
    from costmodel.compare.verdict import priced_family_rows, verdict
    from costmodel.fit_file.artefact import load_artefact
    from costmodel.fitted_costs import FittedCosts, load_costs

    side = parse_side(right, db)
    if model.startswith(_ANALYTIC):
        spec = load_cluster(cluster or model.removeprefix(_ANALYTIC))
        found = price_side(lambda clock: load_costs(None, spec, clock), side, families)
    else:
        artefact = load_artefact(Path(model))
        spec = load_cluster(cluster or artefact.provenance.cluster)
        found = price_side(
            lambda clock: FittedCosts(artefact, spec, clock),
            side,
            families,
            held_out_at=held_out_costs(artefact, spec),
            run_ids=artefact.provenance.run_ids,
        )
    rows, worst, summary = price_rows(found), worst_rows(found, widest), priced_family_rows(found)
    said = verdict(summary, f"The price of a row of {side.label}")
    if as_json:
        document = {
            "schema": 1,
            "model": model,
            "b": side.label,
            "cluster": spec.name,
            "verdict": said,
            "families": summary,
            "seen": seen_notes(found),
            "prices": rows,
            "worst": worst,
        }
        click.echo(strict_json(document))
    else:
        click.echo(f"{said}\n\n{text_table(summary)}\n\nby where the price comes from\n{text_table(rows)}")
        if worst:
            click.echo(f"\nworst\n{text_table(worst)}")
    for note in seen_notes(found):
        click.echo(f"note: {note}", err=True)
    if out is not None:
        from costmodel.compare.page import write_page
        from costmodel.compare.sides_page import price_sections

        for written in write_page(out, f"{model} against {side.label}", price_sections(side, found, widest=widest)):
            click.echo(f"wrote {written}", err=True)
