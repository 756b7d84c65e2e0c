"""Kernels that stand in for the measured one: weight-only MXFP4."""

import numpy as np

from cluster_specs.load import load_cluster
from costmodel.cost_model import Prediction, Source
from costmodel.ops.op_types import Moe
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.steps.expert_kernels import fills_tiles, weight_only_twin
from simulator.steps.op_curves import OpCurves


class _Doubled(AnalyticCosts):
    """Prices of one format are twice as high."""

    dtype = "w4a16"

    def predict(self, op: object) -> Prediction:
        found = super().predict(op)  # type: ignore[arg-type]  # a test double of one op
        factor = 2.0 if getattr(op, "dtype", "") == self.dtype else 1.0
        return Prediction(
            latency_s=found.latency_s * factor,
            low_s=found.low_s * factor,
            high_s=found.high_s * factor,
            energy_j=found.energy_j,
            source=np.full_like(found.source, Source.ANALYTIC),
        )


def _experts(dtype: str = "mxfp4") -> Moe:
    tokens = np.array([1, 64, 511, 512, 8192])
    return Moe(num_tokens=tokens, hidden=2880, inter=2880, num_experts=128, topk=4, tp=1, ep=1, dtype=dtype)


def test_only_full_tiles_pay_for_dequantising() -> None:
    """16 rows per expert on average are the border; below it both kernels read the same bytes."""
    costs = _Doubled(load_cluster("h100-sxm-8"))
    native, weight_only = (OpCurves(costs, weight_only_tile_rows=rows).price(_experts()) for rows in (None, 16))
    ratio = weight_only.latency_s / native.latency_s
    assert fills_tiles(_experts(), 16).tolist() == [False, False, False, True, True]
    assert ratio[:3].tolist() == [1.0, 1.0, 1.0]
    assert (ratio[3:] > 1.5).all()


def test_few_tokens_stream_the_weights_at_the_devices_rate() -> None:
    """A native kernel measured at twice the analytic price gives way to it below full tiles, and only there."""
    costs = _Doubled(load_cluster("h100-sxm-8"))
    costs.dtype = "mxfp4"
    native, weight_only = (OpCurves(costs, weight_only_tile_rows=rows).price(_experts()) for rows in (None, 16))
    ratio = weight_only.latency_s / native.latency_s
    assert (ratio[:3] < 0.6).all()
    assert ratio[3:].tolist() == [1.0, 1.0]


def test_other_formats_and_fp4_devices_keep_their_kernel() -> None:
    """FP8 experts are not touched, and a device with FP4 units runs MXFP4 as it is."""
    costs = _Doubled(load_cluster("h100-sxm-8"))
    fp8 = [OpCurves(costs, weight_only_tile_rows=rows).price(_experts("fp8")).latency_s for rows in (None, 16)]
    assert (fp8[0] == fp8[1]).all()
    blackwell = _Doubled(load_cluster("b200-8"))
    mxfp4 = [OpCurves(blackwell, weight_only_tile_rows=rows).price(_experts()).latency_s for rows in (None, 16)]
    assert (mxfp4[0] == mxfp4[1]).all()


def test_the_twin_differs_in_format_only() -> None:
    """Shape and routing stay."""
    twin = weight_only_twin(_experts())
    assert (twin.dtype, twin.hidden, twin.topk, twin.routing) == ("w4a16", 2880, 4, _experts().routing)
