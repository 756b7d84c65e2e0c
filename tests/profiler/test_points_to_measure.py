"""What becomes of the shapes that were asked for."""

import json

import pytest

torch = pytest.importorskip("torch", reason="placing ops on kernels needs torch")

from cluster_specs.errors import UserError  # noqa: E402 - torch first
from profiler.collectives.groups import default_levels, group_layouts  # noqa: E402
from profiler.machine import Machine  # noqa: E402
from profiler.planning.grid import FAMILIES, general_grid  # noqa: E402
from profiler.planning.points_to_measure import step_shares, wanted_shapes  # noqa: E402
from profiler.point import cost_op, counted  # noqa: E402
from profiler.ranks import RankPlace  # noqa: E402
from profiler.request import ProfileRequest  # noqa: E402
from profiler.session import open_bench, plan_workload  # noqa: E402
from profiles_db.schema import FAMILIES as SCHEMAS  # noqa: E402

LAYOUTS = group_layouts(2, 2, default_levels(2, 2, device_kind="cpu", has_nvlink=False))


def manifest(path, families, version=1):
    path.write_text(json.dumps({"apex_shape_manifest": version, "families": families}))
    return path


def gemm_rows(*rows):
    return {"columns": ["m", "n", "k", "scaling", "quantise", "dtype"], "rows": [list(row) for row in rows]}


def planned(request, world_size=1):
    with Machine.open("cpu", None, RankPlace(), threads=1) as machine:
        place = RankPlace(world_size=world_size, ranks_per_node=world_size)
        return plan_workload(request, machine, open_bench(request, machine), place)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_grid_shapes_are_distinct_and_countable(kind):
    """The grid has every family, no shape twice, and every shape has work the cost model can count."""
    shapes = general_grid(kind, families=FAMILIES, dtypes=("bf16", "fp8", "w8a8"), layouts=LAYOUTS)
    assert {op.family for op in shapes} == set(FAMILIES)
    assert len(set(shapes)) == len(shapes)
    for op in shapes:
        counted_op = cost_op(op)
        moved = counted_op.wire_bytes() if op.family == "collective" else counted_op.io_bytes()
        assert float(moved) > 0
        assert list(op.shape) == list(SCHEMAS[op.family].shape_columns)


def test_manifest_rows_become_points_on_the_kernels_that_exist(tmp_path):
    """Each row of a manifest is placed on its kernel; an op without one becomes a point that will say so."""
    rows = gemm_rows(
        (1, 64, 64, "none", False, "bf16"), (1, 64, 64, "row", False, "fp8"), (1, 64, 64, "none", False, "nvfp4")
    )
    path = manifest(tmp_path / "shapes.json", {"gemm": rows})
    workload = planned(ProfileRequest(db=tmp_path, device="cpu", manifest=path))
    assert counted(workload.compute) == {
        ("gemm", "bf16", "torch.onednn"): 1,
        ("gemm", "fp8", "torch.scaled_mm"): 1,
        ("gemm", "nvfp4", "none"): 1,
    }


def test_collectives_of_other_worlds_are_counted_and_named(tmp_path):
    """Collectives over more ranks than the run has are left out with a sentence, those that fit stay."""
    columns = ["kind", "ranks", "nodes", "level", "message_bytes", "dtype"]
    rows = [["all_reduce", 2, 1, "memory", 4096, "bf16"], ["all_reduce", 8, 1, "nvlink", 4096, "bf16"]]
    path = manifest(tmp_path / "shapes.json", {"collective": {"columns": columns, "rows": rows}})
    workload = planned(ProfileRequest(db=tmp_path, device="cpu", manifest=path), world_size=2)
    assert len(workload.collectives) == 1
    assert workload.notes == (
        "left out: 1 collectives over groups this run does not have (8 ranks on 1 nodes over nvlink)",
    )


def test_a_single_rank_says_that_collectives_are_left_out(tmp_path):
    """A general profile of one rank has no collectives and says so."""
    workload = planned(ProfileRequest(db=tmp_path, device="cpu", families=("gemm", "collective")))
    assert workload.collectives == ()
    assert workload.notes == ("left out: collectives, which need two ranks at least (--nproc-per-node 2)",)


def test_formats_without_a_kernel_are_counted_in_the_grid(tmp_path):
    """An op of the general grid that nothing here can run is counted, not dropped in silence."""
    workload = planned(ProfileRequest(db=tmp_path, device="cpu", families=("moe",), dtypes=("fp8",)))
    assert workload.compute == ()
    assert "40 ops of the general grid that have no kernel here" in workload.notes[0]


@pytest.mark.parametrize(
    ("families", "version", "message"),
    [({}, 2, "manifest version 2"), ({"gemm": {"columns": ["m"], "rows": []}}, 1, "gemm column")],
)
def test_a_manifest_of_another_schema_is_refused(tmp_path, families, version, message):
    """A manifest this version cannot read is one message with the file and the reason."""
    path = manifest(tmp_path / "other.json", families, version)
    with pytest.raises(UserError, match=message) as caught:
        wanted_shapes(ProfileRequest(db=tmp_path, manifest=path), "cpu", ())
    assert "other.json" in str(caught.value)


def test_filters_that_leave_nothing_are_refused(tmp_path):
    """A manifest whose every shape is filtered away is a mistake, not an empty success."""
    path = manifest(tmp_path / "shapes.json", {"gemm": gemm_rows((1, 64, 64, "none", False, "bf16"))})
    with pytest.raises(UserError, match="no shape left to measure"):
        wanted_shapes(ProfileRequest(db=tmp_path, manifest=path, dtypes=("fp8",)), "cpu", ())


def test_an_unknown_family_is_refused_by_name(tmp_path):
    """A family without a grid is named together with those that have one."""
    with pytest.raises(UserError, match="no general grid for conv"):
        wanted_shapes(ProfileRequest(db=tmp_path, families=("gemm", "conv")), "cpu", ())


def test_what_a_step_takes_is_measured_and_says_its_share(tmp_path):
    """Shapes of a manifest's shares are asked for, once; their share is the mean of the two steps."""
    rows = gemm_rows((1, 64, 64, "none", False, "bf16"))
    columns = [*rows["columns"], "prefill_frac", "decode_frac"]
    of_steps = [[1, 64, 64, "none", False, "bf16", 0.0, 0.5], [512, 64, 64, "none", False, "bf16", 1.0, 0.5]]
    document = {"apex_shape_manifest": 1, "families": {"gemm": rows}}
    document["shares"] = {"gemm": {"columns": columns, "rows": of_steps}}
    path = tmp_path / "shapes.json"
    path.write_text(json.dumps(document))
    request = ProfileRequest(db=tmp_path, device="cpu", manifest=path)
    assert [op.shape["m"] for op in wanted_shapes(request, "cpu", ())] == [1, 512]
    assert {op.shape["m"]: share for op, share in step_shares(request).items()} == {1: 0.25, 512: 0.75}
    assert step_shares(ProfileRequest(db=tmp_path, device="cpu")) == {}
