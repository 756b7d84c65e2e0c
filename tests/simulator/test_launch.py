"""The commands that start a plan carry what the simulation assumed, in the engine's own flags."""

import json
import shlex
from typing import Any

import pytest

from cluster_specs.load import load_cluster
from costmodel.analytic import AnalyticCosts
from simulator.disaggregation import PoolStarts, start_pools
from simulator.engine_profile import load_profile
from simulator.launch import launch_lines, pool_launch_lines
from simulator.model.bundled import load_model
from simulator.plan import parse_plan
from simulator.pools import PoolPlan, parse_layout
from simulator.serving import Overrides, Refusal, Serving
from simulator.workload.parse import parse_workload


def _serving(model: str, cluster: str, engine: str = "vllm-0.33", **overrides: Any) -> Serving:
    spec = load_cluster(cluster)
    return Serving(
        model=load_model(model),
        cluster=spec,
        profile=load_profile(engine),
        costs=lambda clock_mhz: AnalyticCosts(spec, clock_mhz),
        overrides=Overrides(**overrides),
    )


def _lines(serving: Serving, plan: str) -> tuple[str, ...]:
    start = serving.start(parse_plan(plan), parse_workload("chat-synthetic", limit=20))
    assert not isinstance(start, Refusal), start.reason
    return launch_lines(serving, start)


@pytest.mark.parametrize(
    ("model", "cluster", "plan", "flags", "servers"),
    [
        ("llama-3.1-8b", "h100-sxm-8", "dp2-pp2-tp2", "-t 2 -p 2 -d 2", 1),
        ("llama-3.1-8b", "h100-sxm-16x8", "dp16-tp8", "-t 8", 16),
        ("llama-3.1-8b", "h100-sxm-2x8", "dp8-tp2", "-t 2 -d 4", 2),
        ("mixtral-8x7b", "h100-sxm-8", "dp2-tp4", "-t 4", 2),
        ("mixtral-8x7b", "h100-sxm-8", "attn.dp4-tp2-moe.ep8", "-t 2 -d 4 -e", 1),
        ("llama-3.1-405b", "h100-sxm-2x8", "pp2-tp8", "-t 8 -p 2 -r", 1),
        ("qwen3-30b-a3b", "h100-sxm-2x8", "attn.dp8-tp2-moe.ep16", "-t 2 -d 8 -e -a -l 4", 1),
    ],
)
def test_vllm_gets_the_degrees_of_the_plan(model: str, cluster: str, plan: str, flags: str, servers: int) -> None:
    """Data parallelism is inside a server for dense replicas of one node and for attention, else more servers."""
    spelt = {
        "-t": "--tensor-parallel-size",
        "-p": "--pipeline-parallel-size",
        "-d": "--data-parallel-size",
        "-e": "--enable-expert-parallel",
        "-r": "--distributed-executor-backend ray",
        "-a": "--data-parallel-backend ray",
        "-l": "--data-parallel-size-local",
    }
    wanted = " ".join(spelt.get(part, part) for part in flags.split())
    lines = _lines(_serving(model, cluster), plan)
    assert lines[-1].removesuffix(" --max-model-len 3072") == f"vllm serve MODEL {wanted}"
    assert [line for line in lines if " servers of " in line] == [
        line for line in lines if line.startswith(f"# {servers} servers of ")
    ]
    assert any(" servers of " in line for line in lines) == (servers > 1)


def test_attention_ranks_larger_than_a_node_are_spanned() -> None:
    """Ranks of vLLM are placed inside a node each unless it is told to span them."""
    command = _lines(_serving("deepseek-v3", "h200-sxm-4x8"), "attn.dp2-tp16-moe.ep32")[-1]
    assert command.startswith("VLLM_RAY_DP_PACK_STRATEGY=span vllm serve MODEL --tensor-parallel-size 16 ")
    assert "--data-parallel-backend ray --distributed-executor-backend ray" in command


def test_v0_engines_have_no_data_parallelism() -> None:
    """Replicas of vLLM 0.6, which knows no data-parallel size, are servers."""
    remark, command = _lines(_serving("llama-3.1-8b", "h100-sxm-8", "vllm-0.6"), "dp2-tp4")
    assert remark.startswith("# 2 servers of 4 devices each")
    assert "--data-parallel-size" not in command


def test_v0_engines_have_no_negated_flags() -> None:
    """Version 0.6 turns chunking off by a value, caches no prefixes unless asked, and then fits whole prompts."""
    serving = _serving(
        "llama-3.1-8b", "h100-sxm-1", "vllm-0.6", enable_chunked_prefill=False, enable_prefix_caching=False
    )
    assert _lines(serving, "tp1") == (
        "vllm serve MODEL --max-model-len 3072 --max-num-batched-tokens 3072 --enable-chunked-prefill False",
    )


def test_formats_limits_and_clock_reach_the_command() -> None:
    """What the plan or the user states is in the command; what nobody states is left to the engine."""
    serving = _serving(
        "llama-3.1-8b", "h100-sxm-8", max_num_seqs=64, enable_prefix_caching=False, gpu_memory_utilization=0.8
    )
    clock, command = _lines(serving, "tp8-w.fp8-kv.fp8-f1410-t4096")
    assert clock.startswith("nvidia-smi --lock-gpu-clocks=1410,1410")
    words = shlex.split(command)
    for pair in (
        "--quantization fp8",
        "--kv-cache-dtype fp8",
        "--max-num-seqs 64",
        "--max-num-batched-tokens 4096",
        "--gpu-memory-utilization 0.8",
        "--no-enable-prefix-caching",
    ):
        assert pair in command
    assert "--block-size" not in words


def test_a_format_nobody_can_make_while_loading_needs_another_checkpoint() -> None:
    """4-bit weights come from a converted checkpoint, which the remark says; a stored format needs nothing."""
    remark, command = _lines(_serving("llama-3.1-8b", "h100-sxm-1"), "tp1-w.w4a16")
    assert remark == "# MODEL is a checkpoint converted to w4a16"
    assert "--quantization" not in command
    assert "--quantization" not in _lines(_serving("deepseek-v3", "h200-sxm-8"), "tp8")[-1]


def test_a_tower_left_out_is_said() -> None:
    """A multimodal checkpoint is simulated as its text decoder: the remark says how a server does the same."""
    remark, _ = _lines(_serving("qwen3.5-27b", "h100-sxm-1"), "tp1")
    assert "--language-model-only" in remark
    (command,) = _lines(_serving("qwen3-32b", "h100-sxm-1"), "tp1")
    assert not command.startswith("#")


def test_sglang_counts_all_attention_ranks_together() -> None:
    """SGLang's tensor size spans the attention ranks, and its limits are shared by them."""
    serving = _serving("llama-3.1-8b", "h100-sxm-8", "sglang-0.5", max_num_seqs=128, enable_prefix_caching=False)
    assert _lines(serving, "dp2-tp4") == (
        "python -m sglang.launch_server --model-path MODEL --tp-size 4 --dp-size 2 --context-length 3072 "
        "--max-running-requests 128 --disable-radix-cache",
    )


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
    lines = _lines(_serving(model, cluster, "sglang-0.5"), plan)
    assert flags in lines[-1]
    assert "--nnodes" not in lines[-1]
    assert [f"# {servers} servers of " in line for line in lines[:-1]] == [True] * (servers > 1)


def test_tensorrt_llm_reads_what_has_no_flag_from_a_file() -> None:
    """KV format and attention data parallelism go into the options file; replicas are servers of their own."""
    serving = _serving("mixtral-8x7b", "h100-sxm-8", "tensorrt-llm-1.0", max_num_seqs=32)
    remark, options, command = _lines(serving, "dp2-attn.dp2-tp2-moe.ep4-kv.fp8")
    assert remark.startswith("# 2 servers of 4 devices each")
    assert json.loads(shlex.split(options)[1]) == {"kv_cache_config": {"dtype": "fp8"}, "enable_attention_dp": True}
    assert command == (
        "trtllm-serve MODEL --backend pytorch --tp_size 4 --ep_size 4 --max_seq_len 3072 --max_batch_size 32 "
        "--extra_llm_api_options options.yaml"
    )


def test_tensorrt_llm_is_told_every_stated_setting() -> None:
    """What is stated has a field of its own; drafts need its overlap scheduler off, which the simulation was not."""
    serving = _serving(
        "llama-3.1-8b", "h100-sxm-1", "tensorrt-llm-1.0", block_size=64, num_gpu_blocks=1000,
        speculative_tokens=3, speculative_acceptance=0.5,
    )  # fmt: skip
    remark, options, _ = _lines(serving, "tp1")
    assert "--no-async-scheduling" in remark
    assert json.loads(shlex.split(options)[1]) == {
        "kv_cache_config": {"tokens_per_block": 64, "max_tokens": 64000},
        "disable_overlap_scheduler": True,
        "speculative_config": {"decoding_type": "NGram", "max_draft_len": 3},
    }


def test_tensorrt_llm_spans_nodes_by_mpi() -> None:
    """A replica on two nodes is one MPI world of all its ranks."""
    remark, command = _lines(_serving("llama-3.1-405b", "h100-sxm-2x8", "tensorrt-llm-1.0"), "pp2-tp8")
    assert remark.startswith("# each server spans 2 nodes")
    assert command.startswith("srun --nodes 2 --ntasks 16 --mpi=pmix trtllm-llmapi-launch trtllm-serve MODEL ")


def test_an_engine_nobody_can_start_has_no_command() -> None:
    """The reference policy of the paper is no product."""
    assert _lines(_serving("llama-3.1-8b", "h100-sxm-1", "orca"), "tp1") == ()


def test_both_pools_are_started_with_the_connector() -> None:
    """Each pool is a server of its own, joined by the KV connector; the configuration is JSON in one shell word."""
    plan = parse_layout("prefill.tp4+decode.dp2-tp2")
    assert isinstance(plan, PoolPlan)
    serving = _serving("llama-3.1-8b", "h100-sxm-8")
    starts = start_pools(serving, plan, parse_workload("chat-synthetic", limit=20))
    assert isinstance(starts, PoolStarts)
    lines = pool_launch_lines(serving, starts.prefill, starts.decode)
    commands = [shlex.split(line) for line in lines if not line.startswith("#")]
    assert [words[words.index("--tensor-parallel-size") + 1] for words in commands] == ["4", "2"]
    assert all("NixlConnector" in words[words.index("--kv-transfer-config") + 1] for words in commands)


@pytest.mark.parametrize(
    ("plan", "chunk"), [("tp8", 8192), ("attn.dp8-moe.ep8", 1024), ("attn.dp8-moe.ep8-t2048", 2048)]
)
def test_sglang_divides_its_own_chunk_among_ranks(plan: str, chunk: int) -> None:
    """A default is for all ranks together, as in its server arguments; a stated one is a rank's, and spelt for all."""
    serving = _serving("mixtral-8x7b", "h100-sxm-8", "sglang-0.5")
    start = serving.start(parse_plan(plan), parse_workload("chat-synthetic", limit=20))
    assert not isinstance(start, Refusal), start.reason
    assert start.limits.max_num_batched_tokens == chunk
    spelt = "--chunked-prefill-size 16384" in launch_lines(serving, start)[-1]
    assert spelt == plan.endswith("-t2048")
