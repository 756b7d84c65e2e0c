"""How long the page of a search takes to open: until every plan is drawn, and until a filter has left a few.

Run ``python -m benchmarks.page``; needs the extras `report` and `dev`, and a Chromium. The result is that of a small
search, enlarged to as many plans as asked for. Times are the median of five openings, of the machine as it is.
"""

import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import click

from simulator.report.search_page import write_search_page
from tests.simulator.saved_searches import enlarged, saved

_OPENINGS = 5


@click.command(help=(__doc__ or "").partition(":")[0] + ".")
@click.option("--plans", type=click.IntRange(min=1), default=5_000, show_default=True, help="Plans of the result.")
def main(*, plans: int) -> None:
    """Print sizes and times."""
    from playwright.sync_api import expect, sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise click.ClickException("no Chromium is installed")
    opened, filtered = [], []
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        document = enlarged(saved(Path(name) / "found.json"), plans)
        path = Path(name) / "page.html"
        write_search_page(path, document)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(_OPENINGS):
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            began = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]")
            opened.append(time.perf_counter() - began)
            began = time.perf_counter()
            page.fill("#filter", f"-s{plans}")
            expect(page.locator("#plans tbody tr")).to_have_count(1)
            filtered.append(time.perf_counter() - began)
            page.close()
        browser.close()
        print(
            f"{plans:,} plans: JSON {len(json.dumps(document)) / 1e6:.1f} MB, page {path.stat().st_size / 1e6:.2f} MB"
        )
    print(f"open and drawn after {statistics.median(opened):.2f} s, filtered after {statistics.median(filtered):.2f} s")


if __name__ == "__main__":
    main()
