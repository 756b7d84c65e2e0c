"""Values and tables as a terminal shows them; the only place where seconds become milliseconds."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from simulator.results.metric_spellings import STATISTICS
from simulator.results.saturation import Saturation

Format = Callable[[float | None], str]

_PIPE_COLUMNS: Final = 140  # where there is no terminal
_SHELL_COLUMNS: Final = 96
TITLES: Final = {
    "throughput_tokens_per_s": "tokens/s",
    "throughput_total_tokens_per_s": "in+out tokens/s",
    "throughput_requests_per_s": "requests/s",
    "goodput_requests_per_s": "goodput/s",
    "sustainable_requests_per_s": "max req/s",
    "slo_attainment_frac": "in SLO",
    "duration_s": "duration",
    "energy_j": "energy J",
    "energy_j_per_output_token": "J/token",
    "usd_per_million_output_tokens": "USD/M tokens",
    "mfu_frac": "MFU",
    "mbu_frac": "MBU",
}


def title(path: str) -> str:
    """Head a column of the metric at ``path``; latencies and shares carry their unit in each cell."""
    name, _, statistic = path.partition(".")
    return TITLES.get(path) or f"{name.removesuffix('_s').upper()} {statistic}"


def form_of(path: str) -> Format:
    """Return the format for a metric, by its unit."""
    return {"frac": share, "bytes": gib, "s": duration}.get(unit_of(path), number)


def unit_of(path: str) -> str:
    """Return the unit that a metric's name (up to a statistic) ends in: s, frac, bytes; nothing for other numbers."""
    head, _, tail = path.rpartition(".")
    name = head if tail in STATISTICS else path
    unit = name.rpartition("_")[2]
    return unit if unit in {"frac", "bytes"} or (unit == "s" and not name.endswith("_per_s")) else ""


def duration(seconds: float | None) -> str:
    """Format a time with three significant digits and the unit that suits it."""
    if seconds is None:
        return "-"
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (float("inf"), 1.0, "s")):
        if abs(seconds) < limit:
            return f"{number(seconds * factor)} {unit}"
    return f"{seconds} s"


def number(value: float | None) -> str:
    """Format a count in full, a rate with three significant digits."""
    if value is None:
        return "-"
    if isinstance(value, int) or value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".removesuffix(".")


def share(value: float | None) -> str:
    """Format a fraction as a percentage."""
    return "-" if value is None else f"{100 * value:.1f} %"


def gib(value: float | None) -> str:
    """Format a number of bytes."""
    return "-" if value is None else f"{value / 2**30:.2f} GiB"


def spread(interval: tuple[float, float] | None, form: Format) -> str:
    """Format an interval's two ends."""
    return "-" if interval is None else f"{form(interval[0])} to {form(interval[1])}"


def counted(number_of: int, noun: str) -> str:
    """Write how many there are of something."""
    return f"{number_of:,} {noun}" if number_of == 1 else f"{number_of:,} {noun}s"


def start_lines(launch: Sequence[str]) -> list[str]:
    """Show what starts a plan, or the remark that says why nothing does."""
    if all(line.startswith("#") for line in launch):
        return [line.removeprefix("# ") for line in launch]
    return ["start it with:", *(f"  {line}" for command in launch for line in _wrapped(command))]


def _wrapped(command: str) -> Iterator[str]:
    """Break a command between two flags, each line but the last ending in a backslash; remarks stay whole."""
    line, *flags = command.split(" --")
    if line.startswith("#"):
        line, flags = command, []
    for flag in flags:
        if len(line) + len(flag) > _SHELL_COLUMNS:
            yield f"{line} \\"
            line = "   "
        line += f" --{flag}"
    yield line


def columns() -> int:
    """Width of the terminal."""
    import shutil

    return shutil.get_terminal_size((_PIPE_COLUMNS, 24)).columns


def saturation_line(found: Saturation) -> str:
    """Say how a plan stands to its load, in one line."""
    between = f"between {duration(found.low)} and {duration(found.high)} of mean TTFT"
    if found.verdict == "overloaded":
        return f"overloaded: requests wait longer and longer at both ends of the step times' interval, {between}"
    return f"near saturation, {between}: it keeps up at one end of its step times' interval and not at the other"
