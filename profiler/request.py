"""What a person asked to be measured, in one value."""

from dataclasses import field
from pathlib import Path
from typing import Final, Literal

from cluster_specs.lazy_dataclass import dataclass
from profiler.timing import TimingPolicy

# Points per clock whose energy `some` measures: more than a power model needs.
ENERGY_POINTS: Final = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileRequest:
    """One profiling command; None means the default for the device found."""

    db: Path
    device: Literal["auto", "cpu", "cuda"] = "auto"
    device_name: str | None = None
    manifest: Path | None = None
    extensions: tuple[str, ...] = ()  # modules that declare ops with kernels of a person's own
    families: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    kernels: tuple[str, ...] | None = None  # sources in order, the first that has a kernel of an op measures it
    caches: tuple[str, ...] | None = None  # states of operands; None: as a serving step finds each family's
    clocks_mhz: tuple[int, ...] = ()
    energy: Literal["none", "some", "all"] = "none"
    energy_points: int = ENERGY_POINTS  # of `some`, per clock
    budget_s: float | None = None
    target_error: float = 0.02
    prior: str = "auto"
    exhaustive: bool = False
    seed: int = 0
    threads: int = 1
    dry_run: bool = False
    tells_sustained_clocks: bool = True
    collective_timeout_s: float = 30.0
    policy: TimingPolicy = field(default_factory=TimingPolicy)
    command: tuple[str, ...] = ()
