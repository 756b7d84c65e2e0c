"""What the columns of all aiconfigurator tables have in common: units, names of kernels and number formats.

Source of their meaning: the tables of ``aiconfigurator-core`` 0.12.0 and its public collector. Latencies are
milliseconds per call.
"""

from collections.abc import Callable, Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from cluster_specs.lazy_dataclass import dataclass
from profiles_db.importers.counting import Sieve
from profiles_db.importers.rows import Column

MS: Final = 1e-3

# Foreign element type -> (our dtype, bytes per element)
ELEMENT_FORMATS: Final[Mapping[str, tuple[str, int]]] = {
    "half": ("fp16", 2),
    "float16": ("fp16", 2),
    "bfloat16": ("bf16", 2),
    "int8": ("int8", 1),
    "fp8": ("fp8", 1),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a foreign table was collected."""

    framework: str  # vllm, sglang, trtllm, nccl, oneccl
    level: str  # name of the link level inside a node
    devices_per_node: int
    has_graphs: bool  # False where the platform has none and every row is launched eagerly
    include_unfit: bool  # keep eager and sick rows, labelled
    beside: Callable[[str], pa.Table | None] = lambda _table: None  # another table of the same framework and version


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapped:
    """Rows that fit a family; columns shared by all tables (device, run, ...) are added by the caller."""

    family: str
    columns: Mapping[str, Column]


Mapper = Callable[[Sieve, Origin], Mapped]


def renamed(column: pa.ChunkedArray, names: Mapping[str, str]) -> pa.ChunkedArray:
    """Map every value through ``names``; a value without an entry becomes null."""
    keys, values = pa.array(list(names), pa.string()), pa.array(list(names.values()), pa.string())
    return values.take(pc.index_in(column.combine_chunks().cast(pa.string()), value_set=keys))


def backend_names(sieve: Sieve, origin: Origin) -> pa.Array:
    """Name the kernel source as ``<framework>.<kernel>``, cuBLAS as what it is."""
    column = sieve.column("kernel_source").combine_chunks().cast(pa.string())
    names = {}
    for source in pc.unique(column).to_pylist():
        name = str(source).removeprefix(f"{origin.framework}_").replace("/", ".")
        is_linear = name in {"torch.nn.functional.linear", "torch_linear"}
        names[source] = "torch.cublas" if is_linear and origin.has_graphs else f"{origin.framework}.{name}"
    return renamed(pa.chunked_array([column]), names)


def latency_s(sieve: Sieve) -> pa.ChunkedArray:
    """Return the latency column in seconds."""
    return pc.multiply(sieve.column("latency"), MS)


def launch_kind(origin: Origin) -> str:
    """Return how the rows of a table were launched unless the table knows better."""
    return "graph" if origin.has_graphs else "eager"


def power_columns(sieve: Sieve) -> dict[str, Column]:
    """Return the power column of the few tables that have one."""
    return {"power_w": sieve.column("power")} if "power" in sieve.table.column_names else {}
