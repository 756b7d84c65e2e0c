"""What one accelerator is: peaks, memory, clocks, power, and the constants an unmeasured op is priced with.

Peaks are *dense* rates as the vendor states them at ``clock.reference_mhz``; a locked clock scales compute linearly
and leaves memory bandwidth alone.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"]


class SpecModel(BaseModel):
    """A value read from a person's file: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


class Constant(SpecModel):
    """One calibrated number with where it comes from and how wrong it was on the data it comes from."""

    value: Positive
    source: str = Field(min_length=1)
    error: str = Field(min_length=1, description="spread of the data behind the value, or why none is known")


class Clock(SpecModel):
    """SM clocks in MHz; ``reference_mhz`` is the clock the stated peaks hold at."""

    base_mhz: Positive
    max_mhz: Positive
    reference_mhz: Positive


class AnalyticConstants(SpecModel):
    """Constants of the analytic cost model, used where nothing was measured."""

    memory_efficiency: Constant
    gemm_efficiency: dict[Dtype, Constant]
    attention_efficiency: Constant
    decode_attention_efficiency: Constant
    kernel_floor_s: Constant
    link_efficiency: Constant
    collective_floor_s: Constant


class DeviceSpec(SpecModel):
    """One device. Units as the names say; ``memory_bytes`` is what the driver reports as total."""

    schema_version: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    driver_names: tuple[str, ...] = Field(default=(), description="what the driver calls this board")
    kind: Literal["gpu", "cpu"]
    vendor: str
    architecture: str
    memory_bytes: Annotated[int, Field(gt=0)]
    memory_bytes_per_s: Positive
    l2_bytes: Annotated[int, Field(gt=0)]
    sm_count: Annotated[int, Field(gt=0)]
    tdp_w: Positive
    idle_w: NonNegative
    source: str = Field(min_length=1)
    clock: Clock
    peak_flop_per_s: dict[Dtype, Positive]
    analytic: AnalyticConstants
