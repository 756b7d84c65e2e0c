"""KV block counts of real servers (start-up logs) beside those the memory model predicts."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster_specs.load import load_device
from simulator.memory import plan_memory
from simulator.model.bundled import load_model
from simulator.plan import parse_plan


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockCount:
    """One logged server."""

    model: str
    tp: int
    max_num_batched_tokens: int
    logged: int
    predicted: int

    @property
    def error(self) -> float:
        """Predicted / logged - 1."""
        return self.predicted / self.logged - 1


def logged_servers(reference: Path) -> Iterator[tuple[str, int, int, int]]:
    """Read (model, tp, max_num_batched_tokens, blocks) out of the reference's sentence on 16-bit text servers."""
    section = reference.read_text(encoding="utf-8").partition("## Real vLLM KV block counts")[2]
    for sentence in re.split(r"\.\s+", section.partition("\n")[2].replace("`", "")):
        name = re.match(r"([A-Z][\w.\-]*B) tp", sentence)
        if name is None:
            continue
        for tp, blocks in re.findall(r"tp (\d): ([\d,]+)", sentence):
            yield name[1].lower(), int(tp), 8192, int(blocks.replace(",", ""))
            for other, budget in re.findall(r"/ ([\d,]+) \((\d+)\)", sentence):
                yield name[1].lower(), int(tp), int(budget), int(other.replace(",", ""))


def predicted_blocks(reference: Path) -> list[BlockCount]:
    """Predict every logged server: one H100-80GB per rank, 90 % of its memory, 256 sequences, sorting sampler."""
    device = load_device("h100-sxm")
    counts = []
    for model, tp, budget, logged in logged_servers(reference):
        memory = plan_memory(
            load_model(model),
            parse_plan(f"tp{tp}"),
            device,
            gpu_memory_utilization=0.9,
            block_size=16,
            max_num_batched_tokens=budget,
            max_num_seqs=256,
            max_model_len=4096,
            sampler_sorts=True,
        )
        counts.append(
            BlockCount(
                model=model,
                tp=tp,
                max_num_batched_tokens=budget,
                logged=logged,
                predicted=memory.num_gpu_blocks,
            )
        )
    return counts
