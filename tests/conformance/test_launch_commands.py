"""The printed commands, read by the engines' own parsers, set up the engine that was simulated.

Needs an interpreter with the engine's wheel, named by APEX_VLLM_PYTHON and APEX_SGLANG_PYTHON or the one that runs the
tests; no GPU (`docs/reference/conformance.md` says how to make one). Skipped, with the reason, where there is none.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.device import DeviceSpec
from cluster_specs.load import load_cluster
from simulator.launch import launch_lines
from simulator.launch.vllm import chooses_own_block
from simulator.plan.pool_plan import PoolPlan, parse_layout
from simulator.pools.disaggregation import PoolStarts, start_pools
from simulator.serving import Refusal, Serving, StartedPlan
from simulator.workload.parse import parse_workload
from tests.simulator.deployments import launch_of_pools, serving_of

_FOLDER: Final = Path(__file__).parent
_CONFIGS: Final = Path(__file__).parents[2] / "simulator" / "model" / "configs"
_VLLM: Final = "0.33"
_SGLANG: Final = "0.5"
_CAPABILITY: Final = {"ampere": (8, 0), "ada": (8, 9), "hopper": (9, 0), "blackwell": (10, 0)}
# What a command says of limits; the rest lays the model out.
_LIMITS: Final = (
    "--max-num-seqs",
    "--max-num-batched-tokens",
    "--gpu-memory-utilization",
    "--block-size",
    "--enable-prefix-caching",
    "--enable-chunked-prefill",
    "--async-scheduling",
    "--scheduler-reserve-full-isl",
)
_ALIKE: Final = ("max_num_seqs", "max_num_batched_tokens", "max_model_len", "gpu_memory_utilization")
_SWITCHES: Final = ("enable_prefix_caching", "enable_chunked_prefill", "async_scheduling", "reserve_full_isl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One plan on one cluster, with what a user states beside it."""

    model: str
    cluster: str
    plan: str
    stated: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        """Name the test."""
        return "-".join([self.model, self.cluster, self.plan, *(f"{name}={value}" for name, value in self.stated)])


def _case(model: str, cluster: str, plan: str, **stated: Any) -> Case:
    return Case(model=model, cluster=cluster, plan=plan, stated=tuple(stated.items()))


VLLM_CASES: Final = (
    _case("llama-3.1-8b", "h100-sxm-1", "tp1"),
    _case("llama-3.1-8b", "h100-sxm-8", "dp2-pp2-tp2"),
    _case("llama-3.1-8b", "h100-sxm-8", "dp8"),
    _case("llama-3.1-8b", "h100-sxm-2x8", "dp8-tp2"),
    _case("llama-3.1-8b", "a100-sxm-80gb-8", "tp8"),
    _case("llama-3.1-8b", "a100-sxm-80gb-1", "tp1-kv.fp8"),
    _case("llama-3.1-8b", "a100-sxm-40gb-8", "tp2"),
    _case("llama-3.1-8b", "l40s-8", "tp4-w.fp8"),
    _case("llama-3.1-8b", "l4-8", "tp2"),
    _case("llama-3.1-8b", "a10g-8", "tp4"),
    _case("llama-3.1-8b", "rtx-4090-8", "tp2"),
    _case("llama-3.1-8b", "rtx-5090-8", "tp1"),
    _case("llama-3.1-8b", "rtx-pro-6000-8", "tp1"),
    _case("llama-3.1-8b", "h20-8", "tp1-kv.fp8"),
    _case("llama-3.1-8b", "mi300x-8", "tp1"),
    _case("llama-3.1-8b", "mi300x-8", "dp2-tp4-kv.fp8"),
    _case("llama-3.2-1b", "cpu-2", "tp2"),
    _case("llama-3.1-70b", "h100-sxm-8", "tp8-w.fp8-kv.fp8-s64-t4096"),
    _case("llama-3.1-70b", "h200-sxm-8", "dp4-tp2", max_num_seqs=96),
    _case("llama-3.1-70b", "b200-8", "tp4"),
    _case("llama-3.1-70b", "h100-nvl-2", "tp2-w.fp8"),
    _case("llama-3.1-70b", "mi325x-8", "tp4"),
    _case("llama-3.1-405b", "h100-sxm-2x8", "pp2-tp8-w.fp8"),
    _case("llama-3.1-405b", "h200-sxm-2x8", "tp16"),
    _case("llama-3.1-405b", "gb200-72", "tp8"),
    _case("qwen3-32b", "h100-sxm-4", "tp4", enable_prefix_caching=False, enable_chunked_prefill=False),
    _case("qwen3-32b", "h100-sxm-4", "pp4", async_scheduling=False),
    _case("qwen3-32b", "gh200-96gb-32", "tp1", block_size=32, gpu_memory_utilization=0.85),
    _case("qwen3-32b", "b300-8", "dp8", num_gpu_blocks=20_000),
    _case("qwen3-8b", "h100-sxm-1", "tp1", speculative_tokens=3, speculative_acceptance=0.6),
    _case("qwen3-8b", "h100-sxm-1", "tp1", speculative_tokens=4, speculative_acceptance=0.6, draft_step_s=0.002),
    _case("mistral-7b", "h100-pcie-8", "dp4-tp2"),
    _case("gemma-3-27b", "h100-sxm-2", "tp2"),
    _case("mixtral-8x7b", "h100-sxm-8", "dp2-tp4"),
    _case("mixtral-8x7b", "h100-sxm-8", "attn.dp4-tp2-moe.ep8"),
    _case("mixtral-8x7b", "mi300x-8", "tp8-ep8"),
    _case("qwen3-30b-a3b", "h100-sxm-2x8", "attn.dp8-tp2-moe.ep16"),
    _case("qwen3-30b-a3b", "b200-8", "attn.dp8-moe.ep8-kv.fp8"),
    _case("qwen3-235b-a22b", "h200-sxm-8", "tp8-ep8"),
    _case("deepseek-v3", "h200-sxm-8", "tp8"),
    _case("deepseek-v3", "h200-sxm-4x8", "attn.dp2-tp16-moe.ep32"),
    _case("deepseek-v3", "b200-8", "attn.dp8-moe.ep8"),
    _case("gpt-oss-120b", "h100-sxm-2", "tp2"),
    _case("gpt-oss-20b", "a100-sxm-80gb-1", "tp1"),
    _case("gpt-oss-120b", "mi355x-8", "tp2"),
    _case("qwen3.5-27b", "h100-sxm-2", "tp2"),
    _case("qwen3.5-35b-a3b", "h200-sxm-1", "tp1"),
    _case("llama-3.1-8b", "h100-sxm-8", "prefill.tp4+decode.dp2-tp2"),
    _case("llama-3.1-70b", "h200-sxm-8", "prefill.dp2-tp2+decode.tp4-s32"),
)
SGLANG_CASES: Final = (
    _case("llama-3.1-8b", "h100-sxm-1", "tp1"),
    _case("llama-3.1-8b", "h100-sxm-8", "dp2-tp4", max_num_seqs=128, enable_prefix_caching=False),
    _case("llama-3.1-8b", "l40s-8", "tp2-kv.fp8"),
    _case("llama-3.1-8b", "mi300x-8", "tp4", async_scheduling=False),
    _case("llama-3.1-70b", "h100-sxm-8", "tp8-w.fp8-s64-t4096"),
    _case("llama-3.1-70b", "h200-sxm-2x8", "dp2-tp8", num_gpu_blocks=200_000),
    _case("mixtral-8x7b", "h100-sxm-8", "attn.dp4-tp2-moe.ep8"),
    _case("deepseek-v3", "h200-sxm-2x8", "tp16"),
    _case("qwen3-32b", "b200-8", "tp2", enable_chunked_prefill=False),
    _case("qwen3-32b", "h100-sxm-4", "dp2-tp2", router="prefix", gpu_memory_utilization=0.85),
)


@cache
def _started(case: Case, engine: str) -> tuple[tuple[StartedPlan, tuple[str, ...]], ...]:
    """Return each pool of a case as it was simulated and its commands."""
    serving, workload, plan = (
        serving_of(case.model, case.cluster, engine, **dict(case.stated)),
        parse_workload("chat-synthetic", limit=20),
        parse_layout(case.plan),
    )
    if isinstance(plan, PoolPlan):
        starts = start_pools(serving, plan, workload)
        assert isinstance(starts, PoolStarts), starts.reason
        lines = launch_of_pools(serving, starts)
        split = lines.index("# decode pool")
        return (starts.prefill, lines[:split]), (starts.decode, lines[split:])
    start = serving.start(plan, workload)
    assert not isinstance(start, Refusal), start.reason
    return ((start, launch_lines(serving, start)),)


def _commands(lines: tuple[str, ...]) -> list[list[str]]:
    return [shlex.split(line) for line in lines if not line.startswith("#")]


def _servers(lines: tuple[str, ...]) -> int:
    """How many servers the remarks ask for."""
    return next((int(line.split()[1]) for line in lines if " servers of " in line), 1)


def _interpreter(variable: str, package: str, version: str) -> str:
    """Return the interpreter that has the engine; skips the test where none has."""
    named = os.environ.get(variable, sys.executable)
    asked = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    found = subprocess.run([named, "-c", asked], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"{named} has no {package}; name an interpreter that has it in {variable}")
    if not found.stdout.startswith(f"{version}."):
        pytest.skip(f"{named} has {package} {found.stdout.strip()}, the profile is of {version}")
    return named


def _answers(interpreter: str, script: str, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ask a script in the engine's own interpreter, in a process of its own without this one's search path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [interpreter, str(_FOLDER / script)],
        input=json.dumps(asked),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def _device_facts(cluster: ClusterSpec) -> dict[str, Any]:
    device = cluster.device
    of = _CAPABILITY.get(device.architecture)
    return {
        "name": device.driver_names[0] if device.driver_names else device.title,
        "memory_bytes": device.memory_bytes,
        "vendor": device.vendor,
        "kind": device.kind,
        "architecture": device.architecture,
        "count": cluster.devices_per_node,
        "capability": (12, 0) if device.name.startswith("rtx") and of == (10, 0) else of,
    }


def _platform(device: DeviceSpec) -> str:
    return "cpu" if device.kind == "cpu" else device.architecture if device.vendor == "amd" else device.vendor


class Vllm:
    """vLLM's answers to the commands of all cases, asked once per platform."""

    def __init__(self, interpreter: str, folder: Path) -> None:
        """Ask for every command as it is and without its limits."""
        asked: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
        for case in VLLM_CASES:
            cluster = load_cluster(case.cluster)
            commands = [words for _, lines in _started(case, "vllm-0.33") for words in _commands(lines)]
            for words in [*commands, *map(without_limits, commands)]:
                spelt = tuple(self.spell(case, words, folder))
                of_platform = asked.setdefault(_platform(cluster.device), {})
                of_platform[(case.cluster, *spelt)] = {"device": _device_facts(cluster), "words": spelt}
        self._folder = folder
        self._answers: dict[tuple[str, ...], dict[str, Any]] = {}
        for of_platform in asked.values():
            found = _answers(interpreter, "vllm_config.py", list(of_platform.values()))
            self._answers |= dict(zip(of_platform, found, strict=True))

    def spell(self, case: Case, words: list[str], folder: Path) -> list[str]:
        """Fill in a command's placeholders; weights and tokenizer are not there."""
        assert words[:2] == ["vllm", "serve"], words
        checkpoint = {words[2]: case.model, "DRAFT_MODEL": "llama-3.2-1b" if "llama" in case.model else case.model}
        paths = {name: str(_checkpoint(folder, model)) for name, model in checkpoint.items()}
        filled = {"HEAD": "127.0.0.1", "RANK": "1"} | paths
        options = [filled.get(word, word.replace("DRAFT_MODEL", paths["DRAFT_MODEL"])) for word in words[2:]]
        return [*options, "--skip-tokenizer-init", "--load-format", "dummy"]

    def settings(self, case: Case, words: list[str]) -> dict[str, Any]:
        """Return what vLLM makes of a command."""
        answer = self._answers[(case.cluster, *self.spell(case, words, self._folder))]
        assert "error" not in answer, answer["error"]
        return answer


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Vllm:
    """Return vLLM's answers to all commands."""
    return Vllm(_interpreter("APEX_VLLM_PYTHON", "vllm", _VLLM), tmp_path_factory.mktemp("checkpoints"))


def _checkpoint(folder: Path, model: str) -> Path:
    """Return a checkpoint folder that has the model's config alone."""
    path = folder / model
    if not path.exists():
        path.mkdir()
        (path / "config.json").write_text((_CONFIGS / f"{model}.json").read_text(encoding="utf-8"), encoding="utf-8")
    return path


def without_limits(words: list[str]) -> list[str]:
    """Leave the limits out of a command."""
    left, skips = [], False
    for word in words:
        if word.startswith("--"):
            skips = word.replace("--no-", "--", 1) in _LIMITS
        if not skips:
            left.append(word)
    return left


@pytest.mark.parametrize("case", VLLM_CASES, ids=str)
def test_vllm_starts_what_was_simulated(vllm: Vllm, case: Case) -> None:
    """Every limit, format and degree that vLLM's parser and configuration end up with is the simulated one."""
    serving = serving_of(case.model, case.cluster, "vllm-0.33", **dict(case.stated))
    for start, lines in _started(case, "vllm-0.33"):
        plan, server = start.plan, start.server
        for words in _commands(lines):
            found = vllm.settings(case, words)
            wanted = {name: getattr(server, name) for name in (*_ALIKE, *_SWITCHES)}
            if start.limits.num_gpu_blocks and " --no-enable-prefix-caching " in f" {' '.join(words)} ":
                wanted["enable_prefix_caching"] = False  # a decode pool finds no prefixes
            assert {name: found[name] for name in wanted} == wanted
            assert (found["tp"], found["pp"]) == (plan.tp, plan.pp)
            assert found["dp"] * _servers(lines) == plan.dp * plan.attention_dp
            assert found["expert_parallel"] == (plan.ep > 1)
            assert found["num_gpu_blocks"] == serving.overrides.num_gpu_blocks
            assert found["drafts"] == (serving.overrides.speculative_tokens or 0)
            assert found["kv_cache_dtype"].startswith("fp8") == (start.kv.dtype == "fp8")
            if not chooses_own_block(serving.model):
                assert found["block_size"] == server.block_size
            if serving.cluster.device.kind == "gpu":
                assert found["graph_mode"] == "FULL_AND_PIECEWISE"
                own = set(found["capture_sizes"]) - set(_graphs(serving, start))
                assert own <= {size for size in own if size % (1 + found["drafts"]) == 0 and found["drafts"]}
                assert set(_graphs(serving, start)) <= set(found["capture_sizes"])
            assert (found["kv_connector"] is not None) == ("+" in case.plan)


def _graphs(serving: Serving, start: StartedPlan) -> list[int]:
    """Return the simulated sizes; vLLM adds whole drafts of every sequence, which only pads such steps less."""
    profile = serving.profile.on(serving.cluster.device, start.plan, serving.model.architecture)
    sizes = profile.graphs.capture_sizes(start.server.max_num_seqs * (1 + start.limits.num_speculative_tokens))
    return [size for size in sizes if size <= start.server.max_num_batched_tokens]


@pytest.mark.parametrize("case", [case for case in VLLM_CASES if not case.stated], ids=str)
def test_without_limits_vllm_takes_the_profiles_defaults(vllm: Vllm, case: Case) -> None:
    """The profile's defaults are those of that version on that device: a command without limits starts the same."""
    for start, lines in _started(case, "vllm-0.33"):
        if start.plan.max_num_seqs or start.plan.max_num_batched_tokens:
            continue
        for words in _commands(lines):
            if "--no-enable-prefix-caching" in words:
                continue
            found, names = vllm.settings(case, without_limits(words)), (*_ALIKE, *_SWITCHES)
            assert {name: found[name] for name in names} == {name: getattr(start.server, name) for name in names}


@pytest.fixture(scope="module")
def sglang() -> dict[tuple[str, ...], dict[str, Any]]:
    """Return SGLang's answers to all commands."""
    interpreter = _interpreter("APEX_SGLANG_PYTHON", "sglang", _SGLANG)
    asked = [_sglang_words(words) for case in SGLANG_CASES for words in _sglang_commands(case)]
    answers = _answers(interpreter, "sglang_args.py", asked)
    return {tuple(words): answer for words, answer in zip(asked, answers, strict=True)}


def _sglang_commands(case: Case) -> list[list[str]]:
    return [words for _, lines in _started(case, "sglang-0.5") for words in _commands(lines)]


def _sglang_words(words: list[str]) -> list[str]:
    assert words[:3] == ["python", "-m", "sglang.launch_server"], words
    filled = {words[4]: "dummy", "HEAD:5000": "127.0.0.1:5000", "RANK": "1"}
    return [filled.get(word, word) for word in words[3:]]


@pytest.mark.parametrize("case", SGLANG_CASES, ids=str)
def test_sglang_reads_what_was_simulated(sglang: dict[tuple[str, ...], dict[str, Any]], case: Case) -> None:
    """Every limit and degree in SGLang's arguments is the simulated one, limits for all attention ranks together."""
    ((start, lines),) = _started(case, "sglang-0.5")
    plan, server, serving = (
        start.plan,
        start.server,
        serving_of(case.model, case.cluster, "sglang-0.5", **dict(case.stated)),
    )
    for words in _sglang_commands(case):
        found = sglang[tuple(_sglang_words(words))]
        assert "error" not in found, found["error"]
        chunk = server.max_num_batched_tokens * plan.attention_dp
        assert found["context_length"] == server.max_model_len
        assert found["max_running_requests"] == server.max_num_seqs * plan.attention_dp
        assert found["chunked_prefill_size"] == (chunk if server.enable_chunked_prefill else -1)
        assert found["mem_fraction_static"] == pytest.approx(server.gpu_memory_utilization, abs=1e-6)
        assert found["page_size"] == server.block_size
        assert found["disable_radix_cache"] == (not server.enable_prefix_caching)
        assert found["disable_overlap_schedule"] == (not server.async_scheduling)
        assert found["cuda_graph_max_bs"] == serving.profile.on(serving.cluster.device, plan).graphs.max_tokens
        assert found.get("max_total_tokens") == (
            serving.overrides.num_gpu_blocks and serving.overrides.num_gpu_blocks * server.block_size
        )
        assert (found["tp_size"], found["pp_size"], found["ep_size"]) == (plan.stage_ranks, plan.pp, plan.ep)
        assert found["dp_size"] * _servers(lines) == plan.dp * plan.attention_dp
        assert found["enable_dp_attention"] == (plan.attention_dp > 1)
        assert found["kv_cache_dtype"].startswith("fp8") == (start.kv.dtype == "fp8")
        assert found.get("quantization") == ("fp8" if plan.weight_dtype == "fp8" else None)
