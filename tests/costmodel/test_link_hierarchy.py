"""Groups of ranks on the levels of a cluster."""

import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.ops.link_hierarchy import hops, level_share


def test_neighbours_in_a_node_use_its_links_alone(cluster: ClusterSpec) -> None:
    """Eight neighbours stay on NVLink."""
    path = hops(cluster, 8)
    assert [(hop.link.name, hop.members, hop.inner) for hop in path] == [("nvlink", 8, 1)]


def test_one_rank_per_node_uses_the_network_alone(cluster: ClusterSpec) -> None:
    """Two ranks eight apart meet on the network."""
    assert [(hop.link.name, hop.members) for hop in hops(cluster, 2, 8)] == [("network", 2)]


def test_sixteen_ranks_use_both_levels(cluster: ClusterSpec) -> None:
    """A group over two nodes is eight inside and two across, each standing for eight."""
    assert [(hop.members, hop.inner) for hop in hops(cluster, 16)] == [(8, 1), (2, 8)]


def test_four_ranks_in_steps_of_four_are_two_per_node(cluster: ClusterSpec) -> None:
    """A stride of four leaves two ranks in each node."""
    assert [(hop.members, hop.inner) for hop in hops(cluster, 4, 4)] == [(2, 1), (2, 2)]


def test_one_rank_uses_no_link(cluster: ClusterSpec) -> None:
    """A group of one has nothing to send."""
    assert hops(cluster, 1) == ()


def test_a_group_larger_than_the_cluster_is_refused_with_both_numbers(cluster: ClusterSpec) -> None:
    """The message names the group and the cluster."""
    with pytest.raises(UserError, match=r"32 ranks.*h100-sxm-2x8"):
        hops(cluster, 32)


@pytest.mark.parametrize("kind", ["all_gather", "all_to_all"])
def test_levels_together_carry_the_whole_message(kind: str, cluster: ClusterSpec) -> None:
    """What a rank sends inside and across adds up to what leaves it: (n - 1) / n of the message."""
    path = hops(cluster, 16)
    if kind == "all_to_all":
        assert sum(level_share(kind, hop, 16) for hop in path) == pytest.approx(15 / 16)
    else:
        # A hierarchical gather sends each node's share across once, then everything inside.
        assert level_share(kind, path[0], 16) == pytest.approx(7 / 8)
        assert level_share(kind, path[1], 16) == pytest.approx(1 / 16)


def test_a_stride_that_does_not_divide_the_node_still_uses_its_links(cluster: ClusterSpec) -> None:
    """Ranks 0 and 5 of a node of eight are two peers on NVLink; ranks 0, 5 and 10 need the network too."""
    assert [(hop.link.name, hop.members) for hop in hops(cluster, 2, 5)] == [("nvlink", 2)]
    assert [hop.link.name for hop in hops(cluster, 3, 5)] == ["nvlink", "network"]
