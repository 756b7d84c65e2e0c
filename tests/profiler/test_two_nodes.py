"""Two launchers of two ranks each, as two nodes over the loop-back: what a node is, and what its death costs."""

import json
import signal
import socket
import subprocess
import sys

import pytest

pytest.importorskip("torch", reason="measuring needs torch")

from profiles_db.store import open_store

_COLUMNS = ["kind", "ranks", "nodes", "level", "message_bytes", "dtype"]
# What two nodes of two ranks have: pairs inside a node, pairs of one rank per node, and all four.
_LAYOUTS = ((2, 1, "memory"), (2, 2, "network"), (4, 2, "network"))
_SIZES = (1 << 12, 1 << 16, 1 << 20)
_GEMM = ["m", "n", "k", "scaling", "quantise", "dtype"]


@pytest.fixture
def manifest(tmp_path):
    reductions = [["all_reduce", *layout, size, "bf16"] for layout in _LAYOUTS for size in _SIZES]
    products = [[m, 256, 128, "none", False, "bf16"] for m in (1, 4, 16, 64)]
    families = {
        "collective": {"columns": _COLUMNS, "rows": reductions},
        "gemm": {"columns": _GEMM, "rows": products},
    }
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps({"apex_shape_manifest": 1, "families": families}))
    return path


@pytest.fixture
def start_nodes(start, manifest):
    """Return a function that starts one launcher per node; ``ranks`` are those of each, ``homes`` their folders."""

    def started(homes, ranks=(2, 2)):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        nodes = []
        for node, (home, count) in enumerate(zip(homes, ranks, strict=True)):
            launch = ["--nnodes", str(len(homes)), "--nproc-per-node", str(count), "--node-rank", str(node)]
            launch += ["--master-addr", "127.0.0.1", "--master-port", str(port), "-m", "profiler"]
            profile = ["--device", "cpu", "--manifest", str(manifest), "--db", str(home), "--exhaustive", "--json"]
            command = [sys.executable, "-m", "torch.distributed.run", *launch, *profile]
            nodes.append(start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return nodes

    return started


def outcome_of(nodes):
    """Wait for all nodes; returns what rank 0 said of the run."""
    said = [node.communicate() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said[0][1]
    assert not said[1][0]
    return json.loads(said[0][0].strip().splitlines()[-1])


def stored(db):
    """(ranks, nodes, level, bytes) of every collective and m of every product, repeats kept."""
    store = open_store(db, bundled=None)
    collectives = store.read("collective", columns=_COLUMNS[1:5])
    return [tuple(row.values()) for row in collectives.to_pylist()] + store.read("gemm")["m"].to_pylist()


def journalled(db):
    """Whole lines in the journals of a run."""
    return sum(path.read_text().count("\n") for path in (db / ".profile").glob("rows-*.jsonl"))


@pytest.mark.parametrize("killed", [0, 1], ids=["node of rank 0", "other node"])
def test_a_launcher_killed_in_the_middle_costs_nothing(start_nodes, wait_until, has_ended, tmp_path, killed):
    """SIGKILL of one node's launcher ends both nodes; the same commands resume, and every point is there once.

    Collectives between the launchers are stored as between nodes, although both are on this host.
    """
    homes = [tmp_path / "shared"] * 2
    nodes = start_nodes(homes)
    wait_until(lambda: journalled(homes[0]))
    ranks = [
        pid
        for node in nodes
        for pid in subprocess.run(
            ["pgrep", "-P", str(node.pid)], capture_output=True, text=True, check=True
        ).stdout.split()
    ]
    nodes[killed].send_signal(signal.SIGKILL)
    said = ["".join(node.communicate()) for node in nodes][1 - killed]
    assert nodes[1 - killed].returncode == 1  # torchrun's, of a rank that ended with 75
    assert "]: Traceback" not in said, said  # of a rank, as torchrun prefixes it
    assert "exitcode  : 75" in said
    wait_until(lambda: all(map(has_ended, ranks)))
    before = journalled(homes[0]) + len(stored(homes[0]))
    outcome = outcome_of(start_nodes(homes))
    assert outcome["already"] + outcome["measured"] == len(_LAYOUTS) * len(_SIZES) + 4
    assert outcome["already"] == before
    found = stored(homes[0])
    assert len(found) == len(set(found))
    assert set(found) == {(*layout, size) for layout in _LAYOUTS for size in _SIZES} | {1, 4, 16, 64}


def test_nodes_of_different_sizes_are_refused_on_every_rank(start_nodes, tmp_path):
    """Which ranks share a node is told by their number on each: two beside one end in one message a node."""
    nodes = start_nodes([tmp_path / "db"] * 2, ranks=(2, 1))
    said = [node.communicate()[1] for node in nodes]
    for errors in said:
        assert errors.count("different numbers of ranks: 2 on the node of rank 0, 1 on the node of rank 2") == 1
        assert "hint: start every node with the same --nproc-per-node" in errors
    assert not (tmp_path / "db").exists()
