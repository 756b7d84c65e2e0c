"""Imports timed forward steps of vLLM as ``step`` rows: exact batches through the real model, no sampler, no host.

``vllm bench forward`` is young and its keys are not documented, so one layout is accepted and anything else refused:

    {"model": "...", "device": "NVIDIA H200", "vllm_version": "0.33.0", "dtype": "fp8", "kv_cache_dtype": "fp8",
     "num_layers": 80, "tensor_parallel_size": 4, "pipeline_parallel_size": 1, "cuda_graph": true,
     "batches": [{"requests": [{"count": 32, "query_len": 1, "context_len": 8192}], "latency_ms": [9.1, 9.2]}]}

A request of ``query_len`` 1 with a context decodes, any other prefills; it sees ``context_len + query_len`` tokens.
``latency_ms`` holds one value per sample, already averaged over the iterations of a sample.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass
from profiles_db.importers.counting import TableCount
from profiles_db.importers.delivery import record_run
from profiles_db.importers.device_names import device_name
from profiles_db.schema import STEP
from profiles_db.store import Store

MS: Final = 1e-3

ORIGIN: Final = "imported:vllm-bench-forward"


# More sequences, tokens or layers than this are no batch but a slip.
_MOST: Final = 2**31 - 1
# Faults that one message names; each takes a line.
_MOST_FAULTS: Final = 5


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Requests(_Entry):
    count: int = Field(gt=0, le=_MOST)
    query_len: int = Field(gt=0, le=_MOST)
    context_len: int = Field(ge=0, le=_MOST)


class _Batch(_Entry):
    requests: list[_Requests] = Field(min_length=1)
    latency_ms: list[float] = Field(min_length=1)


class _Forward(_Entry):
    model: str = Field(min_length=1)
    device: str = Field(min_length=1)
    vllm_version: str = Field(min_length=1)
    dtype: str = Field(min_length=1)
    kv_cache_dtype: str = Field(min_length=1)
    num_layers: int = Field(gt=0, le=_MOST)
    tensor_parallel_size: int = Field(gt=0, le=_MOST)
    pipeline_parallel_size: int = Field(gt=0, le=_MOST)
    cuda_graph: bool
    batches: list[_Batch]


_DTYPES: Final = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    """Columns of a step's batch."""

    num_prefill: int
    prefill_q: int
    prefill_kv: int
    num_decode: int
    decode_kv: int


def import_forward(path: Path, document: Mapping[str, Any], store: Store, *, device: str | None = None) -> TableCount:
    """Append one row per batch; raises ``UserError`` listing every key that is not as the layout says."""
    try:
        forward = _Forward.model_validate(document)
    except ValidationError as error:
        found = error.errors()
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in found[:_MOST_FAULTS])
        if len(found) > _MOST_FAULTS:
            faults += f"; and {len(found) - _MOST_FAULTS} more"
        raise UserError(
            f"{path}: not the accepted layout of forward steps: {faults}",
            hint="the layout is in docs/decisions/0013-vllm-bench-layouts.md",
        ) from error
    chosen = device or device_name(forward.device, path)
    run_id = f"vllm-bench-forward-{chosen}-{path.stem}"
    plan = f"pp{forward.pipeline_parallel_size}-tp{forward.tensor_parallel_size}"
    common = {
        "model": forward.model,
        "plan": plan.removeprefix("pp1-"),
        "layers": forward.num_layers,
        "kv_dtype": _DTYPES.get(forward.kv_cache_dtype, forward.kv_cache_dtype),
        "device": chosen,
        "backend": "vllm.execute_model",
        "dtype": _DTYPES.get(forward.dtype, forward.dtype),
        "launch": "graph" if forward.cuda_graph else "eager",
        "cache": "cold",
        "origin": ORIGIN,
        "framework": f"vllm-{forward.vllm_version}",
    }
    rows: list[dict[str, Any]] = []
    dropped: dict[str, int] = {}
    with store.writing():
        stored = store.read("step", device=chosen, statuses=None, where={"run_id": run_id}).to_pylist()
        present = {_identity(row) for row in stored}
        for batch in forward.batches:
            row, reason = _row(batch, common)
            if row is not None and _identity(row) in present:
                row, reason = None, "already in the store"
            if row is None:
                dropped[reason] = dropped.get(reason, 0) + 1
            else:
                rows.append(row)
        if rows:
            ranks = forward.tensor_parallel_size * forward.pipeline_parallel_size
            run = {"run_id": run_id, "device": chosen, "origin": ORIGIN, "world_size": ranks}
            record_run(store, {**run, "vllm_version": forward.vllm_version}, datetime.now(UTC))
            store.append("step", rows, run_id)
    return TableCount(table=str(path), family="step", rows_in=len(forward.batches), kept=len(rows), dropped=dropped)


def _identity(row: Mapping[str, Any]) -> tuple[object, ...]:
    return (*STEP.key_of(row), row["latency_s"])


def _row(batch: _Batch, common: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Give the batch's row, or None and why there is none."""
    samples = np.asarray(batch.latency_ms, dtype=np.float64) * MS
    if not (np.isfinite(samples).all() and (samples > 0).all()):
        return None, "latency zero, negative or not finite"
    shape = _shape(batch.requests)
    if shape is None:
        return None, "prefill chunks of unequal length"
    p10, median, p90 = (float(value) for value in np.percentile(samples, [10, 50, 90]))
    columns = {name: getattr(shape, name) for name in _Shape.__dataclass_fields__}
    timed = {"latency_s": median, "latency_p10_s": p10, "latency_p90_s": p90, "samples": len(samples)}
    return {**common, **columns, **timed, "status": "ok"}, ""


def _shape(requests: Sequence[_Requests]) -> _Shape | None:
    """Fold request groups into the step's columns; None where prefill chunks differ. ``decode_kv`` is the mean."""
    decodes = [group for group in requests if group.query_len == 1 and group.context_len > 0]
    prefills = [group for group in requests if group not in decodes]
    chunks = {(group.query_len, group.context_len) for group in prefills}
    if len(chunks) > 1:
        return None
    query, context = next(iter(chunks), (0, 0))
    num_decode = sum(group.count for group in decodes)
    total_kv = sum(group.count * (group.context_len + 1) for group in decodes)
    return _Shape(
        num_prefill=sum(group.count for group in prefills),
        prefill_q=query,
        prefill_kv=query + context,
        num_decode=num_decode,
        decode_kv=round(total_kv / num_decode) if num_decode else 0,
    )
