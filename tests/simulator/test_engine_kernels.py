"""What an engine does with its kernels is stated by its profile, and every statement reaches the price of a step."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from cluster_specs.errors import UserError
from cluster_specs.files.declared import Declared
from cluster_specs.load import load_cluster, load_device
from costmodel.ops.op_types import Elementwise, Gemm, Moe
from costmodel.ops.small_ops import small_op
from costmodel.pricing.analytic_costs import AnalyticCosts
from simulator.engine_profiles.batch_limits import BatchLimits
from simulator.engine_profiles.bundled_profiles import bundled_profiles
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.engine_profiles.layouts import Layouts
from simulator.engine_profiles.load_factors import LoadFactors, LoadPoint
from simulator.engine_profiles.price_factors import PriceFactors
from simulator.manifest.shapes import RecordingCosts
from simulator.model.cell import KernelChoices
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan
from simulator.serving import Serving, StartedPlan
from simulator.steps.compile_plan import compile_plan
from simulator.steps.op_curves import OpCurves
from simulator.steps.step_knots import StepShape
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import serving_of

_TRAFFIC = parse_workload("synthetic:isl=64,osl=4,rate=50,n=4")


def _moe(dtype: str) -> Moe:
    return Moe(num_tokens=8, hidden=64, inter=64, num_experts=8, topk=2, dtype=dtype)


def test_an_op_is_as_many_calls_as_its_profile_says() -> None:
    """Fused experts are five calls, twice that where inputs are rounded; products of block scales are two."""
    launches = load_profile("vllm-0.33").launches
    small = Elementwise(op="rmsnorm", rows=1, width=8, bytes_per_row=32.0)
    ops = [_moe("bf16"), _moe("w4a16"), _moe("fp8"), Gemm(m=1, n=8, k=8, dtype="fp8_block"), Gemm(m=1, n=8, k=8), small]
    assert [launches.of(op) for op in ops] == [5, 5, 10, 2, 1, 1]


@pytest.mark.parametrize(("engine", "dynamic"), [("vllm-0.6", 3), ("vllm-0.33", 1)])
def test_rounding_is_counted_from_the_work(engine: str, dynamic: int) -> None:
    """A version that finds one scale per tensor rounds in three calls, and in one where the checkpoint states it."""
    launches = load_profile(engine).launches
    for scales, calls in ((0, 1), (1, dynamic)):
        rounding = small_op("quantise", rows=1, width=4096, dtype="bf16", out="fp8", scales=scales)
        assert launches.of(rounding) == calls


def test_launches_do_not_depend_on_what_prices_hold() -> None:
    """An FP8 product whose table time holds its rounding is as many calls as one whose table time does not."""
    launches = {
        compile_plan(
            load_model("llama-3.1-8b"),
            parse_plan("tp1-w.fp8"),
            OpCurves(AnalyticCosts(load_cluster("h100-sxm-8"))),
            profile=load_profile("vllm-0.6"),
            shape=StepShape(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=512, kv_tokens=4096),
            kernels=KernelChoices(activation_quantisation="separate", in_gemm_schemes=frozenset(schemes)),
        )
        .stages[0]
        .launches
        for schemes in ((), ("fp8",))
    }
    assert len(launches) == 1
    assert launches.pop() > 32 * (4 * 3 + 8)  # four roundings, and what a layer starts beside them


def test_only_a_weight_only_kernel_has_tiles() -> None:
    """Marlin works in tiles of 16 rows; the kernels with FP4 arithmetic of their own have none that matter here."""
    kernels = load_profile("vllm-0.33").mxfp4_experts
    rows = {device: kernels.tile_rows_on(load_device(device)) for device in ("a100-sxm-80gb", "h100-sxm", "b200")}
    assert rows == {"a100-sxm-80gb": 16, "h100-sxm": None, "b200": None}


def _weight_of_a_step(model: str, plan: str, changed: dict[str, dict[str, Any]]) -> float:
    """Return seconds of all token counts of a step, and a millisecond per call of the host."""
    profile = load_profile("vllm-0.33")
    for table, values in changed.items():
        profile = profile.model_copy(update={table: getattr(profile, table).model_copy(update=values)})
    spec = load_cluster("h100-sxm-8")
    serving = Serving(
        model=load_model(model),
        cluster=spec,
        profile=profile,
        costs=lambda clock_mhz: RecordingCosts(AnalyticCosts(spec, clock_mhz)),  # prices roundings apart
    )
    start = serving.start(parse_plan(plan), _TRAFFIC)
    assert isinstance(start, StartedPlan), start
    stage = start.compiled.stages[0]
    return float(np.sum(stage.tokens.latency_s)) + 1e-3 * stage.launches


@pytest.mark.parametrize(
    ("model", "plan", "table", "values", "is_slower"),
    [
        ("qwen3-30b-a3b", "tp1", "launches", {"experts": 30}, True),
        ("llama-3.1-8b", "tp1-w.fp8", "kernels", {"activation_quantisation": "separate"}, True),
        ("qwen3-30b-a3b", "attn.dp8-moe.ep8", "kernels", {"all2all": "deepep"}, False),
        ("llama-3.1-8b", "tp1", "sustained_load", {"slowdown_frac": 0.0}, False),
    ],
)
def test_what_a_profile_states_reaches_the_step(
    model: str, plan: str, table: str, values: dict[str, Any], is_slower: bool
) -> None:
    """A changed fact makes steps slower, or faster, than the bundled one."""
    bundled, changed = (_weight_of_a_step(model, plan, change) for change in ({}, {table: values}))
    assert changed > bundled if is_slower else changed < bundled


def test_the_skew_of_routing_is_asked_of_the_cost_model() -> None:
    """The ops of a step carry the routing that the profile states."""
    profile = load_profile("vllm-0.33")
    skewed = profile.expert_routing.model_copy(update={"skew": "power_law_1.2"})
    found = [
        serving_of("mixtral-8x7b", engine=profile.model_copy(update={"expert_routing": routing}))
        .kernels(parse_plan("tp8"))
        .moe_routing
        for routing in (profile.expert_routing, skewed)
    ]
    assert found == ["power_law_1.01", "power_law_1.2"]


@pytest.mark.parametrize("skew", ["even", "power_law_", "power_law_1.2e9", "power_law_1.2 ", "balanced\n"])
def test_a_skew_that_no_measurement_can_have_is_refused(tmp_path: Path, skew: str) -> None:
    """The message has the key, the value and what is possible."""
    path = tmp_path / "ours.toml"
    text = skew.replace("\n", "\\n")
    path.write_text(f'schema = 1\nname = "ours"\nextends = "vllm-0.33"\n[expert_routing]\nskew = "{text}"\n')
    with pytest.raises(UserError, match=r"expert_routing\.skew is '.*', must be balanced or power_law_<exponent>"):
        load_profile(str(path))


def _tables(model: type[Declared]) -> list[type[Declared]]:
    """Return the tables of a profile, itself first; entries of lists and maps are no tables."""
    nested = [
        kind
        for field in model.model_fields.values()
        for kind in (field.annotation, *get_args(field.annotation))
        if isinstance(kind, type) and issubclass(kind, Declared) and kind is not BatchLimits
    ]
    return [model, *(table for kind in nested for table in _tables(kind))]


def test_every_table_states_where_its_figures_come_from() -> None:
    """A profile and each of its tables have a required source, so that no figure comes without one.

    Factors and layouts that nobody states are no figures; those that somebody states need their source too. A point of
    factors by load has its table's.
    """
    learnt = (PriceFactors, LoadFactors, LoadPoint, Layouts)
    tables = [table for table in _tables(EngineProfile) if table not in learnt]
    assert len(tables) > 10
    with pytest.raises(ValueError, match="factors need a source"):
        PriceFactors(gemm=1.1)
    with pytest.raises(ValueError, match="layouts need a source"):
        Layouts(expert_grids=True)
    with pytest.raises(ValueError, match="points need a source"):
        LoadFactors(points=[LoadPoint(tokens=8, ranks=1, weight=0.1)])
    assert [table.__name__ for table in tables if not table.model_fields["source"].is_required()] == []


@pytest.mark.parametrize("name", bundled_profiles())
def test_bundled_sources_say_something(name: str) -> None:
    """A bundled profile's sources are whole phrases."""

    def sources(table: Declared) -> list[str]:
        values = [getattr(table, key) for key in type(table).model_fields]
        return [table.source, *(text for value in values if hasattr(value, "source") for text in sources(value))]  # type: ignore[attr-defined]

    assert min(map(len, sources(load_profile(name)))) > 20
