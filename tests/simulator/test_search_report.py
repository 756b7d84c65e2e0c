"""The page of a search: made of its JSON alone, self-contained, with every plan's numbers and command."""

import base64
import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from simulator.cli import apex
from simulator.report.page_data import page_data
from simulator.report.what_limits import kinds, limiting
from tests.simulator.saved_searches import SEARCH, enlarged, saved

for _module in ("bokeh", "jinja2"):
    pytest.importorskip(_module, reason="the extra 'report' is not installed")


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Search once, for all tests that read the JSON."""
    return saved(tmp_path_factory.mktemp("search") / "found.json")


def _invoked(*words: str | Path) -> Result:
    return CliRunner().invoke(apex, [str(word) for word in words])


def _data(page: str) -> dict[str, Any]:
    """Read back what the page's scripts read."""
    (packed,) = re.findall(r'<script type="application/gzip" id="data">([^<]*)</script>', page)
    data: dict[str, Any] = json.loads(gzip.decompress(base64.b64decode(packed)))
    return data


def _column(data: dict[str, Any], path: str) -> dict[str, Any]:
    (found,) = [metric for metric in data["metrics"] if metric["path"] == path]
    return found


def test_a_search_and_its_saved_json_make_the_same_page(tmp_path: Path) -> None:
    """`--report` and `apex report` of what `-o` wrote are one page to the byte, and every plan is in it once."""
    document = saved(tmp_path / "found.json", "--report", str(tmp_path / "page.html"))
    done = _invoked("report", tmp_path / "found.json")
    assert done.exit_code == 0, done.stderr
    assert "found.html" in done.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert (tmp_path / "found.html").read_text(encoding="utf-8") == page
    assert _data(page)["plans"] == [plan["plan"] for plan in document["plans"]]
    for part in ("best plan: tp2", "vllm serve MODEL --tensor-parallel-size 2", "must be at most", "Refused (8)"):
        assert part in page


def test_the_page_names_nothing_to_load(tmp_path: Path) -> None:
    """No element of the page has an address, and the browser is told to refuse all."""
    saved(tmp_path / "found.json", "--report", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    elements = re.sub(r"(<script[^>]*>).*?</script>", r"\1", page, flags=re.S)
    assert not re.findall(r"<[^>]+\b(?:src|href)=", elements)
    assert "url(" not in elements
    assert len(page) < 3_000_000


def test_texts_of_a_result_are_no_markup(document: dict[str, Any], tmp_path: Path) -> None:
    """A name with a tag in it is shown, not run, wherever it stands."""
    tag = "<script>alert(1)</script>"
    changed = {**document, "headline": tag, "answer": [tag], "notes": [tag]}
    changed["plans"] = [{**document["plans"][0], "plan": tag, "notes": [tag]}]
    changed["rejected"] = [{"plan": tag, "reason": tag}]
    (tmp_path / "found.json").write_text(json.dumps(changed))
    assert _invoked("report", tmp_path / "found.json").exit_code == 0
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert tag not in page
    assert page.count("&lt;script&gt;alert(1)") >= 5
    assert _data(page)["plans"] == [tag]


def test_numbers_of_the_page_are_those_of_the_json(document: dict[str, Any]) -> None:
    """Every metric of every plan is there to five digits, also tokens per second of a user and of a device."""
    data = page_data(document)
    for place, plan in enumerate(document["plans"]):
        metrics = plan["metrics"]
        expected = {
            "e2e_s.mean": metrics["e2e_s"]["mean"],
            "mfu_frac": metrics["mfu_frac"],
            "tokens_per_s_per_user": 1 / metrics["tpot_s"]["mean"],
            "throughput_tokens_per_s_per_device": metrics["throughput_tokens_per_s"] / plan["devices"],
        }
        for path, value in expected.items():
            assert _column(data, path)["values"][place] == pytest.approx(value, rel=5e-5), path
        commands = [" --".join(data["flags"][place] for place in line) for line in data["launch"][place]]
        assert commands == plan["launch"]
        groups = data["facts"]["group"]
        assert groups["texts"][groups["at"][place]] == plan["group"]


def test_intervals_and_limits_follow_what_is_derived(document: dict[str, Any]) -> None:
    """A slower token is a slower user: ends change places, and an upper limit on TPOT is a lower one on the rate."""
    column = _column(page_data(document), "tokens_per_s_per_user")
    low, high = document["plans"][0]["metrics_interval"]["tpot_s.mean"]
    assert column["intervals"][0] == pytest.approx([1 / high, 1 / low], rel=5e-5)
    assert (column["least"], column["most"]) == (pytest.approx(200.0), None)
    assert _column(page_data(document), "tpot_s.mean")["most"] == pytest.approx(0.005)


def test_what_limits_a_plan_is_its_largest_kind_of_work(document: dict[str, Any]) -> None:
    """Kinds add up to the devices' time; a small batch is bound by bandwidth, and a full cache comes before all."""
    for plan in document["plans"]:
        for pool in ("", "prefill", "decode"):
            shares = kinds(plan, pool)
            assert not shares or sum(shares.values()) == pytest.approx(1.0, abs=1e-6)
    best = document["plans"][0]
    assert limiting(best) == "memory bandwidth"
    assert limiting({**best, "metrics": {**best["metrics"], "preemptions": 3}}) == "KV memory"
    pools = next(plan for plan in document["plans"] if "+" in plan["plan"])
    assert limiting(pools) == "prefill: waiting for requests; decode: kernels"


def test_thousands_of_plans_stay_small(document: dict[str, Any], tmp_path: Path) -> None:
    """A page of 5,000 plans stays below 3 MB."""
    (tmp_path / "found.json").write_text(json.dumps(enlarged(document, 5_000)))
    assert _invoked("report", tmp_path / "found.json").exit_code == 0
    page = (tmp_path / "found.html").read_text(encoding="utf-8")
    assert len(_data(page)["plans"]) == 5_000
    assert len(page.encode()) < 3_000_000


@pytest.mark.parametrize("command", ["search", "report"])
def test_without_the_extra_it_is_said_before_the_work(
    command: str, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without Bokeh the command ends at once with what to install, and nothing is written."""
    (tmp_path / "found.json").write_text(json.dumps(document))
    monkeypatch.setitem(sys.modules, "bokeh", None)
    page = tmp_path / "page.html"
    words = [*SEARCH.split(), "--report", page] if command == "search" else ["report", tmp_path / "found.json"]
    done = _invoked(*words)
    assert done.exit_code != 0
    assert "apex-planner[report]" in getattr(done.exception, "hint", "")
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_a_place_that_cannot_be_written_is_one_error_before_the_search(tmp_path: Path) -> None:
    """A file where a folder is needed ends in exit code 1 and the path, before anything is simulated."""
    (tmp_path / "file").touch()
    done = _invoked(*SEARCH.split(), "--report", tmp_path / "file" / "page.html")
    assert getattr(done.exception, "exit_code", 0) == 1
    assert "file/page.html: cannot be written" in str(done.exception)
    assert "simulated" not in done.output


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "schema is 2, must be 1"),
        ({"answer": None}, "answer is None, must be a valid list"),
        ({"plans": [{"plan": "tp1"}]}, r"plans\[0\].devices: missing"),
        ({"inputs": {}}, "inputs.objective: missing; inputs.slos: missing"),
        ({"inputs": {"objective": "joy", "slos": [], "device_memory_bytes": 1}}, "'joy' is no metric"),
    ],
)
def test_what_is_no_result_of_a_search_is_refused(
    change: dict[str, Any], said: str, document: dict[str, Any], tmp_path: Path
) -> None:
    """A result of another version says what differs; no page is written."""
    (tmp_path / "found.json").write_text(json.dumps({**document, **change}))
    done = _invoked("report", tmp_path / "found.json")
    assert getattr(done.exception, "exit_code", 0) == 2
    assert re.search(said, str(done.exception)), str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"metrics": {}}', "\x00"])
def test_a_file_that_is_no_search_is_one_error(text: str, tmp_path: Path) -> None:
    """Anything else is named with its path and what to name instead."""
    (tmp_path / "found.json").write_text(text)
    done = _invoked("report", tmp_path / "found.json")
    assert getattr(done.exception, "exit_code", 0) == 2
    assert "found.json" in str(done.exception)
    assert "apex search" in getattr(done.exception, "hint", "")


def test_a_page_is_never_written_over_its_result(document: dict[str, Any], tmp_path: Path) -> None:
    """The result named as the page is refused, and stays."""
    (tmp_path / "found.html").write_text(json.dumps(document))
    done = _invoked("report", tmp_path / "found.html")
    assert "is an input" in str(done.exception)
    assert json.loads((tmp_path / "found.html").read_text()) == document
