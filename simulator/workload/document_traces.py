"""Reads request logs that are one JSON document: ShareGPT conversations and `vllm bench serve --save-detailed` results.

A ShareGPT file holds texts and no times: lengths are counted by a tokeniser or estimated from characters, and all
requests arrive at 0; ``synthetic:like=FILE,rate=...`` draws arrivals over its lengths.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cluster_specs.errors import UserError
from simulator.workload.columns import MAX_PLAUSIBLE_TOKENS
from simulator.workload.text_traces import open_bytes
from simulator.workload.workload import ClosedLoop, OpenLoop, Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLengths:
    """How texts become token counts, and which conversations a benchmark keeps (vLLM's limits by default)."""

    count_tokens: Callable[[str], int] | None = None  # None: estimate from characters
    chars_per_token: float = 4.0
    min_tokens: int = 4
    max_prompt_tokens: int = 1024
    max_total_tokens: int = 2048

    def __post_init__(self) -> None:
        if not (math.isfinite(self.chars_per_token) and self.chars_per_token > 0):
            raise UserError(f"chars_per_token is {self.chars_per_token}, must be a positive number")

    def tokens(self, text: str) -> int:
        """Token count of ``text``."""
        if self.count_tokens is not None:
            return self.count_tokens(text)
        return math.ceil(len(text) / self.chars_per_token)


def sniff_document(path: Path) -> str | None:
    """Tell which document format a .json file is; None when it rather looks like one record per line."""
    with open_bytes(path) as file:
        head = file.read(65_536).lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"["):
        return "sharegpt"
    first_line = head.split(b"\n", 1)[0]
    try:
        record = json.loads(first_line)
    except ValueError:
        return "vllm-bench"  # an object that spans lines, or is longer than the head
    return "vllm-bench" if not isinstance(record, dict) or _looks_like_bench(record) else None


def _looks_like_bench(record: dict[str, Any]) -> bool:
    return "input_lens" in record or "total_input_tokens" in record


def read_document(path: Path, format_name: str, limit: int | None, text: TextLengths) -> Workload:
    """Read a ShareGPT or `vllm bench serve` file; UserError names the entry that cannot be used."""
    name = sniff_document(path) if format_name == "auto" else format_name
    with open_bytes(path) as file:
        raw = file.read()
    if not raw.strip():
        raise UserError(
            f"{path}: the trace is empty, must hold at least one request",
            hint="try --trace chat-synthetic, the bundled trace",
        )
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a complete JSON document: {error}") from error
    return _read_sharegpt(path, document, limit, text) if name == "sharegpt" else _read_bench(path, document, limit)


def _read_sharegpt(path: Path, document: object, limit: int | None, text: TextLengths) -> Workload:
    if not isinstance(document, list):
        raise UserError(f"{path}: is a JSON {type(document).__name__}, must be a list of conversations")
    lengths: list[tuple[int, int]] = []
    short, outside = 0, 0
    for index, entry in enumerate(document):
        if limit is not None and len(lengths) == limit:
            break
        turns = _turn_texts(path, index, entry)
        if len(turns) < 2:
            short += 1
            continue
        prompt, output = text.tokens(turns[0]), text.tokens(turns[1])
        if (
            min(prompt, output) < text.min_tokens
            or prompt > text.max_prompt_tokens
            or prompt + output > text.max_total_tokens
        ):
            outside += 1
            continue
        lengths.append((prompt, output))
    if not lengths:
        raise UserError(
            f"{path}: holds no usable request: {short} of {len(document)} conversations have fewer than 2 turns, "
            f"{outside} lie outside the length limits"
        )
    notes = [f"{path}: no arrival times; all {len(lengths)} requests arrive at once"]
    if text.count_tokens is None:
        notes.append(f"{path}: token counts estimated at {text.chars_per_token:g} characters per token")
    if short or outside:
        notes.append(
            f"{path}: dropped {short} conversations of fewer than 2 turns and {outside} outside "
            f">= {text.min_tokens} tokens each, <= {text.max_prompt_tokens} prompt, <= {text.max_total_tokens} in all"
        )
    pairs = np.array(lengths, dtype=np.int64)
    return Workload(
        name=path.name.split(".")[0],
        arrival_s=np.zeros(len(pairs)),
        prompt_tokens=pairs[:, 0].copy(),
        output_tokens=pairs[:, 1].copy(),
        notes=tuple(notes),
    )


def _turn_texts(path: Path, index: int, entry: object) -> list[str]:
    place = f"{path}: entry {index + 1}"
    turns = entry.get("conversations", entry.get("conversation")) if isinstance(entry, dict) else None
    if not isinstance(turns, list):
        raise UserError(f"{place}: has no list 'conversations'", hint="is this a ShareGPT file?")
    texts = [turn.get("value", turn.get("content")) if isinstance(turn, dict) else None for turn in turns[:2]]
    if not all(isinstance(value, str) for value in texts):
        raise UserError(f"{place}: a turn has no text 'value'", hint="is this a ShareGPT file?")
    return [value for value in texts if isinstance(value, str)]


_LONGEST_CLOCK_S: Final = 1e12  # seconds of a perf_counter
_DETAIL_HINT: Final = "run vllm bench serve with --save-detailed"


def _read_bench(path: Path, document: object, limit: int | None) -> Workload:
    if not isinstance(document, dict):
        raise UserError(f"{path}: is a JSON {type(document).__name__}, must be one result object")
    prompts, outputs = (_bench_lengths(path, document, key) for key in ("input_lens", "output_lens"))
    if len(prompts) != len(outputs):
        raise UserError(f"{path}: input_lens has {len(prompts)} entries, output_lens {len(outputs)}; must match")
    served = outputs > 0
    if not served.any():
        raise UserError(f"{path}: all {len(outputs)} requests failed (output_lens 0)")
    failed = int((~served).sum())
    notes = [f"{path}: dropped {failed} failed requests (output_lens 0)"] if failed else []
    if (prompts[served] < 1).any():
        index = int(np.flatnonzero(served & (prompts < 1))[0])
        raise UserError(f"{path}: input_lens[{index}] is {prompts[index]}, must be >= 1")
    concurrency = document.get("max_concurrency")
    starts = document.get("start_times")
    is_closed = concurrency is not None and document.get("request_rate") in ("inf", None, math.inf)
    if is_closed and not (isinstance(concurrency, int) and concurrency >= 1):
        raise UserError(f"{path}: max_concurrency is {concurrency!r}, must be a whole number >= 1")
    if is_closed or document.get("request_rate") == "inf":
        arrival_s = np.zeros(len(prompts))
    elif isinstance(starts, list) and len(starts) == len(prompts):
        arrival_s = _bench_starts(path, starts)
    else:
        raise UserError(
            f"{path}: has no start_times, and request_rate is {document.get('request_rate')!r}",
            hint=f"{_DETAIL_HINT} in vLLM >= 0.9, or draw arrivals over its lengths: synthetic:like=FILE,rate=2,n=500",
        )
    order = np.flatnonzero(served)
    order = order[np.argsort(arrival_s[order], kind="stable")][:limit]
    return Workload(
        name=path.name.rsplit(".", 1)[0],
        arrival_s=arrival_s[order] - arrival_s[order[0]],
        prompt_tokens=prompts[order],
        output_tokens=outputs[order],
        client=ClosedLoop(concurrency=int(concurrency)) if concurrency is not None and is_closed else OpenLoop(),
        notes=tuple(notes),
    )


def _bench_lengths(path: Path, document: dict[str, Any], key: str) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    values = document.get(key)
    if not isinstance(values, list) or not values:
        raise UserError(f"{path}: has no per-request list {key!r}", hint=_DETAIL_HINT)
    for index, value in enumerate(values):
        if type(value) is not int or not 0 <= value <= MAX_PLAUSIBLE_TOKENS:
            raise UserError(
                f"{path}: {key}[{index}] is {value!r}, must be a whole number from 0 to {MAX_PLAUSIBLE_TOKENS}"
            )
    return np.array(values, dtype=np.int64)


def _bench_starts(path: Path, starts: Sequence[object]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    for index, value in enumerate(starts):
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LONGEST_CLOCK_S:
            raise UserError(f"{path}: start_times[{index}] is {value!r}, must be a number of seconds")
    return np.array(starts, dtype=np.float64)
