"""Two runs whose inputs are related have related results, on random models, clusters, plans, engines and workloads.

`python -m benchmarks.metamorphic --cases N` tries thousands more; docs/concepts/invariants.md explains the bounds.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.metamorphic.cases import Hardware, draw_case
from benchmarks.metamorphic.relations import RELATIONS, bound, latency_growth
from simulator.cli import main

SEEDS = range(80)


@pytest.mark.parametrize("name", RELATIONS)
def test_the_relation_holds_within_its_bound(name: str) -> None:
    """No case falls short by more than the bound, and enough cases are asked at all."""
    asked, beyond = 0, {}
    for case in map(draw_case, SEEDS):
        shortfall = RELATIONS[name](case)
        asked += shortfall is not None
        if shortfall is not None and shortfall > bound(name, case):
            beyond[str(case)] = shortfall
    assert beyond == {}
    assert asked >= 10


def test_a_slower_device_is_seen() -> None:
    """Asked the other way round, the relation of devices falls short wherever a plan starts and is not the host's."""
    growth = [latency_growth(case, replace(case, hardware=Hardware(device=0.5))) for case in map(draw_case, range(20))]
    seen = [share for share in growth if share is not None]
    assert len(seen) >= 8
    assert sum(share > 0.05 for share in seen) >= 0.8 * len(seen)


def test_the_hour_of_a_trace_changes_no_metric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same requests from zero, in the afternoon and in epoch seconds: the same JSON, energy and price included."""
    metrics = []
    for name, hour_s in (("zero", 0), ("afternoon", 50_400), ("epoch", 1_700_000_000)):
        rows = "".join(f"{hour_s + i * 0.25},{100 + 7 * i},{20 + i}\n" for i in range(40))
        trace = tmp_path / f"{name}.csv"
        trace.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
        flags = "--model llama-3.1-8b --cluster h100-sxm-2 --plan dp2 --costs analytic --usd-per-device-hour 2 --json"
        with pytest.raises(SystemExit) as end:
            main(["simulate", *flags.split(), "--trace", str(trace)])
        assert end.value.code == 0
        metrics.append(json.loads(capsys.readouterr().out)["metrics"])
    assert metrics[1] == metrics[0]
    assert metrics[2] == metrics[0]
    assert {"energy_j", "mfu_frac", "mbu_frac", "usd_per_million_output_tokens"} <= metrics[0].keys()
