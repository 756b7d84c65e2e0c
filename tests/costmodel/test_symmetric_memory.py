"""All-reduces over torch's symmetric memory stand in for vLLM's, and for nothing else."""

from pathlib import Path
from typing import Any

import pytest

from cluster_specs.cluster import ClusterSpec
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.ops.op_types import Collective
from profiles_db.store import open_store

from .conftest import DEVICE, collective_rows

SMALL, LARGE = 2**16, 2**26


def rows_with(cluster: ClusterSpec, *, has_custom: bool) -> list[dict[str, Any]]:
    """NCCL's rows, those of symmetric memory at half their time, and vLLM's where it is installed."""
    rows = [row for row in collective_rows(cluster) if has_custom or row["backend"] == "nccl"]
    stand_ins = [
        row | {"backend": "torch.symm_mem_all_reduce", "latency_s": 0.5 * row["latency_s"]}
        for row in rows
        if row["backend"] == "nccl" and row["kind"] == "all_reduce"
    ]
    return rows + stand_ins


@pytest.mark.parametrize(("has_custom", "path", "factor"), [(False, "nccl", 0.5), (True, "vllm.custom_all_reduce", 1)])
def test_small_messages_take_the_nearest_path_that_was_measured(
    tmp_path: Path, cluster: ClusterSpec, has_custom: bool, path: str, factor: float
) -> None:
    """Below vLLM's limit symmetric memory prices where vLLM was not measured; above it NCCL does in any case."""
    store = open_store(tmp_path, bundled=None)
    store.append("collective", rows_with(cluster, has_custom=has_custom), "run-1")
    costs = FittedCosts(fit_device(store, DEVICE, cluster), cluster)
    true_s = {
        (row["backend"], row["message_bytes"]): row["latency_s"]
        for row in collective_rows(cluster)
        if row["kind"] == "all_reduce" and row["ranks"] == 8
    }
    for message, expected_s in ((SMALL, factor * true_s[path, SMALL]), (LARGE, true_s["nccl", LARGE])):
        found = costs.predict(Collective(kind="all_reduce", message_bytes=message, ranks=8))
        assert found.latency_s == pytest.approx(expected_s)
