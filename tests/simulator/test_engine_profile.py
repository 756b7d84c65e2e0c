"""Bundled engine profiles: complete, named like their files, with the differences between versions that matter."""

from pathlib import Path

import pytest

import simulator.engine_profile
from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster
from simulator.engine_profile import bundled_profiles, load_profile


@pytest.mark.parametrize("name", bundled_profiles())
def test_a_profile_is_what_its_file_is_called(name: str) -> None:
    """Name, engine and file agree, limits cover every device, and each states where its times come from."""
    profile = load_profile(name)
    assert profile.name == name
    assert name.startswith(profile.engine)
    assert profile.batch_limits(0).max_num_seqs > 0
    assert len(profile.host.source) > 20


def test_large_devices_get_large_batches() -> None:
    """The API server of vLLM doubles its token budget at 160 GiB."""
    profile = load_profile("vllm-0.33")
    budgets = [profile.batch_limits(gib * 2**30).max_num_batched_tokens for gib in (24, 80, 180)]
    assert budgets == [2048, 8192, 16384]


def test_graph_sizes_stop_at_twice_the_sequences() -> None:
    """The engine captures up to 2 x max_num_seqs, and never beyond its own end."""
    profile = load_profile("vllm-0.33")
    assert profile.capture_sizes(8)[-1] == 16
    assert profile.capture_sizes(10_000)[-1] == 512


def test_versions_differ_where_their_engines_do() -> None:
    """0.6 schedules synchronously and prefills without graphs; the ideal one is free."""
    old, new, ideal = (load_profile(name) for name in ("vllm-0.6", "vllm-0.18", "orca"))
    assert not old.async_scheduling
    assert old.graphs.mixed == "none"
    assert old.host.sequence_s > new.host.sequence_s
    assert (ideal.host.step_s, ideal.host.sequence_s, ideal.host.launch_s) == (0.0, 0.0, 0.0)


def test_the_kernel_of_mxfp4_experts_follows_version_and_device() -> None:
    """Hopper runs Marlin until the wheel brings Triton's kernels; a device's name decides before its architecture."""
    kernels = {
        (engine, cluster): load_profile(engine).mxfp4_experts.on(load_cluster(cluster).device)
        for engine in ("vllm-0.10", "vllm-0.18", "vllm-0.33")
        for cluster in ("a100-sxm-80gb-1", "h100-sxm-1", "b200-1", "rtx-5090-1")
    }
    assert [kernels[engine, "h100-sxm-1"] for engine in ("vllm-0.10", "vllm-0.18", "vllm-0.33")] == [
        "marlin",
        "triton",
        "triton",
    ]
    assert [kernels[engine, "b200-1"] for engine in ("vllm-0.18", "vllm-0.33")] == ["trtllm_256", "trtllm"]
    assert {kernels[engine, "a100-sxm-80gb-1"] for engine, _ in kernels} == {"marlin"}
    assert {kernels[engine, "rtx-5090-1"] for engine, _ in kernels} == {"marlin"}


def test_an_unknown_profile_names_its_neighbours() -> None:
    """A typing error is answered with what was probably meant."""
    with pytest.raises(UserError) as caught:
        load_profile("vllm-0.3")
    assert "vllm-0.33" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("block_size = 16", "block_size = 0"), "block_size is 0, must be greater than 0"),
        (("block_size = 16\n", ""), "block_size: missing"),
        (("block_size = 16", "block_size = 16\nblocksize = 16"), "blocksize: unknown key"),
        (("block_size = 16", "block_size = "), "cannot be read"),
    ],
)
def test_a_faulty_profile_is_refused_with_its_place(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    """A person's profile is read whole or refused in one message with file, key, value, limit and hint."""
    bundled = Path(simulator.engine_profile.__file__).parent / "engine_profiles" / "vllm-0.33.toml"
    path = tmp_path / "mine.toml"
    path.write_text(bundled.read_text(encoding="utf-8").replace(*change, 1), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_profile(str(path))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.hint


def test_memory_is_reserved_by_rule_or_by_fraction() -> None:
    """SGLang leaves 14,336 MiB of a device free at tp 4 and 8,192-token chunks, vLLM a tenth of it whatever it runs."""
    eighty = 80 * 2**30
    asked = {"max_num_batched_tokens": 8192, "ranks": 4}
    assert load_profile("vllm-0.11").memory_utilization(eighty, **asked) == 0.9
    free_bytes = eighty * (1 - load_profile("sglang-0.5").memory_utilization(eighty, **asked))
    assert free_bytes / 2**20 == pytest.approx(512 + 1.5 * 8192 + 2 * 512 + 128 * 4)
