"""Images and audio through the whole simulator: time, memory, energy and plans of a model with an encoder."""

from dataclasses import replace

import numpy as np
import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from costmodel.bundled_fits import choose_costs
from costmodel.ops.op_types import Attention, Gemm
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.encoder_rows import with_encoder_mode
from simulator.feasible.server_setup import Overrides
from simulator.manifest.shapes import collect_shapes
from simulator.model.bind_workload import bind_workload
from simulator.model.load_model import from_hf_config, load_model
from simulator.model.spec import ModelSpec
from simulator.plan.plan import Plan, parse_plan
from simulator.plan.pool_plan import parse_layout
from simulator.pools.layouts import replay_layout, start_layout
from simulator.results.objective import Slo
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.simulate import InfeasibleError, SimulatedPlan, simulate
from simulator.workload.parse import parse_workload
from tests.simulator.test_bind_workload import T5

CLUSTER = load_cluster("h100-sxm-8")
ALONE = "synthetic:isl=300,osl=20,rate=0.5,arrivals=constant,n=6"


def _simulated(model: str, plan: str, images: str | None, *, engine: str = "vllm-0.33") -> SimulatedPlan:
    workload = parse_workload(ALONE, images=images)
    return simulate(
        parse_plan(plan), workload, CLUSTER, choose_costs(None, CLUSTER), model=load_model(model), profile=engine
    )


def _serving(model: str, trace: str, *, engine: str = "vllm-0.33", **media: str) -> tuple[Serving, StartedPlan]:
    served, workload = bind_workload(load_model(model), parse_workload(trace, **media))
    serving = Serving(
        model=served, cluster=CLUSTER, profile=load_profile(engine), costs=lambda _clock: choose_costs(None, CLUSTER)
    )
    started = serving.start(Plan(), workload)
    assert isinstance(started, StartedPlan), started
    return serving, started


@pytest.mark.parametrize("engine", ["vllm-0.33", "vllm-0.6", "sglang-0.5", "tensorrt-llm-1.2"])
def test_an_image_delays_the_first_token_by_its_encoder_and_its_tokens(engine: str) -> None:
    """On an idle server the first token waits for the encoder and for as many prompt tokens as the image becomes."""
    bare, seen = (_simulated("qwen2.5-vl-7b", "tp1", images, engine=engine) for images in (None, "1:1024x1024"))
    same = parse_workload(ALONE.replace("isl=300", "isl=1669"))
    text = simulate(
        Plan(), same, CLUSTER, choose_costs(None, CLUSTER), model=load_model("qwen2.5-vl-7b"), profile=engine
    )
    assert bare.metrics["ttft_s"]["mean"] < text.metrics["ttft_s"]["mean"] < seen.metrics["ttft_s"]["mean"]
    assert seen.run is not None
    encoder_s = seen.run.replicas.encoder_ps.sum() * 1e-12 / 6
    added_s = seen.metrics["ttft_s"]["mean"] - text.metrics["ttft_s"]["mean"]
    assert added_s == pytest.approx(encoder_s, rel=0.05)
    assert "encoder_frac" not in bare.metrics["breakdown"]
    shares = seen.metrics["breakdown"]
    assert sum(shares.values()) == pytest.approx(1.0)
    assert seen.metrics["breakdown_ops"]["encoder_frac"] == pytest.approx(shares["encoder_frac"])


def test_image_time_is_what_the_encoders_flops_take() -> None:
    """The time of an image lies between its FLOPs at the peak and at a fifth of it, and FLOPs are counted."""
    seen = _simulated("qwen2.5-vl-7b", "tp1", "1:1036x1036")
    assert seen.run is not None
    tower = load_model("qwen2.5-vl-7b").tower
    assert tower is not None
    parts = [*tower.token_ops(Plan(), 5476), *tower.attention_ops(Plan(), 5476**2)]
    flop = sum(float(op.flop()) * count for op, count in parts if isinstance(op, Gemm | Attention))
    assert flop == pytest.approx(7.9e12, rel=0.05)
    encoder_s = float(seen.run.replicas.encoder_ps.sum()) * 1e-12 / 6
    peak = CLUSTER.device.peak_flop_per_s["bf16"]
    assert flop / peak < encoder_s < 5 * flop / peak
    text = _simulated("qwen2.5-vl-7b", "tp1", None)
    seconds = [result.metrics["duration_s"] for result in (seen, text)]
    done = [
        result.metrics["mfu_frac"] * second * 8 * peak for result, second in zip((seen, text), seconds, strict=True)
    ]
    assert done[0] - done[1] > 6 * flop / 8


def test_a_tower_takes_memory_once_requests_hold_images() -> None:
    """Weights grow by the tower, activations by the rows of the encoder's budget, and blocks fall."""
    text = _serving("qwen2.5-vl-7b", ALONE)[1]
    seen = _serving("qwen2.5-vl-7b", ALONE, images="1:1024x1024")[1]
    tower = load_model("qwen2.5-vl-7b").tower
    assert tower is not None
    assert seen.memory.weights_bytes - text.memory.weights_bytes == tower.weight_bytes(Plan())
    assert seen.memory.activation_bytes > text.memory.activation_bytes
    assert seen.memory.num_gpu_blocks < text.memory.num_gpu_blocks
    assert (text.limits.encoder_budget, seen.limits.encoder_budget) == (0, 16_384)


def test_a_launch_command_loads_the_tower_it_needs() -> None:
    """Text is served without the tower (--language-model-only), images with it."""
    text, seen = (_simulated("qwen2.5-vl-7b", "tp1", images) for images in (None, "1:64x64"))
    assert "--language-model-only" in " ".join(text.launch)
    assert "--language-model-only" not in " ".join(seen.launch)


def test_whisper_is_served_end_to_end() -> None:
    """Every clip is encoded once; heads that a degree does not divide refuse the plan; no audio, no plan."""
    model = load_model("whisper-large-v3")
    workload = parse_workload("synthetic:isl=4,osl=60,rate=20,n=200", audio_s="5-30")
    result = simulate(parse_plan("dp2-tp2"), workload, CLUSTER, choose_costs(None, CLUSTER), model=model)
    assert result.run is not None
    assert result.run.replicas.items.sum() == 200
    assert result.run.replicas.item_tokens.sum() == 200 * 1500
    assert 0 < result.metrics["breakdown"]["encoder_frac"] < 1
    limits = result.start.server
    assert (limits.enable_chunked_prefill, limits.enable_prefix_caching) == (False, False)
    with pytest.raises(InfeasibleError, match="tp is 8, must divide the 20 attention heads"):
        simulate(parse_plan("tp8"), workload, CLUSTER, choose_costs(None, CLUSTER), model=model)
    stated = Overrides(enable_chunked_prefill=True)
    with pytest.raises(UserError, match="--chunked-prefill cannot act"):
        simulate(Plan(), workload, CLUSTER, choose_costs(None, CLUSTER), model=model, overrides=stated)
    bare = Serving(
        model=model, cluster=CLUSTER, profile=load_profile("vllm-0.33"), costs=lambda _c: choose_costs(None, CLUSTER)
    )
    refusal = bare.start(Plan(), parse_workload("synthetic:isl=4,osl=60,n=3"))
    assert isinstance(refusal, Refusal)
    assert "has nothing to run" in refusal.reason


def test_t5_is_simulated_where_it_is_allowed() -> None:
    """No engine serves it, so it takes --allow-unsupported; then prompts cost the encoder and answers the decoder."""
    model, workload = bind_workload(
        from_hf_config(T5, name="t5-small"), parse_workload("synthetic:isl=200,osl=20,n=20,rate=50")
    )
    serving = Serving(
        model=model, cluster=CLUSTER, profile=load_profile("vllm-0.33"), costs=lambda _c: choose_costs(None, CLUSTER)
    )
    refused = serving.start(Plan(), workload)
    assert isinstance(refused, Refusal)
    assert "does not serve t5" in refused.reason
    started = replace(serving, allow_unsupported=True).start(Plan(), workload)
    assert isinstance(started, StartedPlan)
    assert started.limits.encoder_budget >= 200
    tables = started.compiled.tables()
    assert tables.encoder is not None
    assert (tables.encoder.token_ps[1:] > 0).all()


def test_ends_of_the_interval_hold_the_encoder_too() -> None:
    """The encoder's tables at the high end are nowhere below the best estimate, at the low end nowhere above."""
    compiled = _serving("mistral-small-3.2-24b", ALONE, images="1:1024x1024")[1].compiled
    low, middle, high = (compiled.tables(end).encoder for end in ("low", "middle", "high"))
    assert low is not None
    assert middle is not None
    assert high is not None
    for name in ("token_ps", "pair_ps"):
        assert (getattr(low, name) <= getattr(middle, name)).all()
        assert (getattr(middle, name) <= getattr(high, name)).all()
        assert getattr(high, name).sum() > getattr(middle, name).sum()


def test_a_prefill_pool_runs_the_encoder() -> None:
    """Of two pools the one that computes prompts encodes each image once, and the answer waits for it."""
    model, workload = bind_workload(load_model("qwen2.5-vl-7b"), parse_workload(ALONE, images="2:640x480"))
    serving = Serving(
        model=model, cluster=CLUSTER, profile=load_profile("vllm-0.33"), costs=lambda _c: choose_costs(None, CLUSTER)
    )
    layout = parse_layout("prefill.tp1+decode.tp1")
    started = start_layout(serving, layout, workload)
    assert not isinstance(started, Refusal)
    result = replay_layout(serving, started, workload, Slo())
    assert result.metrics["finished"] == 6
    pools = [result.metrics[name] for name in ("prefill", "decode")]
    assert [("encoder_frac" in shares) for shares in pools] == [True, False]
    alone = _simulated("qwen2.5-vl-7b", "tp1", "2:640x480")
    assert result.metrics["ttft_s"]["mean"] > alone.metrics["ttft_s"]["mean"]


def test_shapes_of_an_encoder_are_listed_where_requests_have_items() -> None:
    """A manifest for images holds the tower's matrices, one for text none of them; Whisper's always hold both sides."""
    vision, audio = load_model("qwen2.5-vl-7b"), load_model("whisper-large-v3")
    profile = load_profile("vllm-0.33")

    def widths(model: ModelSpec, **media: str) -> set[tuple[int, int]]:
        found = collect_shapes([(model, [Plan()])], CLUSTER, profile, overrides=Overrides(), **media)
        return {(int(row["n"]), int(row["k"])) for row in found.rows["gemm"].values()}

    text, seen = widths(vision), widths(vision, images="1:64x64")
    assert text < seen
    assert {(3 * 1280, 1280), (1280, 1176), (3584, 5120)} <= seen - text
    assert {(1280, 3 * 128), (1280, 3 * 1280), (2 * 1280, 1280)} <= widths(audio)


def test_spread_images_trade_weights_for_all_reduces() -> None:
    """Whole images over tensor ranks: one image takes one rank's time, two as long, weights are on every rank."""
    model, workload = bind_workload(load_model("qwen2.5-vl-7b"), parse_workload(ALONE, images="1:1036x1036"))
    profile = load_profile("vllm-0.33")
    spread = with_encoder_mode(model, profile, "data")
    assert model.encoder is not None
    assert spread.encoder is not None
    assert spread.encoder.weight_bytes(Plan(tp=4)) == model.encoder.weight_bytes(Plan())
    assert spread.encoder.refusal(Plan(tp=3)) is None
    costs = choose_costs(None, CLUSTER)
    tables = {}
    for name, served in (("weights", model), ("data", spread)):
        serving = Serving(model=served, cluster=CLUSTER, profile=profile, costs=lambda _c: costs)
        start = serving.start(parse_plan("tp4"), workload)
        assert isinstance(start, StartedPlan)
        encoder = start.compiled.tables().encoder
        assert encoder is not None
        assert encoder.ranks == (4 if name == "data" else 1)
        tables[name] = encoder
    whole = float(np.interp(5476, tables["data"].token_knots, tables["data"].token_ps))
    cut = float(np.interp(5476, tables["weights"].token_knots, tables["weights"].token_ps))
    assert cut < whole < 4 * cut
    results = [
        simulate(
            parse_plan("tp4"),
            parse_workload(ALONE, images=f"{count}:1036x1036"),
            CLUSTER,
            costs,
            model=load_model("qwen2.5-vl-7b"),
            overrides=Overrides(mm_encoder_tp_mode="data"),
        )
        for count in (1, 2)
    ]
    runs = [result.run for result in results if result.run is not None]
    assert runs[0].replicas.encoder_ps.sum() == runs[1].replicas.encoder_ps.sum()
    assert "--mm-encoder-tp-mode data" in " ".join(results[0].launch)


@pytest.mark.parametrize(
    ("model", "engine", "images", "said"),
    [
        ("mistral-small-3.2-24b", "vllm-0.33", "1:64x64", "does not spread images of mistral3 models"),
        ("qwen2.5-vl-7b", "tensorrt-llm-1.2", "1:64x64", "does not spread images of qwen2_5_vl models"),
        ("qwen2.5-vl-7b", "vllm-0.33", None, "cannot act: no encoder runs for these requests"),
    ],
)
def test_a_mode_that_cannot_act_is_refused(model: str, engine: str, images: str | None, said: str) -> None:
    """An engine that does not spread a model's images, and requests without any."""
    served, _ = bind_workload(load_model(model), parse_workload(ALONE, images=images))
    with pytest.raises(UserError, match=said):
        with_encoder_mode(served, load_profile(engine), "data")
