"""Bundled engine profiles: complete, named like their files, with the differences between versions that matter."""

import re
from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from cluster_specs.load import load_cluster, load_device
from simulator.engine_profiles.bundled_profiles import bundled_path, bundled_profiles, release_in
from simulator.engine_profiles.engine_profile import check_profile, load_profile
from simulator.engine_profiles.inheritance import merge_profile
from simulator.plan.plan import Plan, parse_plan
from tests.cluster_specs.exact import exact


@pytest.mark.parametrize("name", bundled_profiles())
def test_a_profile_is_what_its_file_is_called(name: str) -> None:
    """Name, engine and file agree, limits cover every device, and each states where its times come from."""
    profile = load_profile(name)
    assert profile.name == name
    assert name.startswith(profile.engine)
    assert profile.release == release_in(name)
    assert profile.batch_limits(load_device("v100-sxm2")).max_num_seqs > 0
    assert len(profile.host.source) > 20


@pytest.mark.parametrize("name", bundled_profiles())
def test_a_bundled_profile_needs_no_check(name: str) -> None:
    """It passes the checks of a person's profile, and is the same without them, to the type of every number."""
    assert exact(check_profile(merge_profile(name))) == exact(load_profile(name))


@pytest.mark.parametrize(
    ("profile", "device", "tokens", "seqs"),
    [
        ("vllm-0.33", "l40s", 2048, 256),
        ("vllm-0.33", "a100-sxm-40gb", 2048, 256),
        ("vllm-0.33", "a100-sxm-80gb", 2048, 256),  # 79 GiB, but an A100
        ("vllm-0.33", "h100-sxm", 8192, 1024),
        ("vllm-0.33", "h200-sxm", 8192, 1024),
        ("vllm-0.33", "gh200-96gb", 8192, 1024),
        ("vllm-0.33", "gh200-144gb", 8192, 1024),
        ("vllm-0.33", "rtx-pro-6000", 8192, 1024),
        ("vllm-0.33", "rtx-5090", 2048, 256),
        ("vllm-0.33", "b200", 16384, 1024),
        ("vllm-0.33", "mi300x", 16384, 1024),
        # Before its third class of memory, everything from 70 GiB on was one.
        ("vllm-0.18", "b200", 8192, 1024),
        ("vllm-0.18", "mi300x", 8192, 1024),
        ("vllm-0.18", "a100-sxm-80gb", 2048, 256),
        ("vllm-0.11", "b200", 8192, 1024),
        ("vllm-0.11", "a100-sxm-80gb", 2048, 256),
        ("vllm-0.10", "h200-sxm", 8192, 1024),
        ("vllm-0.10", "a100-sxm-80gb", 2048, 256),
        ("vllm-0.6", "a100-sxm-80gb", 512, 256),
        ("sglang-0.5", "a10g", 2048, 2048),
        ("sglang-0.5", "l40s", 4096, 2048),
        ("sglang-0.5", "a100-sxm-80gb", 8192, 2048),
        ("sglang-0.5", "h200-sxm", 8192, 2048),
        ("sglang-0.5", "b200", 16384, 2048),
        ("tensorrt-llm-1.0", "h100-sxm", 8192, 2048),
        ("tensorrt-llm-1.2", "b200", 8192, 2048),
    ],
)
def test_limits_are_those_of_the_device_in_that_version(profile: str, device: str, tokens: int, seqs: int) -> None:
    """Every engine chooses its default limits by memory, and by name where its source does."""
    limits = load_profile(profile).batch_limits(load_device(device))
    assert (limits.max_num_batched_tokens, limits.max_num_seqs) == (tokens, seqs)


def test_a_cpu_server_has_limits_per_rank() -> None:
    """On CPU cores each tensor- or pipeline-parallel rank has 2,048 tokens and 128 sequences, whatever its memory."""
    profile = load_profile("vllm-0.33")
    cpu = load_device("cpu")
    for device in (cpu, cpu.model_copy(update={"memory_bytes": 512 * 2**30})):
        limits = profile.batch_limits(device, parse_plan("pp2-tp4"))
        assert (limits.max_num_batched_tokens, limits.max_num_seqs) == (8 * 2048, 8 * 128)


@pytest.mark.parametrize(
    ("profile", "device", "plan", "last"),
    [
        ("vllm-0.33", "h100-sxm", "tp1", 512),
        ("vllm-0.33", "b200", "tp1", 1024),
        ("vllm-0.33", "gb300", "tp1", 1024),
        ("vllm-0.33", "mi300x", "tp1", 512),
        ("vllm-0.18", "b200", "tp1", 512),
        ("sglang-0.5", "a10g", "tp1", 24),
        ("sglang-0.5", "a10g", "tp4", 80),
        ("sglang-0.5", "h100-sxm", "tp2", 256),
        ("sglang-0.5", "h100-sxm", "attn.dp2-tp2", 512),
        ("sglang-0.5", "b200", "tp1", 512),
    ],
)
def test_graphs_end_where_the_device_s_do(profile: str, device: str, plan: str, last: int) -> None:
    """The largest captured graph depends on the device's class and, in SGLang, on the ranks of a replica."""
    here = load_profile(profile).on(load_device(device), parse_plan(plan))
    assert here.graphs.capture_sizes(4096)[-1] == last


def test_graph_sizes_stop_at_twice_the_sequences() -> None:
    """The engine captures up to 2 x max_num_seqs, and never beyond its own end."""
    profile = load_profile("vllm-0.33")
    assert profile.graphs.capture_sizes(8)[-1] == 16
    assert profile.graphs.capture_sizes(10_000)[-1] == 512


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


def test_the_page_of_engines_names_every_profile() -> None:
    """The table of docs/reference/engines.md has a row for each bundled profile and no other."""
    page = (Path(__file__).parents[2] / "docs" / "reference" / "engines.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    assert sorted(set(listed) ^ set(bundled_profiles())) == []


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
        (("block_size = 16", "block_size = 9223372036854775808"), "block_size is 9223372036854775808, must be"),
        (("block_size = 16", "block_size = true"), "block_size is True, must be a valid integer"),
        (("block_size = 16", "block_size = 16.0"), "block_size is 16.0, must be a valid integer"),
        (("max_num_seqs = 256", "max_num_seqs = 1048577"), "must be less than or equal to 1048576"),
        (("max_tokens = 512", "max_tokens = 100000000"), "graphs.max_tokens is 100000000, must be less than or equal"),
        (("max_tokens = 512", "max_tokens = 9223372036854775808"), "graphs.max_tokens is 9223372036854775808, must"),
        (("sizes = [1, 2, 4, 8,", "sizes = [1, 2147483648, 4, 8,"), "graphs.sizes[1] is 2147483648, must be less"),
        (("sizes = [1, 2, 4, 8,", "sizes = [1, 4, 2, 8,"), "graphs.sizes: 2 follows 4, must be ascending"),
        (("sizes = [1, 2, 4, 8,", "sizes = [1, 2, 2, 8,"), "graphs.sizes: 2 follows 2, must be ascending"),
        (("step_s = { value = 0.0015", "step_s = { value = nan"), "host.step_s is nan, must be"),
        (("error = 11e-6", "error = 45e-6"), "host.launch_s: error is 4.5e-05, must be a number from 0 to the value"),
        (("error = 11e-6", "error = -1e-6"), "host.launch_s: error is -1e-06, must be a number from 0 to the value"),
        (("error = 11e-6", "error = true"), "host.launch_s: error is True, must be a number from 0 to the value"),
        (("error = 11e-6", "eror = 11e-6"), "must be a number or { value = NUMBER, error = NUMBER }"),
        (("own_step_frac = 0.05", "own_step_frac = 0.3"), "spread: own_step_frac is 0.3, must be at most step_frac"),
        (("min_memory_gib = 0\nmax", "min_memory_gib = 1\nmax"), "limits: none is for every device"),
    ],
)
def test_a_faulty_profile_is_refused_with_its_place(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    """A person's profile is read whole or refused in one message with file, key, value, limit and hint."""
    bundled = bundled_path("vllm-0.10")
    path = tmp_path / "mine.toml"
    path.write_text(bundled.read_text(encoding="utf-8").replace(*change, 1), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_profile(str(path))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("device", "plan", "mebibytes"),
    [
        # 512, 1.5 per token of a chunk of 8,192, 2 per sequence of the largest graph, 128 per rank.
        ("h100-sxm", "tp1", 512 + 12_288 + 2 * 256 + 128),
        ("h100-sxm", "tp4", 512 + 12_288 + 2 * 512 + 4 * 128),
        ("b200", "tp8", 512 + 24_576 + 2 * 512 + 8 * 128),
        ("l40s", "tp1", 512 + 6_144 + 2 * 32 + 128),
        # Attention data-parallel: 3 more per graph sequence and attention rank, 4.5 where graphs have over 300.
        ("h100-sxm", "attn.dp2-tp1", 512 + 12_288 + 2 * 256 + 2 * 128 + 3 * 256 * 2),
        ("h100-sxm", "attn.dp8-tp1", 512 + 12_288 + 2 * 512 + 8 * 128 + 4.5 * 512 * 8),
    ],
)
def test_sglang_leaves_memory_free_by_its_own_rule(device: str, plan: str, mebibytes: float) -> None:
    """What SGLang keeps free is counted from chunk, graphs and ranks, as its server arguments do."""
    spec, layout = load_device(device), parse_plan(plan)
    here = load_profile("sglang-0.5").on(spec, layout)
    tokens = here.batch_limits(spec, layout).max_num_batched_tokens
    share = here.memory_utilization(spec.memory_bytes, max_num_batched_tokens=tokens, plan=layout)
    assert share == round(1 - mebibytes * 2**20 / spec.memory_bytes, 3)


def test_sglang_leaves_ten_gibibytes_of_large_devices_free() -> None:
    """A small chunk does not take the whole device: 10 GiB stay free where there are more than 60."""
    profile, free = load_profile("sglang-0.5"), []
    for device in (load_device("h100-sxm"), load_device("l40s")):
        here = profile.on(device, Plan())
        share = here.memory_utilization(device.memory_bytes, max_num_batched_tokens=512, plan=Plan())
        free.append((1 - share) * device.memory_bytes / 2**20)
    assert free == pytest.approx([10_240, 512 + 1.5 * 2048 + 2 * 32 + 128], abs=0.0005 * 80 * 1024)


def test_vllm_takes_a_fraction() -> None:
    """An engine without a rule of its own takes the same share of a device whatever it runs."""
    for tokens in (512, 8192):
        assert load_profile("vllm-0.11").memory_utilization(2**36, max_num_batched_tokens=tokens, plan=Plan()) == 0.9
