"""The record formats of public request traces: which keys hold what, in which unit, and how to recognise them.

A format says nothing of the container: lines of JSON, a JSON list, CSV and Parquet hold any of them.

Sources: microsoft/apex_plus traces; Azure/AzurePublicDataset (2023, 2024, 2025 multimodal); HPMLL/BurstGPT;
kvcache-ai/Mooncake; alibaba-edu/qwen-bailian-usagetraces-anon; microsoft/vidur data/processed_traces;
casys-kaist/LLMServingSim docs/docs/workloads/jsonl-format.md.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Final, Literal, get_args

from cluster_specs.errors import UserError
from cluster_specs.files.shown import listed
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.recordings.tools import TOOLS

TimeUnit = Literal["ns", "us", "ms", "s"]
UNITS_PER_SECOND: Final[Mapping[TimeUnit, int]] = {"ns": 1_000_000_000, "us": 1_000_000, "ms": 1_000, "s": 1}

# Why a format's unit is believed: the user states it; the key names it; the layout is published and nobody else's; or
# others write the same keys in other units, so that the times themselves have to agree.
UnitBasis = Literal["stated", "named", "layout", "shared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFormat:
    """Where one record keeps its arrival, lengths and (optionally) prefix blocks, session and replica."""

    name: str
    time: str
    time_unit: TimeUnit | None  # None: a date, or a number whose unit only the times themselves can tell
    prompt: str
    output: str
    unit_basis: UnitBasis = "layout"
    whole_times: bool = False  # the published files hold whole numbers only
    replica: str | None = None
    hash_ids: str | None = None
    token_ids: str | None = None  # the prompt's own tokens, whose blocks the reader numbers itself
    block_tokens: int | None = None
    request_id: str | None = None
    parent_id: str | None = None
    after: str | None = None
    think_s: str | None = None
    images: str | None = None  # lists of [width, height]
    audio_s: str | None = None  # lists of seconds
    distinguishing: str | None = None  # a key that tells it from a format of the same required keys
    zero_output_failed: bool = False  # a response of 0 tokens marks a request that failed

    def required_keys(self) -> tuple[str, ...]:
        """Keys every record must have."""
        return (self.time, self.prompt, self.output)

    def optional_keys(self) -> tuple[str, ...]:
        """Keys read when the file has them."""
        prompts = (self.hash_ids, self.token_ids, self.images, self.audio_s)
        keys = (self.replica, *prompts, self.request_id, self.parent_id, self.after, self.think_s)
        return tuple(key for key in keys if key is not None)


_OWN: Final = RecordFormat(
    name="apex-jsonl",
    time="arrival_s",
    time_unit="s",
    unit_basis="named",
    prompt="prompt_tokens",
    output="output_tokens",
    replica="replica",
    hash_ids="prefix_ids",
    request_id="id",
    after="after",
    think_s="think_s",
    images="images",
    audio_s="audio_s",
)

# The first format whose required keys (and distinguishing key) are all present is the file's.
RECORD_FORMATS: Final[tuple[RecordFormat, ...]] = (
    RecordFormat(
        name="apex",
        time="StartTimeOffset",
        time_unit="ns",
        prompt="ContextTokens",
        output="GeneratedTokens",
        replica="Replica",
    ),
    RecordFormat(
        name="bailian",
        time="timestamp",
        time_unit="s",
        prompt="input_length",
        output="output_length",
        hash_ids="hash_ids",
        block_tokens=16,
        request_id="chat_id",
        parent_id="parent_chat_id",
        distinguishing="chat_id",
    ),
    RecordFormat(
        name="mooncake",
        time="timestamp",
        time_unit="ms",
        unit_basis="shared",
        whole_times=True,
        prompt="input_length",
        output="output_length",
        hash_ids="hash_ids",
        block_tokens=512,
    ),
    _OWN,
    RecordFormat(
        name="azure",
        time="TIMESTAMP",
        time_unit=None,
        prompt="ContextTokens",
        output="GeneratedTokens",
    ),
    RecordFormat(
        name="burstgpt",
        time="Timestamp",
        time_unit="s",
        prompt="Request tokens",
        output="Response tokens",
        zero_output_failed=True,
    ),
    RecordFormat(
        name="vidur",
        time="arrived_at",
        time_unit="s",
        prompt="num_prefill_tokens",
        output="num_decode_tokens",
    ),
    RecordFormat(
        name="llmservingsim",
        time="arrival_time_ns",
        time_unit="ns",
        unit_basis="named",
        prompt="input_toks",
        output="output_toks",
        token_ids="input_tok_ids",  # noqa: S106 - no secret
        block_tokens=16,
    ),
    replace(_OWN, name="apex-csv"),
    replace(_OWN, name="apex-parquet"),
)

FORMAT_NAMES: Final = ("auto", *(fmt.name for fmt in RECORD_FORMATS), "sharegpt", *TOOLS)
COLUMN_ROLES: Final = ("time", "prompt", "output", "replica", "hash_ids", "request_id", "parent_id")
_NEEDED_ROLES: Final = ("time", "prompt", "output")


def record_format(name: str) -> RecordFormat:
    """Return the record format called ``name``; UserError names the known ones."""
    for fmt in RECORD_FORMATS:
        if fmt.name == name:
            return fmt
    raise UserError(f"trace format {name!r} is not known", hint=f"choose one of {', '.join(FORMAT_NAMES)}")


def choose_format(
    place: str, name: str, keys: Collection[str], columns: Mapping[str, str], time_unit: TimeUnit | None
) -> RecordFormat:
    """Return the format called ``name``, or the one that ``keys`` show for "auto", reading ``columns`` (role -> key).

    A format's certainty about its unit does not outlive a changed time column. Raises UserError where none fits.
    """
    for role in columns:
        if role not in COLUMN_ROLES:
            raise UserError(f"column role {role!r} is not known", hint=f"choose one of {', '.join(COLUMN_ROLES)}")
    if time_unit is not None and time_unit not in get_args(TimeUnit):
        raise UserError(f"time unit {time_unit!r} is not known", hint="choose one of ns, us, ms, s")
    fmt = _detected(place, keys, columns) if name == "auto" else _with_columns(record_format(name), columns)
    return fmt if time_unit is None else replace(fmt, time_unit=time_unit, unit_basis="stated")


def _with_columns(fmt: RecordFormat, columns: Mapping[str, str]) -> RecordFormat:
    if columns.get("time", fmt.time) != fmt.time:
        fmt = replace(fmt, time_unit=None, unit_basis="layout")
    return replace(fmt, **columns)  # type: ignore[arg-type]  # the roles are all str fields


def _detected(place: str, keys: Collection[str], columns: Mapping[str, str]) -> RecordFormat:
    """Recognise a format by the keys of the first record (or the header), or take what the three columns say."""
    for fmt in RECORD_FORMATS:
        own = _with_columns(fmt, columns)
        is_its_own = own.required_keys() == fmt.required_keys() or not all(role in columns for role in _NEEDED_ROLES)
        wanted = (*own.required_keys(), *((own.distinguishing,) if own.distinguishing else ()))
        if is_its_own and all(key in keys for key in wanted):
            return own
    if all(role in columns for role in _NEEDED_ROLES):
        return RecordFormat(name="columns", time_unit=None, **columns)  # type: ignore[arg-type]
    known = "; ".join(f"{fmt.name}: {', '.join(fmt.required_keys())}" for fmt in RECORD_FORMATS[:-2])
    raise UserError(
        f"{place}: no known trace format has the keys {listed(sorted(keys))}",
        hint="name the columns: --column time=KEY --column prompt=KEY --column output=KEY (and --time-unit where the "
        f"key does not say it); known are {known}",
    )
