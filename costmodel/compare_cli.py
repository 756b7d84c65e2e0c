"""`apex compare`: fitted against measured, or two sets of measurements side by side."""

import json
from pathlib import Path

import click

from profiles_db.terminal import DB_OPTION, JSON_OPTION, print_rows


@click.command()
@click.argument("sides", nargs=-1, metavar="[A] [B]")
@DB_OPTION
@click.option("--family", "families", multiple=True, help="gemm, attention, moe, elementwise, collective; repeatable.")
@click.option("--match", "also", multiple=True, metavar="COLUMN", help="Match on this column too, e.g. backend.")
@click.option("--widest", type=click.IntRange(min=0), default=3, show_default=True, help="Widest ratios per family.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for PNG plots and index.html.")
@JSON_OPTION
def compare(
    *,
    sides: tuple[str, ...],
    db: Path | None,
    families: tuple[str, ...],
    also: tuple[str, ...],
    widest: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare two sets of measurements A and B point by point.

    \b
    A side is a device (h100-sxm), a database folder, or key=value,... of device, origin, framework, backend, dtype,
    clock (MHz or unlocked), run and db:
      apex compare h100-sxm h200-sxm
      apex compare device=h100-sxm,origin=measured device=h100-sxm,framework=vllm-0.24.0
      apex compare device=a100-sxm-80gb,clock=1410 device=a100-sxm-80gb,clock=1095
    """  # noqa: D301 - click's marker for a paragraph to leave as it is
    if len(sides) != 2:
        raise click.UsageError("give two sides, e.g. apex compare h100-sxm h200-sxm")
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
    from costmodel.compare import coverage_notes, match_sides, parse_side, ratio_rows, widest_rows

    a, b = parse_side(left, db), parse_side(right, db)
    matches = match_sides(a, b, families=families, also=also)
    rows, notes, points = ratio_rows(matches), coverage_notes(a, b, matches), widest_rows(matches, widest)
    if as_json:
        document = {"schema": 1, "a": a.label, "b": b.label, "families": rows, "widest": points, "notes": notes}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(f"ratio = latency of {b.label} / latency of {a.label}; regions by the latter\n")
        print_rows(rows, as_json=False)
        if points:
            click.echo("\nwidest")
            print_rows(points, as_json=False)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    if out is not None:
        from costmodel.compare_page import write_page
        from costmodel.compare_sides_page import side_sections

        sections = side_sections(a, b, matches, widest=widest)
        for path in write_page(out, f"{b.label} against {a.label}", sections):
            click.echo(f"wrote {path}", err=True)
