"""Rows of InferenceX (InferenceMAX): ``agg_*.json``, an object per run or a list of them.

A row states model, hardware, engine (``framework``, its version in the tag of ``image``), layout and load; times are
seconds, throughput is per GPU. Its client draws lengths in [0.8, 1] x nominal, sends ten requests per slot of
concurrency, and warms up with two per slot. Sources: SemiAnalysisAI/InferenceX utils/process_result.py,
utils/collect_results.py and utils/bench_serving/benchmark_serving.py. Rows of its first versions hold no lengths.
"""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiles_db.recordings.dates import stated_day
from profiles_db.recordings.fields import MOST_COUNT, count_at, number_at
from profiles_db.recordings.stated_server import StatedServer
from profiles_db.recordings.summarised_run import NominalLengths, SummarisedRun
from profiles_db.recordings.summary import ClientSummary

NAME: Final = "inferencex"
_KEYS: Final = ("hw", "conc", "model", "framework", "precision", "tput_per_gpu")
_TIMES: Final = {
    f"{word}_{key}": f"{name}.{statistic}"
    for key, name in (("ttft", "ttft_s"), ("tpot", "tpot_s"), ("itl", "itl_s"), ("e2el", "e2e_s"))
    for word, statistic in (("mean", "mean"), ("median", "p50"), ("p90", "p90"), ("p95", "p95"), ("p99", "p99"))
}
_PROMPTS_PER_SLOT: Final = 10
_WARMUP_PER_SLOT: Final = 2
_RANGE_RATIO: Final = 0.8
_ENGINES: Final = {"vllm": "vllm", "sglang": "sglang", "trt": "tensorrt-llm", "trtllm": "tensorrt-llm"}
_TAG: Final = re.compile(r":v?(\d{1,6}\.\d{1,6}(?:\.\d{1,6})?)")
_FASTEST_PER_S: Final = 1e9
_MOST_WIDTH: Final = 4096


def matches(record: Mapping[str, Any]) -> bool:
    """Tell a row by the keys every version writes."""
    return all(key in record for key in _KEYS)


def read_row(row: Mapping[str, Any], place: str) -> SummarisedRun:
    """Read one row; raises ``UserError`` naming place, key and value."""
    concurrency = count_at(row, "conc", place, low=1, high=2**20)
    nominal = _nominal(row, place)
    is_pools = row.get("is_multinode") in (True, "true") or row.get("prefill_tp") is not None
    plan, devices, refusal = _pools(row, place) if is_pools else _plan(row, place)
    decode_devices = count_at(row, "num_decode_gpu", place, high=MOST_COUNT) if is_pools else devices
    metrics = {path: number_at(row, key, place) for key, path in _TIMES.items() if row.get(key) is not None}
    metrics |= {
        path: shared * number_at(row, key, place, high=_FASTEST_PER_S)
        for key, path, shared in (
            ("output_tput_per_gpu", "throughput_tokens_per_s", decode_devices),
            ("tput_per_gpu", "throughput_total_tokens_per_s", devices),
        )
        if row.get(key) is not None
    }
    if not any(path.startswith(("ttft_s", "tpot_s", "e2e_s")) for path in metrics):
        raise UserError(f"{place}: holds no latency", hint=f"keys of rows are {', '.join(list(_TIMES)[:4])} ...")
    return SummarisedRun(
        tool=NAME,
        place=place,
        requests=_PROMPTS_PER_SLOT * concurrency,
        nominal=nominal,
        warmup=_WARMUP_PER_SLOT * concurrency,
        rate_per_s=math.inf,
        max_concurrency=concurrency,
        summary=ClientSummary(day=stated_day(row, place), metrics=metrics),
        stated=StatedServer(
            model=_text(row, "model", place),
            hardware=_text(row, "hw", place),
            engine=_engine(row, place),
            version=_version(row, place),
            precision=_text(row, "precision", place).lower(),
            plan=plan,
            devices=devices,
        ),
        refusal=refusal or _refusal(row),
        notes=()
        if nominal is None
        else ("the row states no requests: ten per slot of concurrency in [0.8, 1] x nominal, after two to warm up",),
    )


def _refusal(row: Mapping[str, Any]) -> str | None:
    drafts = row.get("spec_decoding", row.get("mtp"))
    if drafts not in {None, "", "none", "off", "false", False}:
        return f"it ran with drafts ({shown(drafts)}), of which the row does not tell how many were accepted"
    for key in ("dcp_size", "pcp_size"):
        if row.get(key) not in {None, 1, "1"}:
            return f"context parallelism ({key} {shown(row[key])}) is not simulated"
    return None


def _nominal(row: Mapping[str, Any], place: str) -> NominalLengths | None:
    if row.get("isl") is None or row.get("osl") is None:
        return None
    return NominalLengths(
        prompt_tokens=count_at(row, "isl", place, low=1),
        output_tokens=count_at(row, "osl", place, low=1),
        range_ratio=_RANGE_RATIO,
        draw="benchmark-serving",
    )


def _plan(row: Mapping[str, Any], place: str) -> tuple[str, int, str | None]:
    """Plan of one pool, its devices, and why it is not simulated, if so."""
    pp = 1 if row.get("pp") is None else count_at(row, "pp", place, low=1, high=_MOST_WIDTH)
    plan, refusal = _layout(row, "", place)
    devices = count_at(row, "tp", place, low=1, high=_MOST_WIDTH) * pp
    return (plan if pp == 1 else f"pp{pp}-{plan}"), devices, refusal


def _pools(row: Mapping[str, Any], place: str) -> tuple[str, int, str | None]:
    sides, refusals = [], []
    for side in ("prefill", "decode"):
        workers = count_at(row, f"{side}_num_workers", place, low=1, high=_MOST_WIDTH)
        plan, refusal = _layout(row, f"{side}_", place)
        sides.append(f"{side}.{plan}" if workers == 1 else f"{side}.dp{workers}-{plan}")
        refusals.append(refusal)
        if row.get(f"{side}_pp") not in {None, 1}:
            refusals.append("pools of pipelines are not simulated")
    devices = sum(count_at(row, key, place, low=1, high=MOST_COUNT) for key in ("num_prefill_gpu", "num_decode_gpu"))
    hardware = {row.get("prefill_hw"), row.get("decode_hw")}
    if len(hardware) > 1:
        refusals.append(f"its pools are of different devices ({', '.join(map(shown, sorted(map(str, hardware))))})")
    return "+".join(sides), devices, next((refusal for refusal in refusals if refusal), None)


def _layout(row: Mapping[str, Any], side: str, place: str) -> tuple[str, str | None]:
    """Layout of one replica: ranks hold slices of every layer, or attention runs data-parallel over them."""
    tp = count_at(row, f"{side}tp", place, low=1, high=_MOST_WIDTH)
    ep = 1 if row.get(f"{side}ep") is None else count_at(row, f"{side}ep", place, low=1, high=_MOST_WIDTH)
    key = f"{side}dp_attention"
    attention = row.get(key)
    if str(attention).lower() not in {"true", "false", "none"}:
        raise UserError(f"{place}: {key} is {shown(attention)}, must be true or false")
    refusal = None if ep in {1, tp} else f"experts over {ep} of {tp} ranks are not simulated"
    if str(attention).lower() == "true" and tp > 1:
        return (f"attn.dp{tp}-moe.ep{tp}" if ep > 1 else f"attn.dp{tp}"), refusal
    return (f"tp{tp}-ep{tp}" if ep > 1 and tp > 1 else f"tp{tp}"), refusal


def _engine(row: Mapping[str, Any], place: str) -> str:
    """Engine behind a framework's name: ``vllm``, ``dynamo-sglang``, ``sglang-disagg``; other names as they are."""
    framework = _text(row, "framework", place).lower()
    return next((_ENGINES[part] for part in framework.split("-") if part in _ENGINES), framework)


def _version(row: Mapping[str, Any], place: str) -> str | None:
    """Version in the tag of the engine's own image; that of an image of Dynamo is Dynamo's."""
    if row.get("image") is None:
        return None
    image = _text(row, "image", place)
    found = _TAG.search(image)
    return None if found is None or "dynamo" in image else found[1]


def _text(row: Mapping[str, Any], key: str, place: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{place}: {key} is {shown(value)}, must be a text")
    return value.strip()
