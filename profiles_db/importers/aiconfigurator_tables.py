"""Which aiconfigurator table maps to what, and why the others have no place in the schema."""

from collections.abc import Mapping
from typing import Final

from profiles_db.importers import aiconfigurator_collectives as collectives
from profiles_db.importers import aiconfigurator_kernels as kernels
from profiles_db.importers import aiconfigurator_rounding as rounding
from profiles_db.importers import aiconfigurator_scans as scans
from profiles_db.importers.aiconfigurator_columns import Mapper

MAPPERS: Final[Mapping[str, Mapper]] = {
    "gemm": kernels.gemm,
    "context_attention": kernels.context_attention,
    "generation_attention": kernels.generation_attention,
    "context_mla": kernels.context_mla,
    "generation_mla": kernels.generation_mla,
    "gdn": scans.gated_delta,
    "moe": kernels.moe,
    "nccl": collectives.nccl,
    "oneccl": collectives.nccl,
    "custom_allreduce": collectives.custom_allreduce,
    "scale_matrix": rounding.static_fp8,
    "computescale": rounding.dynamic_fp8,
}

_MODULE: Final = "a whole attention block with its projections: no op family holds it"

# Why a table has no place in the schema; anything not named here is reported as unknown.
UNMAPPED: Final[Mapping[str, str]] = {
    "mamba2": "times of the short convolution alone",
    "encoder_attention": "attention without a causal mask has no columns in the schema",
    "mla_bmm": "batched GEMM has no columns in the schema",
    "mla_context_module": _MODULE,
    "mla_generation_module": _MODULE,
    "wideep_context_mla": _MODULE,
    "wideep_generation_mla": _MODULE,
    "moe_a2a": "microseconds of dispatch and combine whose wire format is not recorded",
    "trtllm_alltoall": "dispatch and combine whose wire format is not recorded",
    "wideep_deepep_ll": "microseconds of dispatch and combine whose wire format is not recorded",
    "wideep_deepep_normal": "microseconds of dispatch and combine whose wire format is not recorded",
}
