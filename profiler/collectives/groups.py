"""Which groups of ranks a collective is measured over: every sub-group size at every link level.

A level holds `group_size` neighbouring ranks made of units of the level inside it. A layout takes `per_unit` ranks
from each of `units` units: whole neighbours inside a level (tensor parallelism), one per node across nodes (pipeline
and data parallelism), and what lies between. All sibling groups of a layout run at once, as they do in serving, so that
they share the links they would share there.
"""

from collections.abc import Iterable, Sequence

from cluster_specs.errors import UserError
from cluster_specs.lazy_dataclass import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkLevel:
    """One link level, innermost first: its name in the ``level`` column, and how many neighbouring ranks it joins."""

    name: str
    group_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupLayout:
    """Sibling groups of ``ranks`` ranks over ``nodes`` nodes whose innermost common level is ``level``."""

    ranks: int
    nodes: int
    level: str
    groups: tuple[tuple[int, ...], ...]

    @property
    def key(self) -> tuple[int, int, str]:
        """Shape columns (ranks, nodes, level) of the rows measured on this layout."""
        return self.ranks, self.nodes, self.level

    def group_of(self, rank: int) -> tuple[int, ...] | None:
        """Return the sibling group that holds ``rank``, None for a rank left over."""
        return next((group for group in self.groups if rank in group), None)


def default_levels(world_size: int, ranks_per_node: int, *, device_kind: str, has_nvlink: bool) -> list[LinkLevel]:
    """Name the levels of a machine nobody described: memory, nvlink or pcie inside a node, network across nodes."""
    inner = "memory" if device_kind == "cpu" else "nvlink" if has_nvlink else "pcie"
    levels = [LinkLevel(name=inner, group_size=ranks_per_node)] if ranks_per_node > 1 else []
    if world_size > ranks_per_node:
        levels.append(LinkLevel(name="network", group_size=world_size))
    return levels


def group_layouts(
    world_size: int, ranks_per_node: int, levels: Sequence[LinkLevel], *, sizes: Iterable[int] | None = None
) -> list[GroupLayout]:
    """Enumerate the layouts of a world, innermost level first; ``sizes`` asks for groups of these many ranks alone.

    Without ``sizes``: powers of two, three times a power of two from six on (TP 6), and whole levels. Raises
    ``UserError`` where the levels do not fit the world.
    """
    if world_size % ranks_per_node:
        raise UserError(
            f"{world_size} ranks do not fill nodes of {ranks_per_node}", hint="start the same number on every node"
        )
    wanted = None if sizes is None else frozenset(sizes)
    layouts: dict[tuple[int, int, str], GroupLayout] = {}
    inner = 1
    for level in levels:
        size = min(level.group_size, world_size)
        if size % inner or world_size % size:
            raise UserError(
                f"level {level.name} joins {level.group_size} ranks, which does not divide a world of {world_size} "
                f"into whole groups of {inner}",
                hint="give the cluster this run really has, or start one rank per device of whole nodes",
            )
        for units in _counts(size // inner, at_least=2, also=wanted or ()):
            for per_unit in _counts(inner, at_least=1, also=wanted or ()):
                groups = _siblings(range(0, world_size, size), size, inner=inner, units=units, per_unit=per_unit)
                nodes = len({rank // ranks_per_node for rank in groups[0]})
                layout = GroupLayout(ranks=units * per_unit, nodes=nodes, level=level.name, groups=groups)
                # Two layouts a row cannot tell apart (three levels inside a node): fewer units is how plans place them.
                if wanted is None or layout.ranks in wanted:
                    layouts.setdefault(layout.key, layout)
        inner = size
    return list(layouts.values())


def _counts(limit: int, *, at_least: int, also: Iterable[int]) -> list[int]:
    powers = [1 << exponent for exponent in range(limit.bit_length())]
    triples = [3 * power for power in powers if power > 1]
    return sorted({count for count in (*powers, *triples, *also, limit) if at_least <= count <= limit})


def _siblings(level_starts: range, size: int, *, inner: int, units: int, per_unit: int) -> tuple[tuple[int, ...], ...]:
    """Cut every level group into blocks of ``units`` units and each block into lanes of ``per_unit`` ranks per unit."""
    return tuple(
        tuple(block + unit * inner + lane + index for unit in range(units) for index in range(per_unit))
        for level_start in level_starts
        for block in range(level_start, level_start + size - units * inner + 1, units * inner)
        for lane in range(0, inner - per_unit + 1, per_unit)
    )
