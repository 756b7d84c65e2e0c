"""The commands that start a plan carry what the simulation assumed, in the engine's own flags."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster_specs.load import load_cluster
from simulator.launch import launch_lines
from simulator.launch.remarks import cap_line, clock_line
from simulator.plan.plan import parse_plan
from simulator.plan.pool_plan import PoolPlan, parse_layout
from simulator.pools.disaggregation import PoolStarts, start_pools
from simulator.serving import Refusal, Serving
from simulator.simulate import limits_facts
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import launch_of_pools, serving_of, start_of


def _lines(serving: Serving, plan: str) -> tuple[str, ...]:
    return launch_lines(serving, start_of(serving, plan, parse_workload("chat-synthetic", limit=20)))


@pytest.mark.parametrize(
    ("model", "cluster", "plan", "flags", "servers"),
    [
        ("llama-3.1-8b", "h100-sxm-8", "dp2-pp2-tp2", "-t 2 -p 2 -d 2", 1),
        ("llama-3.1-8b", "h100-sxm-16x8", "dp16-tp8", "-t 8", 16),
        ("llama-3.1-8b", "h100-sxm-2x8", "dp8-tp2", "-t 2 -d 4", 2),
        ("mixtral-8x7b", "h100-sxm-8", "dp2-tp4", "-t 4", 2),
        ("mixtral-8x7b", "h100-sxm-8", "attn.dp4-tp2-moe.ep8", "-t 2 -d 4 -e", 1),
        ("llama-3.1-405b", "h100-sxm-2x8", "pp2-tp8", "-t 8 -p 2 -n", 1),
        ("qwen3-30b-a3b", "h100-sxm-2x8", "attn.dp8-tp2-moe.ep16", "-t 2 -d 8 -e -n", 1),
    ],
)
def test_vllm_gets_the_degrees_of_the_plan(model: str, cluster: str, plan: str, flags: str, servers: int) -> None:
    """Data parallelism is inside a server for dense replicas of one node and for attention, else more servers."""
    spelt = {
        "-t": "--tensor-parallel-size",
        "-p": "--pipeline-parallel-size",
        "-d": "--data-parallel-size",
        "-e": "--enable-expert-parallel",
        "-n": "--nnodes 2 --master-addr HEAD --node-rank RANK --headless",
    }
    wanted = " ".join(spelt.get(part, part) for part in flags.split())
    lines = _lines(serving_of(model, cluster), plan)
    assert lines[-1].startswith(f"vllm serve MODEL {wanted} --kv-cache-dtype auto ")
    assert [line for line in lines if " servers of " in line] == [
        line for line in lines if line.startswith(f"# {servers} servers of ")
    ]
    assert any(" servers of " in line for line in lines) == (servers > 1)


def test_a_server_of_several_nodes_has_a_first_one() -> None:
    """The first node listens, the others run headless; every one is told its rank and all limits."""
    lines = _lines(serving_of("deepseek-v3", "h200-sxm-4x8"), "attn.dp2-tp16-moe.ep32")
    first, other = (line for line in lines if not line.startswith("#"))
    assert " --nnodes 4 --master-addr HEAD --node-rank 0 " in first
    assert first.replace("--node-rank 0", "--node-rank RANK --headless") == other


def test_a_server_wider_than_a_tray_is_started_on_several() -> None:
    """Trays of one NVLink domain are computers of their own: eight GPUs of a rack are two servers' halves."""
    text = "\n".join(_lines(serving_of("llama-3.1-8b", "gb200-18x4"), "tp8"))
    assert "each server spans 2 nodes" in text
    assert "--nnodes 2" in text
    assert "--nnodes" not in "\n".join(_lines(serving_of("llama-3.1-8b", "gb200-18x4"), "tp4"))


def test_old_versions_span_nodes_by_ray() -> None:
    """VLLM 0.11 joins nodes by Ray, a node's attention ranks local, and places no attention rank over two nodes."""
    ranks = _lines(serving_of("qwen3-30b-a3b", "h100-sxm-2x8", "vllm-0.11"), "attn.dp8-tp2-moe.ep16")[-1]
    assert "--data-parallel-backend ray --data-parallel-size-local 4" in ranks
    stages = _lines(serving_of("llama-3.1-405b", "h100-sxm-2x8", "vllm-0.11"), "pp2-tp8")[-1]
    assert "--distributed-executor-backend ray" in stages
    (line,) = _lines(serving_of("deepseek-v3", "h200-sxm-4x8", "vllm-0.11"), "attn.dp2-tp16-moe.ep32")
    assert line == "# no command: vllm-0.11 places no attention rank of 16 devices over several nodes"


def test_v0_engines_have_no_data_parallelism() -> None:
    """Replicas of vLLM 0.6, which knows no data-parallel size, are servers."""
    *_, remark, command = _lines(serving_of("llama-3.1-8b", "h100-sxm-8", "vllm-0.6"), "dp2-tp4")
    assert remark.startswith("# 2 servers of 4 devices each")
    assert "--data-parallel-size" not in command


def test_v0_engines_have_no_negated_flags() -> None:
    """Version 0.6 turns chunking off by a value, caches no prefixes unless asked, and then fits whole prompts."""
    serving = serving_of(
        "llama-3.1-8b", "h100-sxm-1", "vllm-0.6", enable_chunked_prefill=False, enable_prefix_caching=False
    )
    assert _lines(serving, "tp1")[-1] == (
        "vllm serve MODEL --kv-cache-dtype auto --max-model-len 3072 --max-num-seqs 256 --max-num-batched-tokens 3072 "
        "--gpu-memory-utilization 0.9 --block-size 16 --enable-chunked-prefill False"
    )


def test_every_limit_simulated_is_in_the_command() -> None:
    """Defaults too: an engine decides them by the device it finds, and newer versions decide otherwise."""
    command = _lines(serving_of("llama-3.1-8b", "h100-sxm-1"), "tp1")[-1]
    assert command == (
        "vllm serve MODEL --kv-cache-dtype auto --max-model-len 3072 --max-num-seqs 1024 --max-num-batched-tokens 8192 "
        "--gpu-memory-utilization 0.92 --block-size 16 --enable-prefix-caching --enable-chunked-prefill "
        "--async-scheduling --scheduler-reserve-full-isl"
    )


def test_a_closed_loop_does_not_narrow_the_server() -> None:
    """The scheduler's tables are as wide as the client's concurrency, the server as wide as it would be without it."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-1", max_num_seqs=96)
    start = serving.start(parse_plan("tp1"), parse_workload("closed:isl=100,osl=10,concurrency=4"))
    assert not isinstance(start, Refusal), start.reason
    assert start.limits.max_num_seqs == 4
    assert "--max-num-seqs 96 " in launch_lines(serving, start)[-1]
    assert limits_facts(start)["max_num_seqs"] == 96


def test_formats_limits_and_clock_reach_the_command() -> None:
    """What the plan or the user states is in the command."""
    serving = serving_of(
        "llama-3.1-8b", "h100-sxm-8", max_num_seqs=64, enable_prefix_caching=False, gpu_memory_utilization=0.8
    )
    clock, *_, command = _lines(serving, "tp8-w.fp8-kv.fp8-f1410-t4096")
    assert clock.startswith("nvidia-smi --lock-gpu-clocks=1410,1410")
    for pair in (
        "--quantization fp8",
        "--kv-cache-dtype fp8",
        "--max-num-seqs 64",
        "--max-num-batched-tokens 4096",
        "--gpu-memory-utilization 0.8",
        "--no-enable-prefix-caching",
    ):
        assert pair in command


@pytest.mark.parametrize(
    ("cluster", "line"),
    [
        ("h100-sxm-8", "nvidia-smi --lock-gpu-clocks=1410,1410"),
        ("mi300x-8", "amd-smi set --gpu all --perf-determinism 1410"),
        ("cpu-2", "# hold the devices at 1410 MHz"),
    ],
)
def test_the_clock_is_held_by_the_vendors_own_tool(cluster: str, line: str) -> None:
    """NVIDIA's and AMD's are known; for other devices the remark says that a clock was simulated."""
    assert clock_line(load_cluster(cluster).device, 1410).startswith(line)


@pytest.mark.parametrize(
    ("cluster", "line"),
    [
        ("h100-sxm-8", "nvidia-smi -pl 350 "),
        ("mi300x-8", "amd-smi set --gpu all --power-cap 350 "),
        ("cpu-2", "# cap the devices at 350 W: no command is known"),
    ],
)
def test_the_power_is_capped_by_the_vendors_own_tool(cluster: str, line: str) -> None:
    """NVIDIA's and AMD's are known; elsewhere, and where the cluster's own limit is lower, there is a remark."""
    device = load_cluster(cluster).device
    assert cap_line(device, 350.0).startswith(line)
    lower = device.model_copy(update={"power_cap_w": 300.0})
    assert cap_line(lower, 350.0).startswith("# the power cap of 350 W is above the 300 W")


@pytest.mark.parametrize(
    ("engine", "plan", "overrides", "flag"),
    [
        ("vllm-0.33", "pp2-tp4", {}, "--async-scheduling"),
        ("vllm-0.10", "tp8", {}, "--async-scheduling"),
        ("vllm-0.10", "pp2-tp4", {}, "--no-async-scheduling"),
        ("vllm-0.18", "tp8", {"speculative_tokens": 3, "speculative_acceptance": 0.5}, "--no-async-scheduling"),
        ("vllm-0.33", "tp8", {"speculative_tokens": 3, "speculative_acceptance": 0.5}, "--async-scheduling"),
    ],
)
def test_scheduling_ahead_is_what_that_version_can(
    engine: str, plan: str, overrides: dict[str, Any], flag: str
) -> None:
    """Old versions run pipelines and drafts one step at a time, which is simulated and stated."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-8", engine, **overrides)
    start = serving.start(parse_plan(plan), parse_workload("chat-synthetic", limit=20))
    assert not isinstance(start, Refusal), start.reason
    assert f" {flag}" in launch_lines(serving, start)[-1]
    assert start.limits.async_scheduling == (flag == "--async-scheduling")


def test_what_a_version_cannot_schedule_ahead_of_is_refused() -> None:
    """Stated for a version that stops at it, asynchronous scheduling is no plan."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-8", "vllm-0.10", async_scheduling=True)
    refusal = serving.start(parse_plan("pp2-tp4"), parse_workload("chat-synthetic", limit=20))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "vllm-0.10 does not schedule ahead with pipeline stages"


@pytest.mark.parametrize(
    ("model", "is_stated"), [("llama-3.1-8b", True), ("deepseek-v3", False), ("qwen3.5-27b", False)]
)
def test_a_block_that_kernels_choose_is_left_to_them(model: str, is_stated: bool) -> None:
    """Latent attention and states bring their own block size; stated by the user it is in the command all the same."""
    assert (" --block-size " in _lines(serving_of(model, "h200-sxm-8"), "tp8")[-1]) == is_stated
    assert " --block-size 64 " in _lines(serving_of(model, "h200-sxm-8", block_size=64), "tp8")[-1]


def test_graphs_that_are_not_the_versions_own_are_stated() -> None:
    """A profile of a user's own may capture other sizes, in other modes, or none."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-1")
    own = serving.profile.graphs
    for changed, flag in (
        ({"sizes": [1, 2, 4], "max_tokens": 4}, "--cudagraph-capture-sizes 1 2 4"),
        ({"decode": "piecewise"}, '--compilation-config \'{"cudagraph_mode": "PIECEWISE"}\''),
        ({"decode": "none", "mixed": "none"}, "--enforce-eager"),
    ):
        profile = serving.profile.model_copy(update={"graphs": own.model_copy(update=changed)})
        assert flag in _lines(replace(serving, profile=profile), "tp1")[-1]


def test_a_format_nobody_can_make_while_loading_needs_another_checkpoint() -> None:
    """4-bit weights come from a converted checkpoint, which the remark says; a stored format needs nothing."""
    remark, _, command = _lines(serving_of("llama-3.1-8b", "h100-sxm-1"), "tp1-w.w4a16")
    assert remark == "# MODEL is a checkpoint converted to w4a16"
    assert "--quantization" not in command
    assert "--quantization" not in _lines(serving_of("deepseek-v3", "h200-sxm-8"), "tp8")[-1]


def test_a_tower_left_out_is_said() -> None:
    """A multimodal checkpoint is simulated as its text decoder: a flag of newer versions, a remark for older ones."""
    assert " --language-model-only " in _lines(serving_of("qwen3.5-27b", "h100-sxm-1"), "tp1")[-1]
    old = _lines(serving_of("qwen3.5-27b", "h100-sxm-1", "vllm-0.11"), "tp1")
    assert "# the vision tower is not in the simulated memory" in old
    assert not any("tower" in line for line in _lines(serving_of("qwen3-32b", "h100-sxm-1"), "tp1"))


def test_a_length_taken_from_the_trace_is_said() -> None:
    """The server refuses longer requests, which a sample does not show: a remark says whose length it is."""
    remark = "# the longest sequence, 3072 tokens, is the trace's: the model takes 131072; longer requests are refused"
    assert remark in _lines(serving_of("llama-3.1-8b", "h100-sxm-1"), "tp1")
    stated = _lines(serving_of("llama-3.1-8b", "h100-sxm-1", max_model_len=4096), "tp1")
    assert len(stated) == 1
    assert " --max-model-len 4096 " in stated[0]


def test_sglang_counts_all_attention_ranks_together() -> None:
    """SGLang's tensor size spans the attention ranks, and its limits are shared by them."""
    serving = serving_of("mixtral-8x7b", "h100-sxm-8", "sglang-0.5", max_num_seqs=128, enable_prefix_caching=False)
    command = _lines(serving, "attn.dp4-tp2-moe.ep8-t2048")[-1]
    assert "--tp-size 8 --dp-size 4 --enable-dp-attention --load-balance-method round_robin --ep-size 8" in command
    assert "--context-length 3072 --max-running-requests 512 --chunked-prefill-size 8192 " in command
    assert command.endswith("--cuda-graph-max-bs 512 --disable-piecewise-cuda-graph --disable-radix-cache")


@pytest.mark.parametrize(
    ("model", "cluster", "plan", "flags", "servers"),
    [
        ("llama-3.1-8b", "h100-sxm-2x8", "dp4-tp4", "--tp-size 4 --dp-size 2", 2),
        ("mixtral-8x7b", "h100-sxm-8", "dp2-attn.dp4-moe.ep4", "--tp-size 4 --dp-size 4 --enable-dp-attention", 2),
        ("llama-3.1-8b", "h100-sxm-8", "dp2-tp4", "--tp-size 4 --dp-size 2", 1),
    ],
)
def test_sglang_keeps_replicas_of_a_server_on_one_node(
    model: str, cluster: str, plan: str, flags: str, servers: int
) -> None:
    """It refuses replicas over several nodes, and counts attention ranks by the same flag: those are more servers."""
    lines = _lines(serving_of(model, cluster, "sglang-0.5"), plan)
    assert flags in lines[-1]
    assert "--nnodes" not in lines[-1]
    assert sum(f"# {servers} servers of " in line for line in lines[:-1]) == (servers > 1)


def test_tensorrt_llm_reads_what_has_no_flag_from_a_file() -> None:
    """KV format, blocks, chunking and attention data parallelism go into the options file; replicas are servers."""
    serving = serving_of("mixtral-8x7b", "h100-sxm-8", "tensorrt-llm-1.0", max_num_seqs=32)
    *_, remark, options, command = _lines(serving, "dp2-attn.dp4-moe.ep4-kv.fp8")
    assert remark.startswith("# 2 servers of 4 devices each")
    assert json.loads(shlex.split(options)[1]) == {
        "kv_cache_config": {
            "dtype": "fp8",
            "enable_block_reuse": True,
            "tokens_per_block": 32,
            "free_gpu_memory_fraction": 0.9,
        },
        "enable_attention_dp": True,
        "enable_chunked_prefill": False,
        "cuda_graph_config": {"enable_padding": True, "batch_sizes": [1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64]},
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
        "disable_overlap_scheduler": False,
    }
    assert command == (
        "trtllm-serve MODEL --backend pytorch --tp_size 4 --ep_size 4 --max_seq_len 3072 --max_batch_size 32 "
        "--max_num_tokens 8192 --extra_llm_api_options options.yaml"
    )


def test_tensorrt_llm_is_told_every_stated_setting() -> None:
    """What is stated has a field of its own; drafts need its overlap scheduler off, which is simulated."""
    serving = serving_of(
        "llama-3.1-8b", "h100-sxm-1", "tensorrt-llm-1.0", block_size=64, num_gpu_blocks=1000,
        speculative_tokens=3, speculative_acceptance=0.5, max_num_seqs=4, gpu_memory_utilization=0.8,
    )  # fmt: skip
    *_, options, _ = _lines(serving, "tp1")
    assert json.loads(shlex.split(options)[1]) == {
        "kv_cache_config": {
            "dtype": "auto",
            "enable_block_reuse": True,
            "tokens_per_block": 64,
            "free_gpu_memory_fraction": 0.8,
            "max_tokens": 64000,
        },
        "enable_chunked_prefill": False,
        "cuda_graph_config": {"enable_padding": True, "batch_sizes": [1, 2, 4, 8]},
        "scheduler_config": {"capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
        "disable_overlap_scheduler": True,
        "speculative_config": {"decoding_type": "NGram", "max_draft_len": 3},
    }


@pytest.mark.parametrize(
    ("model", "plan", "stated", "written"),
    [
        (
            "llama-3.1-8b",
            "tp2",
            {"batch_wait_timeout_iters": 20, "batch_wait_max_tokens_ratio": 0.9},
            {"batch_wait_timeout_iters": 20, "batch_wait_max_tokens_ratio": 0.9},
        ),
        (
            "deepseek-v3",
            "attn.dp8-moe.ep8",
            {"attention_dp_timeout_iters": 60},
            {
                "enable_attention_dp": True,
                "attention_dp_config": {"enable_balance": True, "timeout_iters": 60, "batching_wait_iters": 0},
            },
        ),
    ],
)
def test_tensorrt_llm_is_told_how_long_prompts_wait(
    model: str, plan: str, stated: dict[str, Any], written: dict[str, Any]
) -> None:
    """Each of its two rules is written where it acts, and the simulated limits say so; neither is by default."""
    serving = serving_of(model, "h200-sxm-8", "tensorrt-llm-1.0", **stated)
    *_, options, _ = _lines(serving, plan)
    assert written.items() <= json.loads(shlex.split(options)[1]).items()
    facts = limits_facts(start_of(serving, plan, parse_workload("chat-synthetic", limit=20)))
    assert {"batch_wait_iters", "ranks_wait_iters"} & facts.keys()
    *_, options, _ = _lines(serving_of(model, "h200-sxm-8", "tensorrt-llm-1.0"), plan)
    assert not {"attention_dp_config", "batch_wait_timeout_iters"} & json.loads(shlex.split(options)[1]).keys()


def test_tensorrt_llm_spans_nodes_by_mpi() -> None:
    """A replica on two nodes is one MPI world of all its ranks."""
    _, remark, _, command = _lines(serving_of("llama-3.1-405b", "h100-sxm-2x8", "tensorrt-llm-1.0"), "pp2-tp8")
    assert remark.startswith("# each server spans 2 nodes")
    assert command.startswith("srun --nodes 2 --ntasks 16 --mpi=pmix trtllm-llmapi-launch trtllm-serve MODEL ")


def test_a_plan_nobody_can_start_says_why() -> None:
    """The paper's engine is no product, and an engine that does not run a format has no command for it."""
    (line,) = _lines(serving_of("llama-3.1-8b", "h100-sxm-1", "orca"), "tp1")
    assert line == "# no command: orca is the idealised engine of the APEX paper, which is no product"
    serving = replace(serving_of("llama-3.1-8b", "h100-sxm-1", "sglang-0.5"), allow_unsupported=True)
    assert _lines(serving, "tp1-w.w8a16") == ("# no command: sglang does not run w8a16 weights",)


def test_another_router_needs_servers_of_their_own() -> None:
    """Replicas inside a server are filled by that engine's rule: any other one is a load balancer's."""
    *_, remark, command = _lines(serving_of("llama-3.1-8b", "h100-sxm-8", router="prefix"), "dp2-tp4")
    assert remark == ("# 2 servers of 4 devices each (CUDA_VISIBLE_DEVICES, --port), behind a load balancer: prefix")
    assert "--data-parallel-size" not in command


def test_both_pools_are_started_with_the_connector() -> None:
    """Each pool is a server of its own, joined by the KV connector; the configuration is JSON in one shell word."""
    plan = parse_layout("prefill.tp4+decode.dp2-tp2")
    assert isinstance(plan, PoolPlan)
    serving = serving_of("llama-3.1-8b", "h100-sxm-8")
    starts = start_pools(serving, plan, parse_workload("chat-synthetic", limit=20))
    assert isinstance(starts, PoolStarts)
    lines = launch_of_pools(serving, starts)
    commands = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert [words[words.index("--tensor-parallel-size") + 1] for words in commands] == ["4", "2"]
    assert ["--enable-prefix-caching" in words for words in commands] == [True, False]
    assert all("NixlConnector" in words[words.index("--kv-transfer-config") + 1] for words in commands)


def test_sglang_servers_of_two_pools_say_which_they_are() -> None:
    """Each pool states its mode and the transfer; prompts find their rank by room, so no other rule is stated there."""
    plan = parse_layout("prefill.attn.dp2-moe.ep2+decode.attn.dp4-moe.ep4")
    assert isinstance(plan, PoolPlan)
    serving = serving_of("mixtral-8x7b", "h100-sxm-8", "sglang-0.5")
    starts = start_pools(serving, plan, parse_workload("chat-synthetic", limit=20))
    assert isinstance(starts, PoolStarts)
    lines = launch_of_pools(serving, starts)
    prefill, decode = (shlex.split(line) for line in lines if not line.startswith("#"))
    for words, mode in ((prefill, "prefill"), (decode, "decode")):
        assert words[words.index("--disaggregation-mode") + 1] == mode
        assert words[words.index("--disaggregation-transfer-backend") + 1] == "nixl"
    assert ["--load-balance-method" in words for words in (prefill, decode)] == [False, True]
    assert ["--disable-radix-cache" in words for words in (prefill, decode)] == [False, True]


@pytest.mark.parametrize(
    ("plan", "chunk"), [("tp8", 8192), ("attn.dp8-moe.ep8", 1024), ("attn.dp8-moe.ep8-t2048", 2048)]
)
def test_sglang_divides_its_own_chunk_among_ranks(plan: str, chunk: int) -> None:
    """A default is for all ranks together, as in its server arguments; a stated one is a rank's, and spelt for all."""
    serving = serving_of("mixtral-8x7b", "h100-sxm-8", "sglang-0.5")
    start = serving.start(parse_plan(plan), parse_workload("chat-synthetic", limit=20))
    assert not isinstance(start, Refusal), start.reason
    assert start.limits.max_num_batched_tokens == chunk
    spelt = 16384 if plan.endswith("-t2048") else 8192
    assert f"--chunked-prefill-size {spelt} " in launch_lines(serving, start)[-1]


@pytest.mark.parametrize(("tokens", "stated"), [(16384, False), (32768, True)])
def test_sglang_is_told_when_a_step_may_hold_more_than_its_own_prompt_tokens(tokens: int, stated: bool) -> None:
    """Up to 16,384 tokens its own --max-prefill-tokens cuts no step; above, the command states it."""
    lines = _lines(serving_of("llama-3.1-8b", "h100-sxm-1", "sglang-0.5", max_num_batched_tokens=tokens), "tp1")
    assert f"--chunked-prefill-size {tokens}" in lines[-1]
    assert (f"--max-prefill-tokens {tokens}" in lines[-1]) == stated


@pytest.mark.parametrize("engine", ["vllm-0.33", "sglang-0.5", "tensorrt-llm-1.0"])
def test_a_checkpoint_asked_for_by_its_hub_name_is_served_by_it(
    engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The command names the id, as its owner spells it, unless the plan needs another, converted checkpoint."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    serving = serving_of("qwen/qwen3-8b", "h100-sxm-1", engine)
    assert any(" Qwen/Qwen3-8B" in line for line in _lines(serving, "tp1"))
    converted = _lines(serving, "tp1-w.w4a16")
    assert any(" MODEL " in line for line in converted)
    assert any("MODEL is a checkpoint converted to w4a16" in line for line in converted)


def test_a_closed_loop_does_not_narrow_the_graphs() -> None:
    """A server captures graphs for the sequences it may run: few clients do not make its prefill steps run without."""
    serving = serving_of("llama-3.1-8b", "h100-sxm-1")
    tables = []
    for workload in ("closed:isl=300,osl=10,concurrency=4", "synthetic:isl=300,osl=10,rate=1,n=20"):
        start = serving.start(parse_plan("tp1"), parse_workload(workload))
        assert not isinstance(start, Refusal), start.reason
        tables.append(start.compiled.tables("middle"))
    closed, opened = tables
    assert closed.padded_mixed == opened.padded_mixed == 512
    assert (closed.token_mixed_ps == opened.token_mixed_ps).all()
    assert (closed.token_decode_ps == opened.token_decode_ps).all()
