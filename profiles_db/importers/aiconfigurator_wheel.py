"""Finds the tables of the installed ``aiconfigurator-core`` wheel and chooses among them.

The wheel keeps one Parquet file per ``<system>/<table family>/<framework>/<version>/<table>_perf.parquet``; NCCL's
tables stand beside the frameworks under a version of their own.
"""

import importlib.metadata
import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass

# Import names of the wheel: today's, and the announced successor with the same layout.
_PACKAGES: Final = ("aiconfigurator_core", "aisimulate")
_LIBRARIES: Final = ("nccl", "oneccl")  # collective libraries that stand where a framework would
_SUFFIX: Final = "_perf.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """How a system of the wheel is called here, and the links inside one node."""

    device: str
    level: str
    devices_per_node: int = 8
    has_graphs: bool = True


SYSTEMS: Final[Mapping[str, System]] = {
    "a100_sxm": System(device="a100-sxm-80gb", level="nvlink"),
    "h100_sxm": System(device="h100-sxm", level="nvlink"),
    "h200_sxm": System(device="h200-sxm", level="nvlink"),
    "b200_sxm": System(device="b200", level="nvlink"),
    "b300_sxm": System(device="b300", level="nvlink"),
    "gb200": System(device="gb200", level="nvlink", devices_per_node=4),
    "gb300": System(device="gb300", level="nvlink", devices_per_node=4),
    "l40s": System(device="l40s", level="pcie"),
    "rtx_pro_6000_server": System(device="rtx-pro-6000", level="pcie"),
    "b60": System(device="b60", level="pcie", has_graphs=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignTable:
    """One Parquet file of the wheel."""

    system: str
    framework: str
    version: str
    table: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """The installed tables and the version they come from."""

    distribution: str
    version: str
    root: Path

    @property
    def origin(self) -> str:
        """``origin`` column of every imported row."""
        return f"imported:{self.distribution}-{self.version}"

    def unknown_systems(self) -> tuple[str, ...]:
        """Systems of the wheel that have no name here and are therefore not importable."""
        folders = (path for path in self.root.iterdir() if any(path.glob(f"*/*/*/*{_SUFFIX}")))
        return tuple(sorted(path.name for path in folders if path.name not in SYSTEMS))

    def frameworks(self, system: str) -> tuple[str, ...]:
        """Engines that ``system`` has tables of."""
        return tuple(sorted({item.framework for item in self.iter_tables(system)} - set(_LIBRARIES)))

    def iter_tables(self, system: str) -> Iterator[ForeignTable]:
        """Tables of one system, in path order."""
        for path in sorted((self.root / system).glob(f"*/*/*/*{_SUFFIX}")):
            _, framework, version, name = path.relative_to(self.root / system).parts
            table = name.removesuffix(_SUFFIX)
            yield ForeignTable(system=system, framework=framework, version=version, table=table, path=path)


def open_wheel(root: Path | None = None) -> Wheel:
    """Find the installed wheel's tables (or those under ``root``); raises ``UserError`` when there are none."""
    if root is not None:
        if not root.is_dir():
            raise UserError(f"{root}: no folder of aiconfigurator tables")
        return Wheel(distribution="aiconfigurator-core", version="unknown", root=root)
    for package in _PACKAGES:
        try:
            folder = importlib.resources.files(package) / "systems" / "data"
        except ModuleNotFoundError:
            continue
        if isinstance(folder, Path) and folder.is_dir():
            distribution = package.replace("_", "-")
            version = importlib.metadata.version(distribution)
            return Wheel(distribution=distribution, version=version, root=folder)
    raise UserError(
        "the aiconfigurator-core wheel is not installed", hint='pip install "apex-planner[import-aic]", about 82 MB'
    )


def select_tables(
    wheel: Wheel, system: str, frameworks: Sequence[str], versions: Sequence[str], tables: Sequence[str] = ()
) -> list[ForeignTable]:
    """Choose tables of ``system``.

    ``frameworks`` and ``versions`` may be ``("all",)``; no version takes each framework's newest with a GEMM table. The
    newest NCCL (oneCCL) tables always come along unless other libraries' versions are named as ``nccl-2.27.3``.
    """
    if system not in SYSTEMS:
        raise UserError(f"unknown system {system!r}", hint=f"one of {', '.join(SYSTEMS)}")
    found = list(wheel.iter_tables(system))
    known = wheel.frameworks(system)
    chosen = list(known) if "all" in frameworks else list(frameworks)
    for framework in chosen:
        if framework not in known:
            raise UserError(f"{system} has no tables of {framework!r}", hint=f"one of {', '.join(known)}, all")
    wanted: set[tuple[str, str]] = set()
    for framework in [*chosen, *_LIBRARIES]:
        wanted |= {(framework, version) for version in _versions(found, framework, versions)}
    missing = [version for version in versions if version != "all" and not _is_covered(version, wanted)]
    if missing:
        offered = sorted({f"{item.framework}-{item.version}" for item in found}, key=_version_order)
        raise UserError(f"{system} has no version {missing[0]!r} of {', '.join(chosen)}", hint=", ".join(offered))
    picked = [item for item in found if (item.framework, item.version) in wanted]
    unknown = set(tables) - {item.table for item in picked}
    if unknown:
        offered = sorted({item.table for item in picked})
        raise UserError(f"{system} has no table {min(unknown)!r} there", hint=f"one of {', '.join(offered)}")
    return [item for item in picked if not tables or item.table in tables]


def _versions(found: Sequence[ForeignTable], framework: str, versions: Sequence[str]) -> set[str]:
    """Versions of ``framework`` that the user's words choose."""
    offered = {item.version for item in found if item.framework == framework}
    if "all" in versions:
        return offered
    is_library = framework in _LIBRARIES
    named = {version.removeprefix(f"{framework}-") for version in versions if version.startswith(f"{framework}-")}
    plain = set() if is_library else offered & set(versions)
    if named or plain or (versions and not is_library):
        return (named & offered) | plain
    complete = offered if is_library else {item.version for item in found if _has_gemm(item, framework)} or offered
    return {max(complete, key=_version_order)} if complete else set()


def _has_gemm(item: ForeignTable, framework: str) -> bool:
    return item.framework == framework and item.table == "gemm"


def _is_covered(version: str, wanted: set[tuple[str, str]]) -> bool:
    return any(version in {chosen, f"{framework}-{chosen}"} for framework, chosen in wanted)


def _version_order(version: str) -> list[tuple[int, str]]:
    """Sort key that puts 0.5.10 after 0.5.9 and 1.0rc10 after 1.0rc9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[a-z]+", version)]
