"""`apex report`: the page of a search that was saved."""

from pathlib import Path

import click

from cluster_specs.command_line import Command, check_outputs


@click.command(cls=Command)
@click.argument("result", type=click.Path(dir_okay=False, path_type=Path), metavar="RESULT")
@click.option(
    "-o",
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The page (default: RESULT with the ending .html).",
)
def report(*, result: Path, out: Path | None) -> None:
    """Make the page of a search from its saved JSON.

    RESULT is a file of apex search -o. The page is one HTML file that loads nothing from elsewhere: every plan drawn,
    listed and in full, as apex search --report writes it.
    """
    from simulator.report.saved_search import read_saved_search
    from simulator.report.search_page import require_page, write_search_page

    require_page("apex report")
    page = out or result.with_suffix(".html")
    check_outputs([page], [result])
    write_search_page(page, read_saved_search(result))
    click.echo(f"wrote {page}", err=True)
