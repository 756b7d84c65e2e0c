"""Fitted prices of a person's own ops: by their rows alone, as those of any other family."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.cost_model import Source
from costmodel.families.all import op_of_sizes
from costmodel.families.custom import CUSTOM
from costmodel.families.family import knot_op, plain_rows
from costmodel.fit_file.artefact import load_artefact, save_artefact
from costmodel.fitted_costs import FittedCosts
from costmodel.fitting.fit_device import fit_device
from costmodel.ops.custom import Custom, sizes_in, sizes_text
from costmodel.pricing.analytic_costs import AnalyticCosts
from profiles_db.store import open_store
from profiles_db.verify import verify

from .conftest import DEVICE, common

_AMOUNTS = np.array([1, 8, 64, 512, 4096, 16384])


def _op(inner: int, amount: Any, *, tap: int = 4, name: str = "lab.tap_scan") -> Custom:
    """Imagine an op of four sizes, the last of which tells kernels apart."""
    return Custom(
        op=name,
        sizes=f"inner={inner} state=16 lanes=2 tap={tap}",
        amount_of="tokens",
        amount=amount,
        unit_flop=14.0 * inner * 16,
        call_bytes=64.0 * inner,
        unit_bytes=6.0 * inner,
        dtype="bf16",
    )


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory, cluster: ClusterSpec) -> Path:
    """Store and fit rows of a machine 1.3 times as slow as the analytic one, for two inner widths and two taps."""
    folder: Path = tmp_path_factory.mktemp("custom")
    costs, rows = AnalyticCosts(cluster), []
    for inner, tap in ((1024, 4), (4096, 4), (1024, 2)):
        for row in plain_rows(_op(inner, _AMOUNTS, tap=tap)):
            latency_s = 1.3 * float(costs.predict(_op(inner, row["amount"], tap=tap)).latency_s)
            rows.append(common(latency_s, backend="kernels:run") | row)
    store = open_store(folder, bundled=None)
    store.append("custom", rows, "run-1")
    assert not [found for found in verify(store) if found.is_serious]
    path = folder / "own.fit.parquet"
    save_artefact(fit_device(store, DEVICE, cluster), path)
    return path


@pytest.fixture(scope="module")
def costs(fitted: Path, cluster: ClusterSpec) -> FittedCosts:
    """Open the fit from its file."""
    return FittedCosts(load_artefact(fitted), cluster)


@pytest.mark.parametrize(("inner", "tap"), [(1024, 4), (4096, 4), (1024, 2)])
def test_measured_points_come_back_verbatim(costs: FittedCosts, cluster: ClusterSpec, inner: int, tap: int) -> None:
    """What was measured is returned to the last bit, from a file that knows nothing of the code it came from."""
    op = _op(inner, _AMOUNTS, tap=tap)
    found = costs.predict(op)
    assert (found.source == Source.MEASURED).all()
    assert found.latency_s == pytest.approx(1.3 * AnalyticCosts(cluster).predict(op).latency_s, rel=1e-12)


@pytest.mark.parametrize(("inner", "source"), [(1024, Source.FITTED), (2048, Source.BORROWED)])
def test_between_points_and_sizes_the_truth_is_near(
    costs: FittedCosts, cluster: ClusterSpec, inner: int, source: Source
) -> None:
    """Other amounts are fitted and other sizes borrowed, both within 15 % of the machine."""
    op = _op(inner, np.array([20, 300, 9000]))
    found = costs.predict(op)
    assert (found.source == source).all()
    assert found.latency_s == pytest.approx(1.3 * AnalyticCosts(cluster).predict(op).latency_s, rel=0.15)


@pytest.mark.parametrize("changed", [{"tap": 8}, {"name": "lab.other"}])
def test_what_nothing_like_it_was_measured_of_is_analytic(costs: FittedCosts, changed: dict[str, Any]) -> None:
    """Another name, or another of the sizes behind the third, is another kernel: nothing lends to it."""
    assert (costs.predict(_op(1024, _AMOUNTS, **changed)).source == Source.ANALYTIC).all()


def test_changed_counts_are_no_measured_point(costs: FittedCosts) -> None:
    """After a change of its counts an op's rows lend, and are no longer points of it."""
    op = _op(1024, _AMOUNTS)
    other = Custom(**{name: getattr(op, name) for name in Custom.__slots__} | {"unit_flop": 15.0 * 1024 * 16})
    assert (costs.predict(other).source == Source.BORROWED).all()


def test_an_op_is_the_same_from_a_row_and_from_a_knot(costs: FittedCosts, cluster: ClusterSpec) -> None:
    """Columns of a row, and label and shape of a knot, both give back the op that was measured."""
    knots = costs.artefact.families["custom"]
    seen = set()
    for shape in range(knots.num_shapes):
        rows = knots.rows(shape)
        op = knot_op(
            CUSTOM, knots.label[shape], knots.shape[shape].tolist(), knots.x[rows], knots.y[rows], cluster=cluster
        )
        assert isinstance(op, Custom)
        sizes = sizes_in(op.sizes)
        wanted = _op(sizes["inner"], knots.x[rows], tap=sizes["tap"])
        assert (op.op, op.sizes, op.amount_of, op.dtype) == (wanted.op, wanted.sizes, "tokens", "bf16")
        assert op.flop() == pytest.approx(wanted.flop())
        assert op.io_bytes() == pytest.approx(wanted.io_bytes())
        (first, *_) = plain_rows(wanted)
        assert op_of_sizes("custom", first) == Custom(**first)
        seen.add(op.sizes)
    assert len(seen) == 3


@pytest.mark.parametrize(
    "text", ["", "inner", "inner=0", "inner=4  state=2", "inner=4 inner=4", "Inner=4", "a=-1", "a=1 "]
)
def test_texts_that_are_no_sizes_are_refused(text: str) -> None:
    """Sizes are read back as they were written, and nothing else is read as sizes."""
    assert sizes_in(sizes_text({"inner": 1536, "state": 16})) == {"inner": 1536, "state": 16}
    with pytest.raises(UserError, match="must be up to 8 of name=number"):
        sizes_in(text)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"op": "lab|scan"}, "op is 'lab|scan', must be lower-case words"),
        ({"sizes": "inner:4"}, "sizes is 'inner:4', must be sizes as in"),
        ({"amount": 0}, "amount is 0, must be > 0"),
        ({"amount_of": "rows"}, "amount_of is 'rows', must be one of tokens, sequences"),
        ({"unit_bytes": -1.0}, "unit_bytes is -1.0, must be >= 0"),
    ],
)
def test_rows_that_are_no_custom_op_are_not_stored(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    """The store names row, column and value of what no declaration can have written."""
    (row,) = plain_rows(_op(1024, 8))
    store = open_store(tmp_path, bundled=None)
    with pytest.raises(UserError) as caught:
        store.append("custom", [common(1e-3, backend="kernels:run") | row | changed], "run-1")
    assert said in str(caught.value)
