"""A search that keeps its plans goes on where it was killed, and gives the answer of one that never was."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from simulator.plan.refused import Refused
from simulator.search.judged_plans import kept_in

_APEX = (sys.executable, "-c", "from simulator.cli import main; main()")
_INPUTS = {"--model": "a", "--trace": "b"}
_SERVED = ("--model", "llama-3.1-8b", "--cluster", "h100-sxm-4", "--trace", "synthetic:chat,rate=20,n=2000")
_PLANS = ("--seqs", "16,32,64,128,256", "--tokens", "2048,8192", "--top", "2", "--costs", "analytic")


def _search(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*_APEX, "search", *_SERVED, *_PLANS, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_killed_search_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL after some plans: the next run replays the others alone and prints what an undisturbed search prints."""
    state, resumed, whole = tmp_path / "state", tmp_path / "resumed.json", tmp_path / "whole.json"
    command = [*_APEX, "search", *_SERVED, *_PLANS, "--state", str(state), "--threads", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not state.exists() or state.read_bytes().count(b"\n") < 3:
            assert running.poll() is None, "the search ended before it had kept two plans"
            os.sched_yield()
        running.kill()
    kept = state.read_bytes()
    whole_lines = kept.count(b"\n")
    found = _search("--state", state, "-o", resumed)
    assert found.returncode == 0, found.stderr
    assert f"{state}: {whole_lines - 1} plans judged before" in found.stderr
    assert state.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    names = [json.loads(line)["plan"] for line in state.read_text().splitlines()[1:]]
    assert len(names) == len(set(names)) == json.loads(resumed.read_text())["counts"]["enumerated"]
    assert _search("-o", whole).returncode == 0
    assert resumed.read_bytes() == whole.read_bytes()


def test_other_inputs_are_refused_by_name(tmp_path: Path) -> None:
    """Plans kept for one trace are not taken for another: what differs is named, and the file is as it was."""
    state = tmp_path / "state"
    with kept_in(state, _INPUTS) as kept:
        kept.add("tp1", {"finished": 1})
    before = state.read_bytes()
    with (
        pytest.raises(UserError, match=r"state: was begun with another --trace$"),
        kept_in(state, _INPUTS | {"--trace": "c"}),
    ):
        pytest.fail("the file was taken")
    assert state.read_bytes() == before


@pytest.mark.parametrize("torn", [b"", b'{"pl', b'{"plan":"tp4","metrics":{"finished":2}}'])
def test_what_a_killed_writer_left_unfinished_is_dropped(tmp_path: Path, torn: bytes) -> None:
    """Whole lines count, the rest is written anew: after a torn tail the next plan stands on a line of its own."""
    state = tmp_path / "state"
    with kept_in(state, _INPUTS) as kept:
        kept.add("tp1", {"finished": 1})
        kept.add("tp2", Refused("no room", "device"))
    with state.open("ab") as stream:
        stream.write(torn)
    with kept_in(state, _INPUTS) as kept:
        assert (kept.found, kept.of("tp1"), kept.of("tp4")) == (2, {"finished": 1}, None)
        assert kept.of("tp2") == Refused("no room", "device")
        kept.add("tp4", {"finished": 3})
    with kept_in(state, _INPUTS) as kept:
        assert kept.of("tp4") == {"finished": 3}


@pytest.mark.parametrize("whole", [40, 12, 0])
def test_a_file_torn_in_its_first_line_begins_again(tmp_path: Path, whole: int) -> None:
    """A search killed while it wrote what it rests on had judged nothing."""
    state = tmp_path / "state"
    with kept_in(state, _INPUTS):
        pass
    state.write_bytes(state.read_bytes()[:whole])
    with kept_in(state, _INPUTS) as kept:
        assert kept.found == 0
    assert json.loads(state.read_text()) == {"schema": 2, "inputs": _INPUTS}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a shopping list", ":1: is not JSON"),
        (b'{"plans": []}', "holds no judged plans"),
        (b'{"schema":3,"inputs":{}}\n', "holds no judged plans of `apex search`, or those of another version"),
        (b'{"schema":2,"inputs":{"--model":"a","--trace":"b"}}\n{"plan":1}\n', ":2: is no judged plan"),
        (b'{"schema":2,"inputs":{"--model":"a","--trace":"b"}}\n\n', ":2: is not JSON"),
        (b'{"schema":2,"inputs":{"--model":"a","--trace":"b"}}\n[1]\n', ":2: must be a JSON object"),
    ],
)
def test_what_is_not_ours_is_refused_and_kept(tmp_path: Path, content: bytes, says: str) -> None:
    """A file that holds something else is named with its line, and not written over."""
    state = tmp_path / "state"
    state.write_bytes(content)
    with pytest.raises(UserError) as refusal, kept_in(state, _INPUTS):
        pytest.fail("the file was taken")
    assert says in str(refusal.value)
    assert state.read_bytes() == content


def test_two_searches_do_not_share_a_file(tmp_path: Path) -> None:
    """A second search with the same file is refused while the first one writes."""
    state = tmp_path / "state"
    with (
        kept_in(state, _INPUTS),
        pytest.raises(UserError, match="another run is writing here"),
        kept_in(state, _INPUTS),
    ):
        pytest.fail("two searches write one file")


def test_plans_kept_without_their_capacity_are_not_taken_for_a_search_that_wants_it(tmp_path: Path) -> None:
    """The most traffic may be a further objective: metrics that lack it would rank last without a word."""
    state, limit = tmp_path / "state", ("--slo", "ttft_p99<=5s")
    assert _search("--state", state, *limit).returncode == 0
    again = _search("--state", state, *limit, "--objective", "e2e_s", "--objective", "sustainable_requests_per_s")
    assert again.returncode == 2
    assert "was begun with another --slo" in again.stderr
