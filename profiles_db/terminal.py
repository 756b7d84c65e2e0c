"""What the store's commands share at the terminal: options, opening the database, printing rows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cluster_specs.command_line import strict_json

if TYPE_CHECKING:
    from profiles_db.store import Store

DB_OPTION: Final = click.option(
    "--db",
    type=click.Path(path_type=Path),
    help="Your measurements (default: $APEX_DB, else the platform's data folder).",
)
JSON_OPTION: Final = click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")


def opened(db: Path | None, *, must_exist: bool = True) -> "Store":
    """Open the store; a database named on the command line must be there to be read from."""
    from cluster_specs.errors import UserError
    from profiles_db.store import open_store

    if db is not None and must_exist and not db.is_dir():
        raise UserError(f"{db}: no such folder", hint="the database is created by `apex profile` or `apex import`")
    return open_store(db)


def print_rows(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print rows of equal keys as JSON or as an aligned table."""
    if as_json:
        click.echo(strict_json(rows, indent=None, default=str))
        return
    if not rows:
        return
    header = list(rows[0])
    cells = [[_cell(row[name]) for name in header] for row in rows]
    widths = [max(len(name), *(len(line[index]) for line in cells)) for index, name in enumerate(header)]
    for line in [header, *cells]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
