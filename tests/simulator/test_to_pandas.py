"""Results as pandas tables: a search by plan, a simulation by request, measurements by row."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.store import open_store
from simulator.engine_profiles.engine_profile import load_profile
from simulator.model.load_model import load_model
from simulator.plan.pool_plan import parse_layout
from simulator.pools.layouts import replay_layout, start_layout
from simulator.results.objective import parse_objective, parse_slo
from simulator.search.search import search
from simulator.serving import Refusal, Serving
from simulator.workload.parse import parse_workload


def test_a_search_is_a_table_of_plans() -> None:
    """Every plan is a row: kept and breaking ones with their metrics by path, refused ones with their reason."""
    cluster = load_cluster("h100-sxm-8")
    serving = Serving(
        model=load_model("llama-3.1-70b"),
        cluster=cluster,
        profile=load_profile("vllm-0.33"),
        costs=lambda clock_mhz: AnalyticCosts(cluster, clock_mhz),
    )
    slo = parse_slo(["e2e_s.mean<=4"])
    found = search(serving, parse_workload("chat-synthetic", limit=40), parse_objective("e2e_s"), slo=slo)
    frame = found.to_pandas()
    assert len(frame) == len(found.ranked) + len(found.breaking) + len(found.refused)
    kept = frame[frame["breaks"].isna() & frame["refused"].isna()]
    assert kept["plan"].tolist() == [str(result.plan) for result in found.ranked]
    assert kept["ttft_s.p99"].tolist() == [result.metrics["ttft_s"]["p99"] for result in found.ranked]
    assert frame["breaks"].dropna().tolist() == ["e2e_s.mean<=4"] * len(found.breaking)
    assert frame["refused"].dropna().tolist() == [refusal.reason for refusal in found.refused]
    assert found.breaking
    assert found.refused


@pytest.mark.parametrize("layout", ["dp2", "prefill.tp1+decode.tp1"])
def test_a_simulation_is_a_table_of_requests(layout: str) -> None:
    """Every request is a row in seconds; a result that kept no requests says so in one message."""
    cluster = load_cluster("h100-sxm-2")
    serving = Serving(
        model=load_model("llama-3.2-1b"),
        cluster=cluster,
        profile=load_profile("vllm-0.33"),
        costs=lambda clock_mhz: AnalyticCosts(cluster, clock_mhz),
    )
    workload = parse_workload("chat-synthetic", limit=30)
    started = start_layout(serving, parse_layout(layout), workload)
    assert not isinstance(started, Refusal)
    result = replay_layout(serving, started, workload)
    frame = result.to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert len(frame) == 30
    assert frame["e2e_s"].mean() == pytest.approx(result.metrics["e2e_s"]["mean"])
    with pytest.raises(UserError, match="requests were not kept"):
        replace(result, run=None).to_pandas()


def test_measurements_are_arrow_tables_that_pandas_takes(tmp_path: Path) -> None:
    """What a store reads becomes a frame with the columns of its family."""
    table = open_store(tmp_path).read("gemm", device="h100-sxm")
    assert list(table.to_pandas().columns) == table.column_names
