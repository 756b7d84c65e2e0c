"""What differs between serving engines and their versions: defaults, batching rules and host time, by name.

One TOML per profile in ``engine_profiles/``. The times are the only physical constants outside the cost model: they
describe the engine's own code, not the hardware, and carry their source.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from cluster_specs.device import DeviceSpec
from cluster_specs.errors import UserError
from cluster_specs.toml_file import read_toml
from simulator.limits import PolicyName, RouterName
from simulator.model.expert_layout import ExpertKernel

_FOLDER: Final = Path(__file__).parent / "engine_profiles"
_Seconds = Annotated[float, Field(ge=0, lt=1)]
_Count = Annotated[int, Field(gt=0)]


class _Profile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HostTime(_Profile):
    """Time the engine's own code takes; ``source`` says where the figures come from."""

    step_s: _Seconds  # host work of one step, hidden behind the GPU where scheduling is asynchronous
    sequence_s: _Seconds  # per sequence and step, on the critical path (sampled token to next input)
    frontend_s: _Seconds  # HTTP and client, once per request
    frontend_token_s: _Seconds = 0.0  # tokenising, per token of the prompt
    all_reduce_s: _Seconds  # added to each all-reduce between separately captured graph pieces
    launch_s: _Seconds  # per op of a step that runs without a CUDA graph: the host cannot start them faster
    source: str = Field(min_length=1)


class BatchLimits(_Profile):
    """Default batch limits of devices with at least ``min_memory_gib`` of memory (vLLM decides by memory size)."""

    min_memory_gib: Annotated[float, Field(ge=0)]
    max_num_batched_tokens: _Count
    max_num_seqs: _Count


class MemoryReserve(_Profile):
    """Device memory an engine leaves free for everything but weights and KV, in MiB; replaces a fixed fraction."""

    constant: Annotated[float, Field(ge=0)]
    per_batched_token: Annotated[float, Field(ge=0)]
    per_graph_sequence: Annotated[float, Field(ge=0)]
    per_rank: Annotated[float, Field(ge=0)]


class ExpertKernels(_Profile):
    """Kernel of MXFP4 experts: what it makes of their weights is in ``simulator.model.expert_layout``."""

    default: ExpertKernel
    devices: dict[str, ExpertKernel] = {}  # by a device's name, else by its architecture
    source: str = Field(min_length=1)

    def on(self, device: DeviceSpec) -> ExpertKernel:
        """Return the kernel the engine runs on ``device``."""
        return self.devices.get(device.name) or self.devices.get(device.architecture) or self.default


class GraphCapture(_Profile):
    """CUDA-graph capture: which steps run as graphs, and the token counts they are padded to."""

    memory_is_reserved: bool  # set aside before the KV cache is sized
    decode: Literal["full", "piecewise", "none"]
    mixed: Literal["piecewise", "none"]
    sizes: Annotated[list[_Count], Field(min_length=0)]
    # Sizes go on in steps up to this many tokens.
    max_tokens: Annotated[int, Field(ge=0)]
    step: _Count


class EngineProfile(_Profile):
    """Named defaults of one engine version."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str
    engine: Literal["vllm", "sglang", "tensorrt-llm", "orca"]
    version: str
    policy: PolicyName
    router: RouterName
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)]  # where no ``reserve`` is stated
    block_size: _Count
    enable_chunked_prefill: bool
    enable_prefix_caching: bool
    async_scheduling: bool
    reserve_full_isl: bool
    mxfp4_experts: ExpertKernels
    shared_expert_tokens: Annotated[int, Field(ge=0)]  # largest step whose shared experts run beside the routed ones
    sampler_sorts: bool  # top-p by sorting all logits, as older samplers did: costs memory
    limits: Annotated[list[BatchLimits], Field(min_length=1)]
    graphs: GraphCapture
    host: HostTime
    reserve: MemoryReserve | None = None

    def batch_limits(self, memory_bytes: int) -> BatchLimits:
        """Return the limits of the largest memory class the device reaches."""
        memory_gib = memory_bytes / 2**30
        classes = sorted(self.limits, key=lambda item: item.min_memory_gib)
        return [item for item in classes if memory_gib >= item.min_memory_gib][-1]

    def memory_utilization(self, memory_bytes: int, *, max_num_batched_tokens: int, ranks: int) -> float:
        """Return the share of device memory for weights and KV (vLLM: and activations) that the engine takes."""
        if self.reserve is None:
            return self.gpu_memory_utilization
        reserved_mib = (
            self.reserve.constant
            + self.reserve.per_batched_token * max_num_batched_tokens
            + self.reserve.per_graph_sequence * self.graphs.max_tokens
            + self.reserve.per_rank * ranks
        )
        return max(0.0, 1.0 - reserved_mib * 2**20 / memory_bytes)

    def capture_sizes(self, max_num_seqs: int) -> list[int]:
        """Token counts a captured graph exists for, ascending; none above twice ``max_num_seqs``."""
        graphs = self.graphs
        top = min(graphs.max_tokens, 2 * max_num_seqs)
        last = graphs.sizes[-1] if graphs.sizes else 0
        return [
            size
            for size in [*graphs.sizes, *range(last + graphs.step, graphs.max_tokens + 1, graphs.step)]
            if size <= top
        ]

    def reserved_graphs(self, max_num_seqs: int) -> int:
        """Return the number of graphs memory is set aside for: each size once per graph mode."""
        if not self.graphs.memory_is_reserved:
            return 0
        modes = {self.graphs.decode, self.graphs.mixed} - {"none"}
        return len(modes) * len(self.capture_sizes(max_num_seqs))


def bundled_profiles() -> list[str]:
    """Return the names of the bundled engine profiles, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load_profile(name_or_path: str) -> EngineProfile:
    """Read an engine profile by bundled name or TOML path; raises ``UserError``."""
    path = Path(name_or_path) if name_or_path.endswith(".toml") else _FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        known = bundled_profiles()
        close = get_close_matches(name_or_path, known, n=2)
        raise UserError(
            f"{name_or_path!r} is no engine profile",
            hint=f"did you mean {' or '.join(close)}?" if close else f"bundled: {', '.join(known)}; or a .toml path",
        )
    return read_toml(path, EngineProfile)
