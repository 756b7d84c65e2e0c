"""What one accelerator is: peaks, memory, clocks, power, and the constants an unmeasured op is priced with.

Peaks are *dense* rates as the vendor states them at ``clock.reference_mhz``; a locked clock scales compute linearly
and leaves memory bandwidth alone. Every number is bounded to what hardware can be, so that a unit slip is no device.
"""

from typing import Annotated, Final, Literal, Self

from cluster_specs.files.declared import AfterValidator, BeforeValidator, Declared, Field, Recorded, model_validator
from cluster_specs.files.shown import shown

Dtype = Literal["fp32", "tf32", "bf16", "fp16", "fp8", "int8", "fp4"]


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"is {shown(value)}, must be a number")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def _fraction(value: float) -> float:
    if value > 1:
        raise ValueError(f"is {value:g}, a fraction above 1; write 85 % as 0.85")
    if not value >= 0.001:
        raise ValueError(f"is {value:g}, must be a fraction from 0.001 to 1")
    return value


def bounded(low: float, high: float) -> Recorded:
    """Return the check that a number is finite and from ``low`` to ``high``."""

    def check(value: float) -> float:
        if low <= value <= high:
            return value
        limit = "greater than 0" if value <= 0 < low else f"from {low:g} to {high:g}"
        found = f"{value:g}" if isinstance(value, float) else shown(value)
        raise ValueError(f"is {found}, must be {limit}")

    return AfterValidator(check)


Version = Annotated[Literal[1], BeforeValidator(_number)]
Bytes = Annotated[int, bounded(1, 2**45)]
BytesPerSecond = Annotated[float, bounded(1e6, 1e15)]
Seconds = Annotated[float, bounded(1e-9, 1.0)]
Megahertz = Annotated[float, bounded(1.0, 20_000.0)]
Watts = Annotated[float, bounded(1.0, 20_000.0)]
FlopPerSecond = Annotated[float, bounded(1e8, 1e20)]
Text = Annotated[str, Field(min_length=1, max_length=2000)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=80)]


class SpecModel(Declared, frozen=True, extra="forbid", str_strip_whitespace=True, strict=True):
    """A value read from a person's file: immutable, unknown keys refused, booleans and texts no numbers."""


class Constant(SpecModel):
    """One calibrated number with where it comes from and how wrong it was on the data it comes from.

    ``of`` names the device it was measured on where that is not this one.
    """

    value: float
    source: Text
    error: Text = Field(description="spread of the data behind the value, or why none is known")
    of: Name | None = None

    @property
    def is_measured(self) -> bool:
        """Whether data stand behind the value: their spread is its error."""
        return self.error != "unknown"


class Fraction(Constant):
    """A share of a stated rate."""

    value: Annotated[float, AfterValidator(_fraction)]


class Floor(Constant):
    """The least time something takes, in seconds."""

    value: Seconds


class Clock(SpecModel):
    """SM clocks in MHz; ``reference_mhz`` is the clock the stated peaks hold at."""

    base_mhz: Megahertz
    max_mhz: Megahertz
    reference_mhz: Megahertz

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in ("base_mhz", "reference_mhz"):
            if getattr(self, name) > self.max_mhz:
                raise ValueError(f"{name} is {getattr(self, name):g}, must be at most max_mhz = {self.max_mhz:g}")
        return self


class AnalyticConstants(SpecModel):
    """Constants of the analytic cost model, used where nothing was measured."""

    memory_efficiency: Fraction
    gemm_efficiency: Annotated[dict[Dtype, Fraction], Field(min_length=1)]
    attention_efficiency: Fraction
    decode_attention_efficiency: Fraction
    kernel_floor_s: Floor
    link_efficiency: Fraction
    collective_floor_s: Floor

    def constants(self) -> tuple[Constant, ...]:
        """Every constant."""
        plain = [getattr(self, name) for name in type(self).model_fields if name != "gemm_efficiency"]
        return (*plain, *self.gemm_efficiency.values())


class DeviceSpec(SpecModel):
    """One device. Units as the names say; ``memory_bytes`` is what the driver reports as total.

    ``tdp_w`` is the board's, ``power_cap_w`` the limit it is run under (`nvidia-smi -pl`), where that is lower.
    """

    schema_version: Version = Field(alias="schema")
    name: Name
    title: Text
    driver_names: Annotated[tuple[str, ...], Field(strict=False, description="what the driver calls this board")] = ()
    kind: Literal["gpu", "cpu"]
    vendor: Text
    architecture: Text
    memory_bytes: Bytes
    memory_bytes_per_s: BytesPerSecond
    l2_bytes: Bytes
    sm_count: Annotated[int, bounded(1, 10**6)]
    tdp_w: Watts
    idle_w: Annotated[float, bounded(0.0, 20_000.0)]
    power_cap_w: Watts | None = None
    source: Text
    clock: Clock
    peak_flop_per_s: Annotated[dict[Dtype, FlopPerSecond], Field(min_length=1)]
    analytic: AnalyticConstants

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.memory_bytes < _LEAST_MEMORY_BYTES:
            raise ValueError(f"memory_bytes is {self.memory_bytes}, must be at least {_LEAST_MEMORY_BYTES} bytes")
        if self.idle_w >= self.tdp_w:
            raise ValueError(f"idle_w is {self.idle_w:g}, must be below tdp_w = {self.tdp_w:g}")
        if self.power_cap_w is not None and not self.idle_w < self.power_cap_w <= self.tdp_w:
            raise ValueError(
                f"power_cap_w is {self.power_cap_w:g}, must be above idle_w = {self.idle_w:g} and at most "
                f"tdp_w = {self.tdp_w:g}"
            )
        missing = [name for name in self.peak_flop_per_s if name not in self.analytic.gemm_efficiency]
        if missing:
            raise ValueError(f"analytic.gemm_efficiency has no {', '.join(missing)}, which peak_flop_per_s has")
        return self

    @property
    def constants_text(self) -> str:
        """Say in a few words where the analytic constants come from: this device, others, or practice."""
        constants = self.analytic.constants()
        lenders = [constant.of for constant in constants if constant.of is not None]
        named = ", ".join(sorted(set(lenders), key=lambda name: (-lenders.count(name), name)))
        if any(constant.of is None and constant.is_measured for constant in constants):
            return f"measured on it, in part on {named}" if named else "measured on it"
        return f"those of {named}" if named else "from general practice, none of them measured"


# A number of gigabytes for bytes is below this.
_LEAST_MEMORY_BYTES: Final = 2**20
