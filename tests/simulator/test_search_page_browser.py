"""The page of a search in a browser: what a person points at, clicks, types and presses does what it says."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner

from simulator.cli import apex
from simulator.report.formats import form_of
from simulator.results.objective import read_metric
from tests.simulator.saved_searches import enlarged, saved

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

for _module in ("bokeh", "jinja2"):
    pytest.importorskip(_module, reason="the extra 'report' is not installed")
expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
_CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium is installed")

_DESKTOP: Final = {"width": 1400, "height": 1000}
_PHONE: Final = {"width": 390, "height": 844}
# Where a plan is drawn, from Bokeh's own scales and the column of points with marks.
_PIXEL: Final = """plan => {
  const view = [...Bokeh.index].find(one => one.model.below);
  const points = view.model.renderers.map(one => one.data_source).find(source => source.data.marker);
  const box = view.canvas_view.el.getBoundingClientRect();
  return [box.left + view.frame.x_scale.compute(points.data.x[plan]),
          box.top + view.frame.y_scale.compute(points.data.y[plan])];
}"""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Start the system's Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Make a page, and the result that it shows."""
    folder = tmp_path_factory.mktemp("page")
    document = saved(folder / "found.json", "--report", str(folder / "found.html"))
    return folder / "found.html", document


@pytest.fixture
def opened(browser: "Browser", found: tuple[Path, dict[str, Any]]) -> "Iterator[Page]":
    """Open the page on a desk; it may complain of nothing and load nothing."""
    yield from _open(browser, found[0], viewport=_DESKTOP)


def _open(browser: "Browser", path: Path, **options: Any) -> "Iterator[Page]":
    context = browser.new_context(**options)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda said: complaints.append(said.text) if said.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url) if asked.url != path.as_uri() else None)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    yield page
    context.close()
    assert complaints == []


def _rows(page: "Page") -> list[str]:
    return [str(name).split(" ", 1)[1] for name in page.locator("#plans tbody td:first-child").all_inner_texts()]


def test_a_plan_pointed_at_shows_its_metrics_and_its_row(opened: "Page") -> None:
    """The pointer on a point opens a card with all metrics of its plan, and marks the row; off it both are gone."""
    point = opened.evaluate(_PIXEL, 3)
    opened.mouse.move(*point)
    opened.wait_for_selector("#hover:not([hidden])")
    beside = opened.locator("#hover").bounding_box()
    assert beside is not None
    assert min(abs(beside["x"] - point[0]), abs(beside["x"] + beside["width"] - point[0])) < 30
    near = opened.locator("#plans tr.near")
    assert near.count() == 1
    card = opened.inner_text("#hover")
    assert near.locator("td").first.inner_text().split(" ", 1)[1] in card
    for title in ("TTFT p99", "tokens/s/device", "MFU", "QUEUE p95"):
        assert title in card
    opened.mouse.move(5, 5)
    opened.wait_for_selector("#hover", state="hidden")
    assert opened.locator("#plans tr.near").count() == 0


def test_a_plan_clicked_in_the_scatter_is_chosen_in_the_table(
    opened: "Page", found: tuple[Path, dict[str, Any]]
) -> None:
    """A click on a point shows that plan in full and chooses its row."""
    plans = found[1]["plans"]
    place = next(place for place, plan in enumerate(plans) if plan["plan"] == "tp2-t32")
    opened.mouse.click(*opened.evaluate(_PIXEL, place))
    opened.wait_for_selector(f'#plans tr[data-plan="{place}"][aria-selected="true"]')
    assert opened.locator('#plans tr[aria-selected="true"]').count() == 1
    assert opened.inner_text("#detail h2") == "tp2-t32"
    assert "--max-num-batched-tokens 32" in opened.inner_text("#command")


def test_the_table_is_walked_with_the_arrow_keys(opened: "Page") -> None:
    """Arrow keys choose the next row and the one before, End the last; the detail follows."""
    names = _rows(opened)
    opened.locator('#plans tr[aria-selected="true"]').focus()
    for key, name in (("ArrowDown", names[1]), ("ArrowDown", names[2]), ("ArrowUp", names[1]), ("End", names[-1])):
        opened.keyboard.press(key)
        assert opened.inner_text("#detail h2") == name


def test_the_table_sorts_by_numbers(opened: "Page", found: tuple[Path, dict[str, Any]]) -> None:
    """A head sorts by its metric, the better end first, and the other way when it is pressed again."""
    plans = found[1]["plans"]
    for path, is_less in (("ttft_s.mean", True), ("throughput_tokens_per_s", False)):
        known = {plan["plan"]: float(f"{read_metric(plan['metrics'], path):.5g}") for plan in plans}
        head = opened.locator(f'#plans th[data-column="{path}"]')
        for is_down in (not is_less, is_less):
            head.locator("button").click()
            values = [known[name] for name in _rows(opened)]
            assert values == sorted(values, reverse=is_down)
            assert head.get_attribute("aria-sort") == ("descending" if is_down else "ascending")


def test_the_filter_takes_names_and_bounds(opened: "Page", found: tuple[Path, dict[str, Any]]) -> None:
    """Words and bounds leave those plans that meet all; what is no metric is said, and what is shown stays."""
    plans = found[1]["plans"]
    opened.fill("#filter", "tp2 tpot_s.mean<0.0042")
    expected = [p["plan"] for p in plans if "tp2" in p["plan"] and p["metrics"]["tpot_s"]["mean"] < 0.0042]
    expect(opened.locator("#matching")).to_contain_text(f"{len(expected)} of {len(plans)}")
    assert 0 < len(expected) < len(plans)
    assert _rows(opened) == expected
    opened.fill("#filter", "joy<3")
    opened.wait_for_selector("#matching.warning")
    assert opened.inner_text("#matching") == "no metric is called joy"
    assert _rows(opened) == expected
    opened.fill("#filter", "")
    opened.uncheck('input[data-group="breaking"]')
    kept = [plan["plan"] for plan in plans if plan["group"] != "breaking"]
    expect(opened.locator("#plans tbody tr")).to_have_count(len(kept))
    assert _rows(opened) == kept


def test_the_command_is_copied_whole(opened: "Page", found: tuple[Path, dict[str, Any]]) -> None:
    """The button puts what starts the plan on the clipboard: the shell lines of the JSON, broken between flags."""
    opened.click("#copy")
    expect(opened.locator("#copy")).to_have_text("Copied")
    copied = str(opened.evaluate("navigator.clipboard.readText()"))
    assert copied.replace(" \\\n    --", " --").splitlines() == found[1]["plans"][0]["launch"]


def test_values_read_as_in_the_terminal(opened: "Page", found: tuple[Path, dict[str, Any]]) -> None:
    """Each cell has the text that the table of the terminal gives the value."""
    heads = [opened.locator("#plans th").nth(at).get_attribute("data-column") for at in range(1, 15)]
    paths = [path for path in heads if path and read_metric(found[1]["plans"][0]["metrics"], path) is not None]
    assert len(paths) > 5
    for row, plan in zip(opened.locator("#plans tbody tr").all(), found[1]["plans"], strict=True):
        cells = row.locator("td").all_inner_texts()
        for path in paths:
            shown = cells[1 + heads.index(path)].partition(" (")[0].replace("\N{NO-BREAK SPACE}", " ")
            assert shown == form_of(path)(float(f"{read_metric(plan['metrics'], path):.5g}")), (plan["plan"], path)


def test_other_axes_are_drawn(opened: "Page") -> None:
    """Axes, scale and bars are chosen; each choice is drawn anew, with the region that the limits leave."""
    for name, path in (("x", "e2e_s.mean"), ("y", "energy_j_per_output_token")):
        opened.select_option(f"#{name}", path)
    opened.uncheck("#log")
    opened.check("#bars")
    scatter = opened.locator("#scatter")
    expect(scatter).to_have_attribute("aria-label", re.compile("E2E mean across, J/token up, linear"))
    figure = "[...Bokeh.index].map(one => one.model).filter(one => one.below)"
    figure += ".map(one => [one.below[0].axis_label, one.x_scale.type])"
    assert opened.evaluate(figure) == [["E2E mean (less is better)", "LinearScale"]]
    assert "Shaded" not in opened.inner_text("#reading")
    opened.select_option("#x", "tpot_s.mean")
    expect(opened.locator("#reading")).to_contain_text("Shaded: within the limits")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [_DESKTOP, _PHONE])
def test_it_fits_every_width_and_shade(
    size: dict[str, int], scheme: str, browser: "Browser", found: tuple[Path, dict[str, Any]]
) -> None:
    """Nothing but the table is wider than the screen; its shade is the system's, or the button's."""
    for page in _open(browser, found[0], viewport=size, color_scheme=scheme):
        assert page.evaluate("document.scrollingElement.scrollWidth") <= size["width"]
        shades = [str(page.evaluate("getComputedStyle(document.body).backgroundColor"))]
        page.click("#theme")
        shades.append(str(page.evaluate("getComputedStyle(document.body).backgroundColor")))
        light = "rgb(255, 255, 255)"
        assert [shade == light for shade in shades] == ([True, False] if scheme == "light" else [False, True])


def test_it_prints_light_and_without_controls(browser: "Browser", found: tuple[Path, dict[str, Any]]) -> None:
    """On paper there are no controls, and the background is white also for a person who reads in the dark."""
    for page in _open(browser, found[0], viewport=_DESKTOP, color_scheme="dark"):
        page.emulate_media(media="print", color_scheme="dark")
        assert page.is_hidden("#filter")
        assert page.is_visible("#plans")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_thousands_of_plans_are_usable(browser: "Browser", found: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """A page of 5,000 plans opens, shows a hundred rows at a time, and finds one plan by its name."""
    (tmp_path / "many.json").write_text(json.dumps(enlarged(found[1], 5_000)))
    assert CliRunner().invoke(apex, ["report", str(tmp_path / "many.json")]).exit_code == 0
    for page in _open(browser, tmp_path / "many.html", viewport=_DESKTOP):
        assert page.locator("#plans tbody tr").count() == 100
        page.click("#more")
        assert page.locator("#plans tbody tr").count() == 200
        page.fill("#filter", "-s4321")
        expect(page.locator("#plans tbody tr")).to_have_count(1)
        page.locator("#plans tbody tr").click()
        assert page.inner_text("#detail h2").endswith("-s4321")
