"""How a model is laid out on a cluster: replicas, stages, tensor and expert parallelism, formats, clock, cap, limits.

Text form: ``dp2-pp2-tp4``; ``ep8`` where experts are whole instead of sharded; ``attn.dp8-moe.ep8`` where attention
runs data-parallel inside the replica while the experts span it; formats, locked clock in MHz, power cap in watts per
device and batch limits (sequences, tokens) as suffixes: ``tp4-w.fp8-kv.fp8``, ``tp4-f1410``, ``tp4-cap350``,
``tp4-s256-t8192``. A plan with both runs at its clock, and below it where the power would exceed the cap.
"""

import re
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass

_COUNTS: Final = {
    "dp": "dp",
    "pp": "pp",
    "tp": "tp",
    "ep": "ep",
    "attn.dp": "attention_dp",
    "moe.ep": "ep",
    "s": "max_num_seqs",
    "t": "max_num_batched_tokens",
}
_PART: Final = re.compile(r"^(attn\.dp|moe\.ep|dp|pp|tp|ep|s|t)(\d+)$|^(f|cap)(\d+(?:\.\d+)?)$|^(w|kv)\.([a-z0-9_]+)$")
_RATES: Final = {"f": ("clock_mhz", "clock f", "MHz"), "cap": ("power_cap_w", "power cap", "W")}

WEIGHT_DTYPES: Final = (
    "bf16",
    "fp16",
    "fp8",
    "fp8_block",
    "w8a8",
    "w4a16",
    "w8a16",
    "mxfp4",
    "nvfp4",
    "fp32",
)
KV_DTYPES: Final = ("bf16", "fp16", "fp8", "fp32")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One layout. A replica spans ``pp * tp * attention_dp`` devices, the plan ``dp`` times as many.

    ``ep`` of 1 shards every expert over the replica's ``tp * attention_dp`` ranks; otherwise it must equal that
    product and experts are whole. ``weight_dtype`` and ``kv_dtype`` of None keep the checkpoint's own, batch limits of
    None those of the engine.
    """

    dp: int = 1
    pp: int = 1
    tp: int = 1
    attention_dp: int = 1
    ep: int = 1
    weight_dtype: str | None = None
    kv_dtype: str | None = None
    clock_mhz: float | None = None
    power_cap_w: float | None = None  # of each device
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    # FP8 weights come from a checkpoint that states the scales of its inputs. Not in the text form: engines decide.
    has_static_inputs: bool = False

    @property
    def stage_ranks(self) -> int:
        """Devices of one pipeline stage of one replica."""
        return self.tp * self.attention_dp

    @property
    def replica_devices(self) -> int:
        """Devices of one model replica."""
        return self.pp * self.stage_ranks

    @property
    def num_devices(self) -> int:
        """Devices of the whole plan."""
        return self.dp * self.replica_devices

    def __str__(self) -> str:
        """Canonical text form; ``parse_plan`` reads it back."""
        parts = [f"dp{self.dp}"] if self.dp > 1 else []
        if self.pp > 1:
            parts.append(f"pp{self.pp}")
        if self.attention_dp > 1:
            parts.append(f"attn.dp{self.attention_dp}")
        if self.tp > 1:
            parts.append(f"tp{self.tp}")
        if self.ep > 1:
            parts.append(f"moe.ep{self.ep}" if self.attention_dp > 1 else f"ep{self.ep}")
        if not parts:
            parts.append("tp1")
        if self.weight_dtype:
            parts.append(f"w.{self.weight_dtype}")
        if self.kv_dtype:
            parts.append(f"kv.{self.kv_dtype}")
        if self.clock_mhz:
            parts.append(f"f{self.clock_mhz:g}")
        if self.power_cap_w:
            parts.append(f"cap{self.power_cap_w:g}")
        if self.max_num_seqs:
            parts.append(f"s{self.max_num_seqs}")
        if self.max_num_batched_tokens:
            parts.append(f"t{self.max_num_batched_tokens}")
        return "-".join(parts)


def parse_plan(text: str) -> Plan:
    """Read a plan's text form; raises ``UserError`` naming the part that is wrong."""
    values: dict[str, int | str | float] = {}
    for part in text.strip().lower().split("-"):
        match = _PART.match(part)
        if match is None:
            raise UserError(
                f"plan {text!r}: part {part!r} is not one of dpN, ppN, tpN, epN, attn.dpN, moe.epN, w.DTYPE, kv.DTYPE, "
                "fMHZ, capWATTS, sSEQUENCES, tTOKENS",
                hint="for example dp2-tp4, pp2-tp4-kv.fp8 or attn.dp8-moe.ep8",
            )
        key, value = _read_part(text, match)
        if key in values:
            raise UserError(f"plan {text!r}: {part!r} sets {key} a second time")
        values[key] = value
    plan = Plan(**values)  # type: ignore[arg-type]
    if plan.ep not in {1, plan.stage_ranks}:
        raise UserError(
            f"plan {text!r}: ep is {plan.ep}, must be 1 or tp x attn.dp = {plan.stage_ranks}",
            hint="engines keep experts whole over exactly the ranks of a stage, or shard every one of them",
        )
    return plan


def _read_part(text: str, match: re.Match[str]) -> tuple[str, int | str | float]:
    """Field and value of one part of a plan's text."""
    axis, degree, rate, value, tensor, dtype = match.groups()
    if axis is not None:
        if int(degree) < 1:
            raise UserError(f"plan {text!r}: {axis} is {degree}, must be >= 1")
        return _COUNTS[axis], int(degree)
    if rate is not None:
        field, name, unit = _RATES[rate]
        if not float(value) > 0:
            raise UserError(f"plan {text!r}: {name} is {value} {unit}, must be > 0")
        return field, float(value)
    known = WEIGHT_DTYPES if tensor == "w" else KV_DTYPES
    if dtype not in known:
        raise UserError(f"plan {text!r}: {tensor}.{dtype} is not one of {', '.join(known)}")
    return ("weight_dtype" if tensor == "w" else "kv_dtype"), dtype
