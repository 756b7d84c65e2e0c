"""Links a user states reach collectives that were measured on others, and the answer says so."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import bundled_fit
from costmodel.cost_model import Source
from costmodel.fit_file.artefact import load_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.ops.op_types import Collective
from costmodel.pricing.analytic_costs import AnalyticCosts
from costmodel.pricing.measured_links import links_of

MESSAGES = np.array([1e2, 3e4, 2.0**20, 5e6, 2.0**26, 2.0**30])


def _fit(device: str) -> Artefact:
    path = bundled_fit(device)
    assert path is not None
    return load_artefact(path)


@pytest.fixture(scope="module")
def fits() -> dict[str, Artefact]:
    """Fits of a device on PCIe and of one on NVLink."""
    return {name: _fit(name) for name in ("l40s", "h100-sxm")}


def _stating(bundled: str, **changes: Any) -> ClusterSpec:
    """Return a bundled cluster whose innermost link is stated otherwise."""
    cluster = load_cluster(bundled)
    return cluster.model_copy(update={"levels": (cluster.levels[0].model_copy(update=changes), *cluster.levels[1:])})


def _seconds(fit: Artefact, cluster: ClusterSpec, kind: str = "all_reduce", ranks: int = 2) -> np.ndarray[Any, Any]:
    return FittedCosts(fit, cluster).predict(Collective(kind=kind, message_bytes=MESSAGES, ranks=ranks)).latency_s


def test_half_the_bandwidth_doubles_what_bandwidth_bounds(fits: dict[str, Artefact]) -> None:
    """Large messages take twice as long, small ones their floor; the added latency of hops is added once per hop."""
    for name, device in (("l40s-8", "l40s"), ("h100-sxm-8", "h100-sxm")):
        link = load_cluster(name).levels[0]
        plain = _seconds(fits[device], load_cluster(name))
        halved = _seconds(fits[device], _stating(name, bandwidth_bytes_per_s=link.bandwidth_bytes_per_s / 2))
        assert halved[-1] / plain[-1] == pytest.approx(2.0, rel=0.03)
        assert halved[0] / plain[0] == pytest.approx(1.0, rel=0.1)
        assert np.all(halved >= plain)
        later = _seconds(fits[device], _stating(name, latency_s=link.latency_s + 1e-5))
        assert later - plain == pytest.approx(np.full(len(plain), 2e-5), rel=0.05)


def test_links_as_measured_change_nothing(fits: dict[str, Artefact]) -> None:
    """The links of the measurements give the measured times to the bit, whatever the level is called."""
    for changes in ({}, {"name": "bus"}, {"source": "my own"}):
        assert np.array_equal(
            _seconds(fits["l40s"], _stating("l40s-8", **changes)), _seconds(fits["l40s"], load_cluster("l40s-8"))
        )
    assert "collectives" not in FittedCosts(fits["l40s"], load_cluster("l40s-8")).origin


@settings(max_examples=60)
@given(
    device=st.sampled_from(["l40s", "h100-sxm"]),
    group=st.tuples(
        st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"]),
        st.sampled_from([2, 4, 8, 16]),
    ),
    slow=st.tuples(st.floats(1e9, 1e12), st.floats(1e-6, 1e-3)),
    faster=st.tuples(st.floats(1.0, 50.0), st.floats(1.0, 50.0)),
    level=st.sampled_from([0, 1]),
)
def test_a_faster_link_is_never_slower(
    *,
    device: str,
    group: tuple[str, int],
    slow: tuple[float, float],
    faster: tuple[float, float],
    level: int,
    fits: dict[str, Artefact],
) -> None:
    """Whatever the links, raising a level's bandwidth or lowering its latency never makes a collective slower."""
    cluster = load_cluster(f"{device}-2x8")

    def seconds(bytes_per_s: float, latency_s: float) -> np.ndarray[Any, Any]:
        links = list(cluster.levels)
        links[level] = links[level].model_copy(update={"bandwidth_bytes_per_s": bytes_per_s, "latency_s": latency_s})
        return _seconds(fits[device], cluster.model_copy(update={"levels": tuple(links)}), *group)

    slowly = seconds(*slow)
    for fast in (seconds(slow[0] * faster[0], slow[1]), seconds(slow[0], slow[1] / faster[1])):
        assert np.all(fast <= slowly * (1 + 1e-9))
        assert np.all(np.isfinite(fast) & (fast > 0))


def test_scaled_collectives_are_said(fits: dict[str, Artefact]) -> None:
    """Where prices come from names the level, what was measured and what is stated."""
    stated = _stating("l40s-8", bandwidth_bytes_per_s=1.6e10, latency_s=2e-5)
    costs = FittedCosts(fits["l40s"], stated)
    assert "collectives on pcie scaled from 32 GB/s and 1 us to 16 GB/s and 20 us" in costs.origin
    found = costs.predict(Collective(kind="all_reduce", message_bytes=MESSAGES, ranks=2))
    assert not np.any(found.source == Source.MEASURED)


def test_devices_without_peer_access_are_slower(fits: dict[str, Artefact]) -> None:
    """The same PCIe link without peer-to-peer access moves half as much."""
    stated = _stating("l40s-8", peer_to_peer=False)
    ratio = _seconds(fits["l40s"], stated) / _seconds(fits["l40s"], load_cluster("l40s-8"))
    assert ratio[-1] == pytest.approx(2.0, rel=0.03)
    assert "without peer-to-peer access" in FittedCosts(fits["l40s"], stated).origin


def test_two_cards_without_peer_access_run_as_measured() -> None:
    """A 1 MiB all-reduce over two RTX 4090 takes 16 GB/s plus 20 us within 10 %, eight cards' smallest takes 42 us."""
    analytic = AnalyticCosts(load_cluster("rtx-4090-8"))
    pair = analytic.predict(Collective(kind="all_reduce", message_bytes=np.array([2.0**20]), ranks=2))
    assert pair.latency_s[0] == pytest.approx(2**20 / 16e9 + 20e-6, rel=0.1)
    eight = analytic.predict(Collective(kind="all_reduce", message_bytes=np.array([8.0]), ranks=8))
    assert eight.latency_s[0] == pytest.approx(42e-6, rel=0.05)


def test_another_kind_of_link_has_no_measurements(fits: dict[str, Artefact]) -> None:
    """Times measured on NVLink say nothing of PCIe, even under its name: the analytic model answers, and is named."""
    costs = FittedCosts(fits["h100-sxm"], _stating("h100-sxm-8", kind="pcie"))
    found = costs.predict(Collective(kind="all_reduce", message_bytes=MESSAGES, ranks=2))
    assert np.all(found.source == Source.ANALYTIC)
    assert "no collectives measured on nvlink" in costs.origin
    assert "collective analytic" in costs.outside()


def test_a_fit_remembers_its_links(fits: dict[str, Artefact]) -> None:
    """Links recorded with a fit count, not those of the bundled cluster of its name; without either it says so."""
    fit = fits["l40s"]
    own = _stating("l40s-8", bandwidth_bytes_per_s=1.6e10)
    recorded = replace(fit, provenance=replace(fit.provenance, cluster="mine", links=links_of(own)))
    is_measured = [2, 4, 5]
    assert np.array_equal(_seconds(recorded, own)[is_measured], _seconds(fit, load_cluster("l40s-8"))[is_measured])
    assert "scaled" not in FittedCosts(recorded, own).origin
    unknown = replace(fit, provenance=replace(fit.provenance, cluster="mine", links={}))
    assert "no record of the links" in FittedCosts(unknown, own).origin
    damaged = replace(fit, provenance=replace(fit.provenance, links={"pcie": {"name": 3}}))
    with pytest.raises(UserError, match="record of its links"):
        FittedCosts(damaged, own)


def test_a_domain_over_several_hosts_is_one_node() -> None:
    """Ranks on trays of one NVLink domain are priced as neighbours, however the file counts nodes."""
    rack = load_cluster("gb200-72")
    trays = rack.model_copy(update={"nodes": 18, "devices_per_node": 4})
    fit = _fit("gb200")
    assert np.array_equal(_seconds(fit, trays, ranks=8), _seconds(fit, rack, ranks=8))


def test_a_device_file_unlike_the_measured_device_is_said(fits: dict[str, Artefact]) -> None:
    """A bandwidth edited in the device file does not change what was measured, and the answer says that."""
    cluster = load_cluster("l40s-8")
    edited = cluster.model_copy(update={"device": cluster.device.model_copy(update={"memory_bytes_per_s": 5e11})})
    assert "memory_bytes_per_s of the device file not applied" in FittedCosts(fits["l40s"], edited).origin
