"""What an engine does with its kernels that no measurement of a kernel alone can say, by engine and version.

Which kernel runs MXFP4 experts on a device, what is fused, how uneven routing is, how many calls the host makes for an
op, and how much longer kernels take on a busy server than alone. Each table states where its figures come from.
"""

import re
from typing import Annotated, Literal, TypeVar

from cluster_specs.device import DeviceSpec
from cluster_specs.files.declared import Field, field_validator
from cluster_specs.files.shown import shown
from costmodel.ops.number_formats import SCHEMES
from costmodel.ops.op_types import Elementwise, Gemm, Moe, Op
from costmodel.ops.small_ops import writes_scales
from simulator.engine_profiles.constant import WITH_ERROR
from simulator.engine_profiles.profile_section import Count, ProfileSection, Source
from simulator.model.expert_layout import ExpertKernel
from simulator.model.linear import UNQUANTISED

Formats = TypeVar("Formats", list[str], dict[str, float])


class ExpertKernels(ProfileSection):
    """Kernel of MXFP4 experts: what it makes of their weights is in ``simulator.model.expert_layout``."""

    default: ExpertKernel
    devices: dict[str, ExpertKernel] = Field(default_factory=dict)  # by a device's name, else by its architecture
    # Kernels without FP4 arithmetic: they dequantise the weights anew for every tile of so many rows.
    weight_only_tile_rows: dict[ExpertKernel, Count] = Field(default_factory=dict)
    # Whether the kernel rounds its inputs to MXFP8, by device or architecture; elsewhere it does not.
    mxfp8_inputs: dict[str, bool] = Field(default_factory=dict)
    mxfp8_switch: str = ""  # what has to be set in the server's environment for that
    source: Source

    def on(self, device: DeviceSpec) -> ExpertKernel:
        """Return the kernel the engine runs on ``device``."""
        return self.devices.get(device.name) or self.devices.get(device.architecture) or self.default

    def rounds_inputs_on(self, device: DeviceSpec) -> bool:
        """Whether the kernel the engine runs on ``device`` rounds its inputs to MXFP8."""
        return self.mxfp8_inputs.get(device.name, self.mxfp8_inputs.get(device.architecture, False))

    def tile_rows_on(self, device: DeviceSpec) -> int | None:
        """Return the rows of a tile of the weight-only kernel on ``device``; None where the kernel is another."""
        return self.weight_only_tile_rows.get(self.on(device))


class FusedKernels(ProfileSection):
    """What runs as part of another kernel, and how tokens travel to experts on other ranks."""

    # Rounding of activations to the format of the weights: by the norm or activation before, or by a kernel of its own.
    activation_quantisation: Literal["separate", "fused"]
    all2all: Literal["allgather_reducescatter", "deepep"]
    # Scales of the inputs where a plan asks for FP8 weights of an unquantised checkpoint: found anew for every row
    # (the engine rounds the weights when it starts), or stated by the FP8 checkpoint that such an engine wants instead.
    fp8_inputs: Literal["dynamic", "static"]
    # Residual add and norm after an all-reduce of up to so many bytes are part of it, in models of these architectures
    # from that hidden width on.
    norm_in_all_reduce_bytes: Annotated[int, Field(ge=0, le=2**30)] = 0
    norm_in_all_reduce: dict[str, Count] = Field(default_factory=dict)
    # Kinds of devices on which one call attends for prompts and decoding sequences alike, latent attention excepted.
    joint_attention: list[str] = Field(default_factory=list)
    rope_writes_kv: bool = False  # one kernel rotates queries and keys and writes keys and values
    # Architectures whose gated delta rule takes four products of its input (queries with keys and values, gate, step
    # and decay) instead of two.
    splits_delta_inputs: list[str] = Field(default_factory=list)
    source: Source

    def norm_bytes(self, architecture: str, hidden: int) -> int:
        """Return the largest all-reduce that the norm after it is part of; 0 in a model where none is."""
        least = self.norm_in_all_reduce.get(architecture)
        return 0 if least is None or hidden < least else self.norm_in_all_reduce_bytes


class ExpertRouting(ProfileSection):
    """How unevenly tokens choose experts, as measurements of fused experts name it."""

    skew: str
    source: Source

    @field_validator("skew")
    @classmethod
    def _known(cls, skew: str) -> str:
        if re.fullmatch(r"balanced|power_law_\d{1,2}(\.\d{1,4})?", skew) is None:
            raise ValueError(f"is {shown(skew)}, must be balanced or power_law_<exponent>, such as power_law_1.2")
        return skew


class Launches(ProfileSection):
    """How many calls of the host an op is, in calls of a plain op; each costs ``host.launch_s`` without a graph."""

    experts: Count  # fused experts: alignment, workspaces, two grouped GEMMs, activation, weighted sum
    rounded_experts: Count  # fused experts whose inputs are rounded before either GEMM
    block_scaled_gemm: Count  # rounding, layout of the scales, product
    dynamic_fp8_rounding: Count = 1  # rounding to FP8 with scales that have to be found first
    scan: Count  # a scan over the chunks of prompts
    source: Source

    def of(self, op: Op) -> int:
        """Return the calls of one op that depends on tokens alone."""
        if isinstance(op, Gemm) and op.dtype == "fp8_block":
            return self.block_scaled_gemm
        if isinstance(op, Moe):
            return self.experts if SCHEMES[op.dtype].activation in UNQUANTISED else self.rounded_experts
        if isinstance(op, Elementwise) and op.op == "quantise" and op.dtype == "fp8" and writes_scales(op):
            return self.dynamic_fp8_rounding
        return 1


class SustainedLoad(ProfileSection):
    """How much longer arithmetic takes in a server that never pauses: see `simulator.steps.sustained_clock`."""

    # Of an op that keeps the device's arithmetic busy throughout.
    slowdown_frac: Annotated[float, Field(ge=0, le=1), *WITH_ERROR]
    source: Source


class BuiltFor(ProfileSection):
    """Devices that a version has kernels for, and the formats of weights it runs on them.

    Compute capabilities are NVIDIA's: 9.0 is Hopper. An engine without formats for a kind of device does not run there.
    """

    nvidia_formats: list[str]
    least_capability: Annotated[float, Field(ge=0, le=100)]
    below_capability: Annotated[float, Field(ge=0, le=100)] = 100.0  # it has no kernels for devices from here on
    least_by_format: dict[str, Annotated[float, Field(ge=0, le=100)]] = Field(default_factory=dict)
    least_fp8_kv: Annotated[float, Field(ge=0, le=100)]
    amd_formats: list[str] = Field(default_factory=list)
    amd_mxfp4_needs_cdna4: bool = False
    cpu_formats: list[str] = Field(default_factory=list)
    cpu_keeps_fp8_kv: bool = False
    source: Source

    @field_validator("nvidia_formats", "amd_formats", "cpu_formats", "least_by_format")
    @classmethod
    def _known(cls, formats: Formats) -> Formats:
        for name in formats:
            if name not in SCHEMES:
                raise ValueError(f"{shown(name)} is no format of weights, must be one of {', '.join(SCHEMES)}")
        return formats
