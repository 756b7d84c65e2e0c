"""How a model is laid out on a cluster: replicas, stages, tensor and expert parallelism, formats, clock, cap, limits.

Text form: ``dp2-pp2-tp4``; ``ep8`` where experts are whole instead of sharded, ``tp8-ep2`` where two groups of four
ranks hold half of them each, sharded over the four; ``attn.dp8-moe.ep8`` where attention runs data-parallel inside the
replica while the experts span it; ``moe.dp2`` and ``mlp.dp2`` for copies of the experts and of the dense feed-forwards
in a stage; ``moe.redundant32`` for so many experts that are held twice; ``dcp4`` where four tensor ranks share the
cached tokens out; ``pp41_39`` for stages of so many layers; ``near.pp`` and ``near.attn.dp`` where neighbouring devices
are those of that axis instead of the tensor axis; formats, locked clock in MHz, power cap in watts per device and batch
limits (sequences, tokens) as suffixes: ``tp4-w.fp8-kv.fp8``, ``tp4-f1410``, ``tp4-cap350``, ``tp4-s256-t8192``. A plan
with both runs at its clock, and below it where the power would exceed the cap.
"""

import re
from math import gcd
from typing import Final, Literal

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass

_COUNTS: Final = {
    "dp": "dp",
    "pp": "pp",
    "tp": "tp",
    "ep": "ep",
    "attn.dp": "attention_dp",
    "moe.ep": "ep",
    "moe.dp": "moe_dp",
    "mlp.dp": "mlp_dp",
    "moe.redundant": "redundant_experts",
    "dcp": "dcp",
    "s": "max_num_seqs",
    "t": "max_num_batched_tokens",
}
_PART: Final = re.compile(
    r"^(attn\.dp|moe\.ep|moe\.dp|moe\.redundant|mlp\.dp|dcp|dp|pp|tp|ep|s|t)(\d+)$|^(f|cap)(\d+(?:\.\d+)?)$|^(w|kv)\.([a-z0-9_]+)$"
    r"|^pp(\d+(?:_\d+)+)$|^near\.(pp|attn\.dp)$"
)
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

    A stage holds ``moe_dp`` copies of its routed experts, each over ``expert_ranks`` devices: ``ep`` groups of those
    hold so many parts of the experts, each expert sharded over the ``expert_shards`` devices of its group. ``mlp_dp``
    copies of a dense feed-forward are sharded over ``mlp_ranks`` devices each; None leaves their number to the engine.
    Cached tokens that ``dcp`` neighbouring tensor ranks would hold copies of are shared out among them (decode context
    parallelism). ``stage_layers`` of None leaves the layers of each stage to the engine. ``weight_dtype`` and
    ``kv_dtype`` of None keep the checkpoint's own, batch limits of None those of the engine.
    """

    dp: int = 1
    pp: int = 1
    tp: int = 1
    attention_dp: int = 1
    ep: int = 1
    moe_dp: int = 1
    mlp_dp: int | None = None
    redundant_experts: int = 0  # held beside each layer's own and moved about by load; together they divide by ep
    dcp: int = 1
    near: Literal["tp", "attn.dp", "pp"] = "tp"  # the axis whose ranks are neighbouring devices
    stage_layers: tuple[int, ...] | None = None
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
    def expert_ranks(self) -> int:
        """Devices that one copy of the routed experts spans."""
        return self.stage_ranks // self.moe_dp

    @property
    def expert_shards(self) -> int:
        """Devices that one expert is sharded over."""
        return self.expert_ranks // self.ep

    @property
    def mlp_copies(self) -> int:
        """Copies of a dense feed-forward in a stage: one for each attention rank unless something else is said."""
        return self.mlp_dp or self.attention_dp

    @property
    def mlp_ranks(self) -> int:
        """Devices that one copy of a dense feed-forward is sharded over."""
        return self.stage_ranks // self.mlp_copies

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
        suffixes = (
            ("w.", self.weight_dtype),
            ("kv.", self.kv_dtype),
            ("f", self.clock_mhz and f"{self.clock_mhz:g}"),
            ("cap", self.power_cap_w and f"{self.power_cap_w:g}"),
            ("s", self.max_num_seqs),
            ("t", self.max_num_batched_tokens),
        )
        return "-".join([*self._degrees(), *(f"{name}{value}" for name, value in suffixes if value)])

    def _degrees(self) -> list[str]:
        """Return the parts of the text form that say where things are."""
        stages = "_".join(map(str, self.stage_layers)) if self.stage_layers else str(self.pp)
        experts = "moe.ep" if self.attention_dp > 1 else "ep"
        degrees = (
            ("dp", self.dp, self.dp),
            ("pp", self.pp, stages),
            ("attn.dp", self.attention_dp, self.attention_dp),
            ("tp", self.tp, self.tp),
            ("dcp", self.dcp, self.dcp),
            (experts, self.ep, self.ep),
            ("moe.dp", self.moe_dp, self.moe_dp),
        )
        parts = [f"{name}{text}" for name, degree, text in degrees if degree > 1]
        parts += [f"moe.redundant{self.redundant_experts}"] if self.redundant_experts else []
        parts += [f"mlp.dp{self.mlp_dp}"] if self.mlp_dp is not None else []
        parts += [f"near.{self.near}"] if self.near != "tp" else []
        return parts or ["tp1"]


def parse_plan(text: str) -> Plan:
    """Read a plan's text form; raises ``UserError`` naming the part that is wrong."""
    values: dict[str, _Value] = {}
    for part in text.strip().lower().split("-"):
        match = _PART.match(part)
        if match is None:
            raise UserError(
                f"plan {text!r}: part {part!r} is not one of dpN, ppN, ppLAYERS_LAYERS, tpN, dcpN, epN, attn.dpN, "
                "moe.epN, moe.dpN, moe.redundantN, mlp.dpN, near.pp, near.attn.dp, w.DTYPE, kv.DTYPE, fMHZ, capWATTS, "
                "sSEQUENCES, tTOKENS",
                hint="for example dp2-tp4, pp2-tp4-kv.fp8 or attn.dp8-moe.ep8",
            )
        for key, value in _read_part(text, match).items():
            if key in values:
                raise UserError(f"plan {text!r}: {part!r} sets {key} a second time")
            values[key] = value
    plan = Plan(**values)  # type: ignore[arg-type]
    reason = contradiction(plan)
    if reason is not None:
        raise UserError(f"plan {text!r}: {reason[0]}", hint=reason[1])
    return plan


def contradiction(plan: Plan) -> tuple[str, str] | None:
    """Say which degrees of ``plan`` contradict each other, and name the nearest that would do; None where none do."""
    ranks = plan.stage_ranks
    if plan.near != "tp" and not min(plan.tp, plan.pp if plan.near == "pp" else plan.attention_dp) > 1:
        return (
            f"near.{plan.near} says which of two axes has the nearest links, {plan.near} or tp is 1",
            f"leave near.{plan.near} out",
        )
    if plan.tp % plan.dcp:
        return f"dcp is {plan.dcp}, must divide tp = {plan.tp}", _nearest("dcp", plan.dcp, plan.tp)
    if ranks % plan.moe_dp:
        return f"moe.dp is {plan.moe_dp}, must divide tp x attn.dp = {ranks}", _nearest("moe.dp", plan.moe_dp, ranks)
    if plan.expert_ranks % plan.ep:
        what = "tp x attn.dp" if plan.moe_dp == 1 else "tp x attn.dp / moe.dp"
        return f"ep is {plan.ep}, must divide {what} = {plan.expert_ranks}", _nearest("ep", plan.ep, plan.expert_ranks)
    if plan.redundant_experts and plan.ep == 1:
        return f"{plan.redundant_experts} experts are held twice, but ep is 1: every rank has a part of all", "raise ep"
    if ranks % plan.mlp_copies:
        return f"mlp.dp is {plan.mlp_dp}, must divide tp x attn.dp = {ranks}", _nearest(
            "mlp.dp", plan.mlp_copies, ranks
        )
    for name, copies in (("moe.dp", plan.moe_dp), ("mlp.dp", plan.mlp_copies)):
        if gcd(copies, plan.attention_dp) != min(copies, plan.attention_dp):
            return (
                f"{name} is {copies} and attn.dp {plan.attention_dp}: one must divide the other",
                f"tokens of {plan.attention_dp} attention ranks cannot be shared out evenly among {copies} copies",
            )
    return None


def divisors(number: int) -> list[int]:
    """Return the degrees that part ``number`` evenly, least first."""
    return [degree for degree in range(1, number + 1) if number % degree == 0]


def _nearest(name: str, asked: int, whole: int) -> str:
    """Name the divisors of ``whole`` next to a degree that is none."""
    below = max((degree for degree in divisors(whole) if degree < asked), default=None)
    above = min((degree for degree in divisors(whole) if degree > asked), default=None)
    return "the nearest that would do: " + " or ".join(f"{name}{degree}" for degree in (below, above) if degree)


_Value = int | str | float | tuple[int, ...]


def _read_part(text: str, match: re.Match[str]) -> dict[str, _Value]:
    """Fields and values of one part of a plan's text."""
    axis, degree, rate, value, tensor, dtype, layers, near = match.groups()
    if axis is not None:
        if int(degree) < 1:
            raise UserError(f"plan {text!r}: {axis} is {degree}, must be >= 1")
        return {_COUNTS[axis]: int(degree)}
    if near is not None:
        return {"near": near}
    if layers is not None:
        stages = tuple(map(int, layers.split("_")))
        if 0 in stages:
            raise UserError(f"plan {text!r}: stage {stages.index(0) + 1} has 0 layers, must have at least 1")
        return {"pp": len(stages), "stage_layers": stages}
    if rate is not None:
        field, name, unit = _RATES[rate]
        if not float(value) > 0:
            raise UserError(f"plan {text!r}: {name} is {value} {unit}, must be > 0")
        return {field: float(value)}
    known = WEIGHT_DTYPES if tensor == "w" else KV_DTYPES
    if dtype not in known:
        raise UserError(f"plan {text!r}: {tensor}.{dtype} is not one of {', '.join(known)}")
    return {"weight_dtype" if tensor == "w" else "kv_dtype": dtype}
