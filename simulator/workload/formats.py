"""The record formats of public request traces: which keys hold what, in which unit, and how to recognise them.

Sources: microsoft/apex_plus traces; Azure/AzurePublicDataset (2023, 2024, 2025 multimodal); HPMLL/BurstGPT;
kvcache-ai/Mooncake; alibaba-edu/qwen-bailian-usagetraces-anon.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from cluster_specs.errors import UserError

TimeUnit = Literal["ns", "us", "ms", "s"]
Container = Literal["jsonl", "csv", "parquet"]
UNITS_PER_SECOND: Final[Mapping[TimeUnit, int]] = {"ns": 1_000_000_000, "us": 1_000_000, "ms": 1_000, "s": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFormat:
    """Where one record keeps its arrival, lengths and (optionally) prefix blocks, session and replica."""

    name: str
    container: Container
    time: str
    time_unit: TimeUnit | None  # None: calendar time (ISO 8601), counted from the first record
    prompt: str
    output: str
    replica: str | None = None
    hash_ids: str | None = None
    block_tokens: int | None = None
    request_id: str | None = None
    parent_id: str | None = None
    after: str | None = None
    think_s: str | None = None
    zero_output_failed: bool = False  # a response of 0 tokens marks a request that failed
    unit_is_certain: bool = False  # the key itself names the unit, so no plausibility check is needed

    def required_keys(self) -> tuple[str, ...]:
        """Keys every record must have."""
        return (self.time, self.prompt, self.output)

    def optional_keys(self) -> tuple[str, ...]:
        """Keys read when the file has them."""
        keys = (self.replica, self.hash_ids, self.request_id, self.parent_id, self.after, self.think_s)
        return tuple(key for key in keys if key is not None)


_OWN: Final = RecordFormat(
    name="apex-csv",
    container="csv",
    time="arrival_s",
    time_unit="s",
    prompt="prompt_tokens",
    output="output_tokens",
    replica="replica",
    hash_ids="prefix_ids",
    request_id="id",
    after="after",
    think_s="think_s",
    unit_is_certain=True,
)

# The first format whose required keys (and distinguishing key) are all present is the file's.
RECORD_FORMATS: Final[tuple[RecordFormat, ...]] = (
    RecordFormat(
        name="apex",
        container="jsonl",
        time="StartTimeOffset",
        time_unit="ns",
        prompt="ContextTokens",
        output="GeneratedTokens",
        replica="Replica",
    ),
    RecordFormat(
        name="bailian",
        container="jsonl",
        time="timestamp",
        time_unit="s",
        prompt="input_length",
        output="output_length",
        hash_ids="hash_ids",
        block_tokens=16,
        request_id="chat_id",
        parent_id="parent_chat_id",
    ),
    RecordFormat(
        name="mooncake",
        container="jsonl",
        time="timestamp",
        time_unit="ms",
        prompt="input_length",
        output="output_length",
        hash_ids="hash_ids",
        block_tokens=512,
    ),
    replace(_OWN, name="apex-jsonl", container="jsonl"),
    RecordFormat(
        name="azure",
        container="csv",
        time="TIMESTAMP",
        time_unit=None,
        prompt="ContextTokens",
        output="GeneratedTokens",
    ),
    RecordFormat(
        name="burstgpt",
        container="csv",
        time="Timestamp",
        time_unit="s",
        prompt="Request tokens",
        output="Response tokens",
        zero_output_failed=True,
    ),
    replace(_OWN, hash_ids=None),
    replace(_OWN, name="apex-parquet", container="parquet"),
)

DOCUMENT_FORMATS: Final = ("sharegpt", "vllm-bench")
FORMAT_NAMES: Final = ("auto", *(fmt.name for fmt in RECORD_FORMATS), *DOCUMENT_FORMATS)
COLUMN_ROLES: Final = ("time", "prompt", "output", "replica", "hash_ids", "request_id", "parent_id")


def record_format(name: str) -> RecordFormat:
    """Return the record format called ``name``; UserError names the known ones."""
    for fmt in RECORD_FORMATS:
        if fmt.name == name:
            return fmt
    raise UserError(f"trace format {name!r} is not known", hint=f"choose one of {', '.join(FORMAT_NAMES)}")


def detect_format(place: str, container: Container, keys: Collection[str]) -> RecordFormat:
    """Recognise a format by the keys of the first record (or the header); UserError when none fits."""
    for fmt in RECORD_FORMATS:
        distinguishing = (fmt.request_id,) if fmt.name == "bailian" else ()
        if fmt.container == container and all(key in keys for key in (*fmt.required_keys(), *distinguishing)):
            return fmt
    known = "; ".join(
        f"{fmt.name}: {', '.join(fmt.required_keys())}" for fmt in RECORD_FORMATS if fmt.container == container
    )
    raise UserError(
        f"{place}: no known trace format has the keys {sorted(keys)}",
        hint=f"known {container} formats are {known}; for others name the columns, e.g. "
        "--format mooncake --column prompt=input_len --time-unit ms",
    )


def with_columns(fmt: RecordFormat, columns: Mapping[str, str], time_unit: TimeUnit | None) -> RecordFormat:
    """Return ``fmt`` reading other keys (role -> key) or another time unit."""
    for role in columns:
        if role not in COLUMN_ROLES:
            raise UserError(f"column role {role!r} is not known", hint=f"choose one of {', '.join(COLUMN_ROLES)}")
    if time_unit is not None:
        if time_unit not in get_args(TimeUnit):
            raise UserError(f"time unit {time_unit!r} is not known", hint="choose one of ns, us, ms, s")
        fmt = replace(fmt, time_unit=time_unit, unit_is_certain=True)
    return replace(fmt, **columns)  # type: ignore[arg-type]  # the roles checked above are all str fields
