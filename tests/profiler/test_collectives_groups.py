"""Layouts of ranks: every sub-group size at every level, siblings disjoint, levels and nodes named right."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster_specs.errors import UserError
from profiler.collectives.groups import LinkLevel, default_levels, group_layouts

_TWO_NODES = [LinkLevel(name="nvlink", group_size=8), LinkLevel(name="network", group_size=16)]


def test_one_node_has_every_size_a_tensor_parallel_group_can_have():
    """Two, four, six and eight of eight neighbours, all inside the node."""
    layouts = group_layouts(8, 8, _TWO_NODES[:1])
    assert [layout.key for layout in layouts] == [(n, 1, "nvlink") for n in (2, 4, 6, 8)]
    assert layouts[0].groups == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert layouts[2].groups == ((0, 1, 2, 3, 4, 5),)
    assert layouts[2].group_of(7) is None


def test_two_nodes_have_one_lane_per_device_and_whole_worlds():
    """Across nodes: one rank per node on every lane at once, up to all sixteen."""
    layouts = {layout.key: layout for layout in group_layouts(16, 8, _TWO_NODES)}
    assert layouts[2, 2, "network"].groups == tuple((lane, lane + 8) for lane in range(8))
    assert layouts[4, 2, "network"].groups[0] == (0, 1, 8, 9)
    assert layouts[16, 2, "network"].groups == (tuple(range(16)),)
    assert len(layouts[8, 1, "nvlink"].groups) == 2


@given(
    nodes=st.integers(1, 6),
    per_node=st.sampled_from([1, 2, 3, 4, 6, 8]),
    inner=st.sampled_from([1, 2]),
)
def test_siblings_are_disjoint_and_as_described(nodes, per_node, inner):
    """For any world: a rank is in at most one sibling, sizes and node counts are those of the key, keys are unique."""
    world = nodes * per_node
    sizes = sorted({size for size in (inner, per_node, world) if size > 1 and per_node % inner == 0})
    layouts = group_layouts(world, per_node, [LinkLevel(name=f"level{size}", group_size=size) for size in sizes])
    assert len({layout.key for layout in layouts}) == len(layouts)
    for layout in layouts:
        ranks = [rank for group in layout.groups for rank in group]
        assert len(set(ranks)) == len(ranks)
        assert set(ranks) <= set(range(world))
        for group in layout.groups:
            assert len(group) == layout.ranks
            assert len({rank // per_node for rank in group}) == layout.nodes


def test_wanted_sizes_select_layouts():
    """Asking for pairs gives pairs on every level."""
    layouts = group_layouts(16, 8, _TWO_NODES, sizes=[2])
    assert [layout.key for layout in layouts] == [(2, 1, "nvlink"), (2, 2, "network")]
    assert [layout.key for layout in group_layouts(8, 8, _TWO_NODES[:1], sizes=[3])] == [(3, 1, "nvlink")]


def test_a_world_smaller_than_its_level_is_measured_as_it_is():
    """Two ranks on an eight-device node are one pair, not an error."""
    assert [layout.key for layout in group_layouts(2, 2, _TWO_NODES[:1])] == [(2, 1, "nvlink")]
    assert group_layouts(1, 1, _TWO_NODES) == []


def test_levels_that_do_not_fit_the_world_are_a_users_error():
    """A cluster that this run is not says which level and how many ranks."""
    with pytest.raises(UserError, match="level nvlink joins 8 ranks") as caught:
        group_layouts(12, 12, _TWO_NODES)
    assert caught.value.hint
    with pytest.raises(UserError, match="3 ranks do not fill nodes of 2"):
        group_layouts(3, 2, _TWO_NODES)


def test_default_levels_are_named_as_the_bundled_clusters_name_them():
    """Rows of a machine nobody described meet the link levels of the bundled specs."""
    assert [level.name for level in default_levels(16, 8, device_kind="gpu", has_nvlink=True)] == ["nvlink", "network"]
    assert [level.name for level in default_levels(8, 8, device_kind="gpu", has_nvlink=False)] == ["pcie"]
    assert [level.name for level in default_levels(2, 2, device_kind="cpu", has_nvlink=False)] == ["memory"]
    assert [level.group_size for level in default_levels(4, 1, device_kind="gpu", has_nvlink=True)] == [4]
