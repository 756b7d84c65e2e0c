"""The context an engine version derives from a config: which rope scalings lengthen it, and from what."""

from typing import Any

import numpy as np
import pytest

from cluster_specs.errors import UserError
from simulator.engine_profiles.bundled_profiles import bundled_profiles
from simulator.engine_profiles.engine_profile import load_profile
from simulator.feasible.context import context_note, context_of
from simulator.model.load_model import bundled_models, from_hf_config, load_model
from simulator.model.spec import ModelSpec
from simulator.workload.workload import Workload
from tests.simulator.deployments import serving_of

_QWEN: dict[str, Any] = {
    "model_type": "qwen3",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "vocab_size": 1000,
    "max_position_embeddings": 40960,
    "hidden_act": "silu",
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
_ENGINES = ("vllm-0.6", "vllm-0.10", "vllm-0.11", "vllm-0.18", "vllm-0.33", "sglang-0.5", "tensorrt-llm-1.0")


def _limits(changes: dict[str, Any]) -> list[int]:
    model = from_hf_config(_QWEN | changes, name="long")
    return [context_of(model, load_profile(engine)).limit for engine in _ENGINES]


@pytest.mark.parametrize(
    ("scaling", "limits"),
    [
        (_YARN, [131_072, 131_072, 131_072, 131_072, 40_960, 40_960, 40_960]),
        ({"type": "yarn"} | {key: _YARN[key] for key in _YARN if key != "rope_type"}, [131_072] * 4 + [40_960] * 3),
        ({"rope_type": "linear", "factor": 2.0}, [81_920] * 7),
        ({"rope_type": "dynamic", "factor": 2.5}, [102_400] * 7),
        (
            {"rope_type": "dynamic", "factor": 2, "original_max_position_embeddings": 8192},
            [81_920] * 5 + [40_960, 81_920],
        ),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, [40_960] * 7),
        ({"type": "su", "long_factor": [1.0], "short_factor": [1.0]}, [40_960] * 7),
        ({"rope_type": "default", "mrope_section": [16, 24, 24], "type": "mrope"}, [40_960] * 7),
        ({"rope_type": "linear", "factor": None}, [40_960] * 7),
        (None, [40_960] * 7),
    ],
)
def test_each_version_counts_a_factor_as_its_source_does(scaling: dict[str, Any] | None, limits: list[int]) -> None:
    """YaRN's counted in vLLM until pull 56446; SGLang counts none that has an original length beside it."""
    assert _limits({"rope_scaling": scaling}) == limits
    if scaling is None or "rope_type" in scaling:
        assert _limits({"rope_parameters": scaling}) == limits  # as transformers 5 spells it


def test_kinds_of_layers_may_have_scalings_of_their_own() -> None:
    """Nested ``rope_parameters`` hold one object per kind of layer."""
    nested = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": _YARN}
    assert _limits({"rope_parameters": nested})[3:5] == [131_072, 40_960]


def test_a_text_decoder_brings_its_own_scaling() -> None:
    """A multimodal wrapper's ``text_config`` is where lengths stand."""
    wrapper = {"model_type": "qwen3_vl", "text_config": _QWEN | {"model_type": "qwen3_vl_text", "rope_scaling": _YARN}}
    wrapper["text_config"]["num_key_value_heads"] = 8  # the class's own default is 32
    model = from_hf_config(wrapper, name="vl")
    assert context_of(model, load_profile("vllm-0.18")).limit == 131_072
    assert context_of(model, load_profile("vllm-0.33")).limit == 40_960


def test_long_rope_starts_at_the_trained_length() -> None:
    """Its whole context must be asked for, from the version on that keeps short sequences on short factors."""
    phi = {"rope_scaling": {"type": "longrope"}, "original_max_position_embeddings": 4096}
    model = from_hf_config(_QWEN | phi, name="phi")
    found = [
        (context.limit, context.default) for context in (context_of(model, load_profile(e)) for e in _ENGINES[2:5])
    ]
    assert found == [(40_960, 40_960), (40_960, 4096), (40_960, 4096)]


def test_a_stated_longest_length_comes_first() -> None:
    """``model_max_length`` is the context of checkpoints that have it, such as Cohere's."""
    assert _limits({"model_max_length": 131_072}) == [131_072] * 7


def test_the_factor_of_gemma_3_counts_for_nobody_but_sglang() -> None:
    """Its max_position_embeddings is scaled already, which vLLM knows by name."""
    model = from_hf_config(_QWEN | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, name="x")
    object.__setattr__(model, "architecture", "gemma3")
    assert context_of(model, load_profile("vllm-0.33")).limit == 40_960
    assert context_of(model, load_profile("sglang-0.5")).limit == 8 * 40_960


@pytest.mark.parametrize("engine", bundled_profiles())
def test_bundled_models_keep_their_published_context(engine: str) -> None:
    """No bundled config's context depends on the engine."""
    for name in bundled_models():
        model = load_model(name)
        assert context_of(model, load_profile(engine)).limit == (model.positions.model_max_length or model.max_position)


@pytest.mark.parametrize(
    ("scaling", "said"),
    [
        ({"factor": 4.0}, "rope_type"),
        ({"rope_type": "yarn", "type": "linear", "factor": 4.0}, "'type'"),
        ({"rope_type": "yarn", "factor": "4"}, "factor"),
        ({"rope_type": "yarn", "factor": float("nan")}, "factor"),
        ({"rope_type": "yarn", "factor": 0}, "factor"),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1.5},
            "original_max_position_embeddings",
        ),
        ("yarn", "rope_scaling"),
    ],
)
def test_what_is_no_scaling_is_refused_by_its_key(scaling: object, said: str) -> None:
    """Place, value and limit, before anything is simulated."""
    with pytest.raises(UserError, match=said):
        from_hf_config(_QWEN | {"rope_scaling": scaling}, name="x")


def test_yarn_without_its_trained_length_stops_where_the_engine_would() -> None:
    """Versions that count from the trained length fail without it; later ones do not need it."""
    model = from_hf_config(_QWEN | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, name="x")
    with pytest.raises(UserError, match="original_max_position_embeddings"):
        context_of(model, load_profile("vllm-0.18"))
    assert context_of(model, load_profile("vllm-0.33")).limit == 40_960


def _long() -> ModelSpec:
    return from_hf_config(_QWEN | {"rope_scaling": _YARN}, name="long")


_LONG = Workload(
    name="long", arrival_s=np.zeros(1), prompt_tokens=np.array([100_000]), output_tokens=np.array([10], dtype=np.int64)
)


def test_a_length_beyond_the_context_is_refused_with_the_way_out() -> None:
    """Both numbers, the version and what to change."""
    assert serving_of(_long(), "h100-sxm-1", "vllm-0.18", max_model_len=131_072).max_model_len(_LONG) == 131_072
    with pytest.raises(UserError, match="at most 131072"):
        serving_of(_long(), "h100-sxm-1", "vllm-0.18", max_model_len=131_073).max_model_len(_LONG)
    with pytest.raises(UserError, match=r"at most 40960.*vllm-0\.33") as caught:
        serving_of(_long(), "h100-sxm-1", "vllm-0.33", max_model_len=131_072).max_model_len(_LONG)
    assert "max_position_embeddings" in caught.value.hint


def test_the_answer_says_what_a_scaling_made_of_the_context() -> None:
    """A factor that counts and one that does not are both told."""
    for engine, said in (("vllm-0.18", "131072"), ("vllm-0.33", "40960")):
        serving = serving_of(_long(), "h100-sxm-1", engine)
        note = context_note(serving.model, serving.profile)
        assert note is not None
        assert said in note
        assert note in serving.price_notes()
    assert context_note(load_model("llama-3.1-8b"), load_profile("vllm-0.33")) is None
