"""The Parquet contract: one schema per op family, units tied to names, a version in the file.

A row is one measured point. Its *shape columns* say what was run, the common columns say where, how and with what
result. Units live in the column name and again in the Parquet field metadata (`unit`), so that a reader who renames
a column still knows what it holds.
"""

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from cluster_specs.lazy_dataclass import dataclass

SCHEMA_VERSION: Final = 3

STATUSES: Final = ("ok", "oom", "unsupported", "throttled", "timeout", "error")
TIMED_STATUSES: Final = ("ok", "throttled")  # rows that carry a latency
LAUNCHES: Final = ("graph", "eager")
CACHES: Final = ("cold", "hot")

_UNIT_OF_SUFFIX: Final = {
    "_bytes_per_s": "B/s",
    "_flop_per_s": "FLOP/s",
    "_flop": "FLOP",
    "_s": "s",
    "_bytes": "B",
    "_mhz": "MHz",
    "_w": "W",
    "_j": "J",
    "_c": "degC",
    "_tokens": "token",
    "_frac": "1",
}


def unit_of(column: str) -> str | None:
    """Return the unit a column name promises, or None for counts and labels."""
    for suffix, unit in _UNIT_OF_SUFFIX.items():
        if column.endswith(suffix):
            return unit
    return None


def _field(name: str, kind: pa.DataType, *, nullable: bool = False) -> pa.Field:
    unit = unit_of(name)
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit} if unit else None)


_STR: Final = pa.string()
_INT: Final = pa.int64()
_FLOAT: Final = pa.float64()

COMMON: Final = (
    _field("device", _STR),
    _field("backend", _STR),
    _field("dtype", _STR),
    _field("clock_mhz", _FLOAT, nullable=True),  # locked clock; null = not locked
    _field("sm_clock_mhz", _FLOAT, nullable=True),  # seen under load
    _field("latency_s", _FLOAT, nullable=True),  # median; null unless status is ok or throttled
    _field("latency_p10_s", _FLOAT, nullable=True),
    _field("latency_p90_s", _FLOAT, nullable=True),
    _field("samples", _INT, nullable=True),
    _field("launch", _STR),  # graph | eager
    _field("cache", _STR),  # cold | hot
    _field("energy_j", _FLOAT, nullable=True),  # per call
    _field("power_w", _FLOAT, nullable=True),
    _field("temperature_c", _FLOAT, nullable=True),
    _field("status", _STR),
    _field("note", _STR, nullable=True),
    _field("origin", _STR),  # measured | imported:<tool> | analytic
    _field("run_id", _STR),
    _field("framework", _STR, nullable=True),  # engine the kernel was run through, "vllm-0.24.0"; null = none
)


@dataclass(frozen=True, slots=True)
class Family:
    """One op family: its shape columns, which together with ``CONTEXT`` identify a point."""

    name: str
    shape: tuple[pa.Field, ...]

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of a file of this family: shape columns, then the common ones."""
        metadata = {"apex_schema_version": str(SCHEMA_VERSION), "apex_family": self.name}
        return pa.schema([*self.shape, *COMMON], metadata=metadata)

    @property
    def shape_columns(self) -> tuple[str, ...]:
        """Names of the shape columns."""
        return tuple(field.name for field in self.shape)

    @property
    def key_columns(self) -> tuple[str, ...]:
        """Columns that identify a point: equal keys are repeats of one measurement."""
        return (*self.shape_columns, *CONTEXT)

    def key_of(self, row: Mapping[str, object]) -> tuple[object, ...]:
        """Key of one row as ``Store.keys`` gives it; a nullable context column may be absent from ``row``."""
        return tuple(row.get(column) for column in self.key_columns)


CONTEXT: Final = ("device", "backend", "dtype", "clock_mhz", "launch", "cache", "framework")

# C[m, n] = A[m, k] B[k, n]; m is the token count. `scaling`: none | tensor | row | group<size> (how low-precision
# operands are scaled). `quantise` is true where the timing includes quantising the activations.
GEMM: Final = Family(
    "gemm",
    (
        _field("m", _INT),
        _field("n", _INT),
        _field("k", _INT),
        _field("scaling", _STR),
        _field("quantise", pa.bool_()),
    ),
)

# One attention call over `num_prefill` equal chunks of `prefill_q` new tokens that see `prefill_kv` tokens each
# (prefix and themselves), and `num_decode` sequences of one (or `decode_q`) new token that see `decode_kv` tokens on
# average and `decode_kv_max` at most. `phase` = prefill | decode | mixed follows from which of the two is non-zero.
# `variant` = gqa | mla (mla: heads are query heads; head_dim 576 and v_head_dim 512 when absorbed).
# `window` = sliding window in tokens, 0 = none.
ATTENTION: Final = Family(
    "attention",
    (
        _field("phase", _STR),
        _field("variant", _STR),
        _field("num_heads", _INT),
        _field("num_kv_heads", _INT),
        _field("head_dim", _INT),
        _field("v_head_dim", _INT),
        _field("window", _INT),
        _field("kv_dtype", _STR),
        _field("num_prefill", _INT),
        _field("prefill_q", _INT),
        _field("prefill_kv", _INT),
        _field("num_decode", _INT),
        _field("decode_q", _INT),
        _field("decode_kv", _INT),
        _field("decode_kv_max", _INT),
    ),
)

# One scan over `num_prefill` equal prompts of `prefill_q` tokens, or over `num_decode` sequences of `decode_q` tokens:
# `phase` = prefill | decode, as engines run them. `variant` = mamba2 | gated_delta. `num_heads` states of
# `head_dim` x `state_dim` in `state_dtype`; `num_groups` keys and queries serve them. `chunk` = tokens that a prompt is
# worked through at once.
SCAN: Final = Family(
    "scan",
    (
        _field("phase", _STR),
        _field("variant", _STR),
        _field("num_heads", _INT),
        _field("num_groups", _INT),
        _field("head_dim", _INT),
        _field("state_dim", _INT),
        _field("chunk", _INT),
        _field("state_dtype", _STR),
        _field("num_prefill", _INT),
        _field("prefill_q", _INT),
        _field("num_decode", _INT),
        _field("decode_q", _INT),
    ),
)

# Both expert GEMMs, activation and combine on one rank that sees `num_tokens` tokens of the group. `tp` shards the
# inner size, `ep` the experts. `routing` = balanced | power_law_<exponent>.
MOE: Final = Family(
    "moe",
    (
        _field("num_tokens", _INT),
        _field("hidden", _INT),
        _field("inter", _INT),
        _field("num_experts", _INT),
        _field("topk", _INT),
        _field("tp", _INT),
        _field("ep", _INT),
        _field("routing", _STR),
    ),
)

# A memory-bound small op. `op` = rmsnorm | add_rmsnorm | silu_mul | rope | quantise | embedding | sampler | ...;
# `rows` tokens of `width` elements; `io_bytes` = bytes read plus written.
ELEMENTWISE: Final = Family(
    "elementwise",
    (_field("op", _STR), _field("rows", _INT), _field("width", _INT), _field("io_bytes", _INT)),
)

# An op of a person's own kernel: `op` its name, `sizes` those a plan fixes ("inner=1536 state=16"), `amount` the one
# that runs, in what `amount_of` says (tokens | sequences). A call is unit_flop * amount FLOP and moves call_bytes +
# unit_bytes * amount, so that a row can be fitted and priced without the code it came from.
CUSTOM: Final = Family(
    "custom",
    (
        _field("op", _STR),
        _field("sizes", _STR),
        _field("amount_of", _STR),
        _field("amount", _INT),
        _field("unit_flop", _FLOAT),
        _field("call_bytes", _FLOAT),
        _field("unit_bytes", _FLOAT),
    ),
)

# `message_bytes` is nccl-tests' S (total payload). `level` = name of the innermost link level that holds the group;
# `ranks` over `nodes` nodes. The path (nccl, vllm.custom_all_reduce, gloo ...) is `backend`.
COLLECTIVE: Final = Family(
    "collective",
    (
        _field("kind", _STR),
        _field("ranks", _INT),
        _field("nodes", _INT),
        _field("level", _STR),
        _field("message_bytes", _INT),
    ),
)

# A whole forward step of a model (or of `layers` of its layers) on one rank of a plan.
STEP: Final = Family(
    "step",
    (
        _field("model", _STR),
        _field("plan", _STR),
        _field("layers", _INT),
        _field("kv_dtype", _STR),
        _field("num_prefill", _INT),
        _field("prefill_q", _INT),
        _field("prefill_kv", _INT),
        _field("num_decode", _INT),
        _field("decode_kv", _INT),
    ),
)

FAMILIES: Final[dict[str, Family]] = {
    family.name: family for family in (GEMM, ATTENTION, SCAN, MOE, ELEMENTWISE, CUSTOM, COLLECTIVE, STEP)
}

# One row per profiling run, keyed by run_id.
RUN: Final = pa.schema(
    [
        _field("run_id", _STR),
        _field("device", _STR),
        _field("origin", _STR),
        _field("host_hash", _STR, nullable=True),
        _field("started_at", pa.timestamp("us", tz="UTC")),
        _field("ended_at", pa.timestamp("us", tz="UTC"), nullable=True),
        _field("world_size", _INT),
        _field("driver_version", _STR, nullable=True),
        _field("cuda_version", _STR, nullable=True),
        _field("nccl_version", _STR, nullable=True),
        _field("torch_version", _STR, nullable=True),
        _field("triton_version", _STR, nullable=True),
        _field("vllm_version", _STR, nullable=True),
        _field("tool_version", _STR, nullable=True),
        _field("git_commit", _STR, nullable=True),
        _field("topology", _STR, nullable=True),
        _field("idle_power_w", _FLOAT, nullable=True),
        _field("power_limit_w", _FLOAT, nullable=True),
        _field("command", _STR, nullable=True),
        _field("nccl_environment", _STR, nullable=True),  # NCCL_ALGO=Ring NCCL_CUMEM_ENABLE=0
        _field("sustained_clocks", _STR, nullable=True),  # JSON: MHz by number format after seconds of products
    ],
    metadata={"apex_schema_version": str(SCHEMA_VERSION), "apex_family": "run"},
)
