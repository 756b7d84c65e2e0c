"""Start-up memory of real servers (their logs) beside what the memory model predicts for them.

`server_logs.toml` has public logs that state their parts; a reference text, where it is there, has block counts of a
set of vLLM 0.15 servers whose limits are only partly recorded: 128 sequences and 2,048 tokens where they are.

    python -m benchmarks.kv_blocks docs/accuracy.md     rewrites that page's section on memory alone
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cluster_specs.load import load_device
from simulator.engine_profiles.engine_profile import load_profile
from simulator.memory.plan_memory import MemoryBudget, plan_memory
from simulator.model.expert_layout import EXPERT_LAYOUTS
from simulator.model.load_model import load_model
from simulator.plan.plan import parse_plan

REFERENCE: Final = Path(__file__).parents[2] / "shared" / "reference" / "fidelity.md"
HEADING: Final = "## Memory of real servers"
_LOGS: Final = Path(__file__).parent / "server_logs.toml"
_DEVICE: Final = "h100-sxm"
# Servers of the reference's set whose public configuration states their limits.
_RECORDED: Final = {"llama-2-7b tp1", "llama-2-70b tp4", "codellama-34b tp2"}
_DEFAULTS: Final = (1024, 8192)
_PARTS: Final = ("weights", "activation", "runtime", "kv")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCount:
    """Blocks one server logged, and those predicted for the limits (sequences, tokens) it may have had."""

    model: str
    plan: str
    logged: int
    predicted: dict[tuple[int, int], int]

    @property
    def nearest(self) -> tuple[int, int]:
        """The limits whose prediction is nearest."""
        return min(self.predicted, key=lambda limits: abs(self.predicted[limits] - self.logged))

    @property
    def error(self) -> float:
        """Predicted / logged - 1, of the nearest prediction."""
        return self.predicted[self.nearest] / self.logged - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedServer:
    """One log: bytes are GiB per device, None where it does not state them."""

    stated: dict[str, Any]
    budget: MemoryBudget

    @property
    def is_scored(self) -> bool:
        """Whether nothing unknown runs beside the engine."""
        return bool(self.stated.get("is_scored", True))

    def logged_gib(self, part: str) -> float | None:
        """Return what the log states of weights, activation, runtime or kv."""
        value = self.stated.get(f"{part}_gib")
        return None if value is None else float(value)

    def predicted_gib(self, part: str) -> float:
        """Return what the memory model has for the same part."""
        return float(getattr(self.budget, f"{part}_bytes")) / 2**30


def logged_servers() -> list[LoggedServer]:
    """Read the public logs and predict each server."""
    device, servers = load_device(_DEVICE), []
    for stated in tomllib.loads(_LOGS.read_text(encoding="utf-8"))["server"]:
        profile = load_profile(stated["profile"])
        kernel = stated.get("expert_kernel") or profile.mxfp4_experts.on(device)
        budget = plan_memory(
            load_model(stated["model"]).with_expert_layout(EXPERT_LAYOUTS[kernel]),
            parse_plan(stated["plan"]),
            device,
            start_up=profile.memory,
            gpu_memory_utilization=stated["gpu_memory_utilization"],
            block_size=16,
            max_num_batched_tokens=stated["max_num_batched_tokens"],
            max_num_seqs=stated["max_num_seqs"],
            max_model_len=4096,
            expert_kernel=kernel,
        )
        servers.append(LoggedServer(stated=stated, budget=budget))
    return servers


def block_counts(reference: Path) -> list[BlockCount]:
    """Predict the servers of the reference: one H100-80GB per rank, 90 % of its memory, vLLM 0.15."""
    profile, device, counts = load_profile("vllm-0.15"), load_device(_DEVICE), []
    for model, plan, tokens, logged in _counted(reference):
        candidates = [(128, tokens)] if f"{model} {plan}" in _RECORDED else [(128, tokens), (256, tokens), _DEFAULTS]
        predicted = {
            (seqs, step): plan_memory(
                load_model(model),
                parse_plan(plan),
                device,
                start_up=profile.memory,
                gpu_memory_utilization=0.9,
                block_size=16,
                max_num_batched_tokens=step,
                max_num_seqs=seqs,
                max_model_len=4096,
            ).num_gpu_blocks
            for seqs, step in candidates
        }
        counts.append(BlockCount(model=model, plan=plan, logged=logged, predicted=predicted))
    return counts


def _counted(reference: Path) -> Iterator[tuple[str, str, int, int]]:
    """Read (model, plan, max_num_batched_tokens, blocks) out of the reference's sentence on block counts."""
    section = reference.read_text(encoding="utf-8").partition("## Real vLLM KV block counts")[2]
    for sentence in re.split(r"\.\s+", section.partition("\n")[2].replace("`", "")):
        name = re.match(r"([A-Z][\w.\-]*)( FP8)? tp", sentence)
        if name is None:
            continue
        model, suffix = name[1].lower(), "-w.fp8" if name[2] else ""
        for tp, blocks, tokens in re.findall(r"tp (\d): ([\d,]+)(?: \(max_num_batched_tokens (\d+)\))?", sentence):
            yield model, f"tp{tp}{suffix}", int(tokens or 2048), int(blocks.replace(",", ""))
            for other, budget in re.findall(r"/ ([\d,]+) \((\d+)\)", sentence):
                yield model, f"tp{tp}{suffix}", int(budget), int(other.replace(",", ""))


def memory_section(reference: Path) -> Iterator[str]:
    """Write the section of the accuracy page, in pieces."""
    yield (
        f"{HEADING}\n\n"
        "Public start-up logs of vLLM and SGLang, one H100-80GB per rank, API-server limits (8,192 tokens, 1,024 or "
        "more sequences) unless noted; GiB per device, logged / predicted. Blocks of dense models shall be met within "
        "1 %, weights and KV of mixtures of experts within 1.5 GiB.\n\n"
        "| model | plan | profile | share | weights | activations | runtime | KV | remark |\n"
        "|---|---|---|---:|---:|---:|---:|---:|---|\n"
    )
    for server in logged_servers():
        stated = server.stated
        names = f"{stated['model']} | {stated['plan']} | {stated['profile']} | {stated['gpu_memory_utilization']}"
        cells = " | ".join(_both(server.logged_gib(part), server.predicted_gib(part)) for part in _PARTS)
        yield f"| {names} | {cells} | {_remark(server)} |\n"
    yield "\nSources: " + "; ".join(dict.fromkeys(server.stated["source"] for server in logged_servers())) + ".\n\n"
    if not reference.is_file():
        yield "Block counts not compared: no text with logged block counts.\n"
        return
    yield (
        "Block counts of vLLM 0.15 servers: 16-token blocks, 90 % of one H100-80GB per rank. Where limits are not "
        "recorded, 128 sequences (as on the recorded servers of the set), 256 and the engine's own 1,024 with 8,192 "
        "tokens are predicted, and the nearest is shown.\n\n"
        "| model | plan | logged | predicted | sequences | tokens per step | recorded | error |\n"
        "|---|---|---:|---:|---:|---:|---|---:|\n"
    )
    for count in block_counts(reference):
        seqs, tokens = count.nearest
        recorded = "yes" if len(count.predicted) == 1 else "no"
        yield (
            f"| {count.model} | {count.plan} | {count.logged:,} | {count.predicted[count.nearest]:,} | {seqs:,} "
            f"| {tokens:,} | {recorded} | {count.error:+.2%} |\n"
        )


def _both(logged: float | None, predicted: float) -> str:
    return f"- / {predicted:.2f}" if logged is None else f"{logged:.2f} / {predicted:.2f}"


def _remark(server: LoggedServer) -> str:
    """Say what is particular about a server."""
    stated = server.stated
    tokens, seqs, kernel = stated["max_num_batched_tokens"], stated["max_num_seqs"], stated.get("expert_kernel")
    parts = (
        f"{tokens:,} tokens per step" if tokens != 8192 else "",
        f"{seqs:,} sequences" if seqs < 1024 else "",
        f"experts by {kernel.capitalize()}" if kernel else "",
        stated.get("note", ""),
    )
    return "; ".join(filter(None, parts))


def main(page: Path) -> None:
    """Replace the page's section on memory, which is its last."""
    before = page.read_text(encoding="utf-8").partition(HEADING)[0]
    page.write_text(before + "".join(memory_section(REFERENCE)), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
