"""The page of a search: self-contained, with the answer, every plan, every refusal and honest figures."""

import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from simulator.cli import apex
from simulator.report.search_figures import _front

_COMMAND = (
    "search --model llama-3.1-8b --cluster h100-sxm-2 --costs analytic --trace chat-synthetic --limit 30 --pools "
    "--slo tpot_s.mean<=0.005 --seqs default,64 --tokens default,32 --top 3"
)


def test_page_holds_the_answer_and_every_plan(tmp_path: Path) -> None:
    """The command, each plan and each reason stand in one page that loads nothing; each figure is a PNG too."""
    done = CliRunner().invoke(apex, [*_COMMAND.split(), "--report", str(tmp_path / "page")])
    assert done.exit_code == 0, done.stderr
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    for part in ("best plan: tp2", "vllm serve MODEL", "dp2", "prefill.tp1+decode.tp1", "must be at most", "Refused"):
        assert part in page
    assert "src=" not in page
    assert {link[0] for link in re.findall(r'href="([^"]+)', page)} <= {"#"}
    pictures = {path.name: path.read_bytes()[:4] for path in (tmp_path / "page").glob("*.png")}
    assert pictures == dict.fromkeys(("trade_off.png", "request.png", "devices.png"), b"\x89PNG")


def test_nothing_to_draw_with_is_said_before_the_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without matplotlib the command ends at once with what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = CliRunner().invoke(apex, [*_COMMAND.split(), "--report", str(tmp_path / "page")])
    assert done.exit_code != 0
    assert "apex-planner[report]" in getattr(done.exception, "hint", "")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    """A file where a folder is needed ends in exit code 1 and the path, before anything is simulated."""
    (tmp_path / "file").touch()
    done = CliRunner().invoke(apex, [*_COMMAND.split(), "--report", str(tmp_path / "file" / "page")])
    assert getattr(done.exception, "exit_code", 0) == 1
    assert "file/page: cannot be written" in str(done.exception)
    assert "simulated" not in done.output


_value = st.floats(0.1, 10)


@given(st.lists(st.tuples(st.text(max_size=3), _value, _value), min_size=1))
def test_front_is_what_nobody_beats(points: list[tuple[str, float, float]]) -> None:
    """No point is better than one of the front in both values, and the front is as good as every point in one."""
    front = _front(points)
    assert front
    for _, x, y in front:
        assert not any(x1 < x and y1 < y for _, x1, y1 in points)
    for _, x, y in points:
        assert any(x1 <= x and y1 <= y for _, x1, y1 in front)
