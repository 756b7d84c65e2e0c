"""A table of measured points becomes runs by its mapping; what contradicts the mapping is named by row and key."""

import re
from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import predict_run
from simulator.validation.read_points import read_point_table

_MAPPING = """
schema = 1
[point]
name = "{id}"
workload = "closed:isl={isl},osl={osl},concurrency={concurrency},prompts_per_slot=2"
measured = { "ttft_s.mean" = { column = "ttft", unit = "ms" }, "tpot_s.mean" = { column = "tpot", unit = "ms" } }
settings = { max_model_len = "{longest}" }
[blank]
ranks = 1
[names]
longest = "{isl + osl + 100}"
width = [{ if = "ranks > 1", is = "{ranks}" }, { is = "{tp}" }]
[trust]
prompt_tokens = "isl"
output_tokens = "osl"
concurrency = "concurrency"
devices = "tp"
alike = ["isl", "osl", "tp"]
most_of_peak_frac = 0.6
most_faster_frac = 0.05
most_concurrency = 64
[[server]]
name = "one"
where = { engine = "vllm", version = ["0.19.0", "0.19.1"] }
model = "llama-3.1-8b"
cluster = "h100-sxm-8"
engine = "vllm-0.19"
plan = "tp{width}"
settings = { max_num_seqs = [{ if = "concurrency <= 8", is = 8 }] }
"""
_HEADER = "id,engine,version,isl,osl,concurrency,tp,ranks,ttft,tpot\n"
_ROWS = (
    "a,vllm,0.19.0,256,16,4,1,,30,8\n"
    "b,vllm,0.19.1,256,16,16,1,2,60,9\n"
    "c,sglang,0.19.0,256,16,4,1,,30,8\n"
    "d,vllm,0.19.0,256,16,4,2,,,\n"
    "e,vllm,0.19.0,256,16,128,1,,900,12\n"
    "f,vllm,0.19.0,256,16,32,1,,300,2\n"
    "g,vllm,0.19.0,256,16,2,2,,0.01,0.01\n"
)


def _table(folder: Path, *, rows: str = _ROWS, mapping: str = _MAPPING) -> tuple[Path, Path]:
    (folder / "points.csv").write_text(_HEADER + rows)
    (folder / "mapping.toml").write_text(mapping)
    return folder / "points.csv", folder / "mapping.toml"


def test_rows_become_runs_of_their_servers(tmp_path: Path) -> None:
    """Lengths, load, plan, limits and units are those of the row; blank cells are what the mapping says."""
    runs = read_point_table(*_table(tmp_path)).runs()
    first, second = runs[:2]
    assert isinstance(first, MeasuredRun)
    assert isinstance(second, MeasuredRun)
    assert (first.name, first.group, first.place.rpartition(":")[2]) == ("a", "one", "2")
    assert first.measured == {"ttft_s.mean": 0.030, "tpot_s.mean": 0.008}
    assert (first.deployment.plan, second.deployment.plan) == ("tp1", "tp2")
    assert first.deployment.settings == {"max_model_len": 372, "max_num_seqs": 8}
    assert second.deployment.settings == {"max_model_len": 372}
    assert len(first.workload) == 8 + 8  # two prompts per slot, and as many to warm up


def test_rows_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    """No server, no value, and each rule of trust: a reason each, and the rows that agree are kept."""
    runs = {run.name: run for run in read_point_table(*_table(tmp_path)).runs()}
    reasons = {name: run.reason for name, run in runs.items() if isinstance(run, UnusableRun)}
    assert set(reasons) == set("cdefg")
    for name, text in zip(
        "cdefg",
        ("no [[server]]", "no measured value", "concurrency 128", "8.0 ms at concurrency 4", "dense peak"),
        strict=True,
    ):
        assert text in reasons[name]


def test_a_row_is_predicted(tmp_path: Path) -> None:
    """A run of a table replays like any other."""
    run = read_point_table(*_table(tmp_path)).runs()[0]
    assert isinstance(run, MeasuredRun)
    found = predict_run(run)
    assert not isinstance(found, UnusableRun)
    assert 0.001 < found.predicted["tpot_s.mean"] < 0.1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('column = "ttft"', 'column = "tff"', "point.measured.ttft_s.mean needs 'tff'"),
        ('"{isl + osl + 100}"', '"{isl + ols}"', "names.longest needs 'ols'"),
        ('"{isl + osl + 100}"', '"{isl.real}"', "names.longest: 'isl.real': Attribute is not understood"),
        ('unit = "ms" }, ', 'unit = "min" }, ', "unit is 'min'"),
        ('"tpot_s.mean"', '"tpot"', "measured has 'tpot', no metric"),
        ("max_num_seqs", "max_seqs", "settings has 'max_seqs'"),
        ('plan = "tp{width}"', 'plan = "tp{width}"\nsize = "x"', "size: unknown key"),
        ('is = "{tp}"', 'if = "tp > 8", is = "{tp}"', "no case of names.width holds"),
        ('is = "{tp}"', 'then = "{tp}"', "a case must be"),
        ('engine = "vllm", version', 'engine = "VLLM", version', "none of its 7 rows"),
        ("schema = 1", "schema = 2", "schema"),
        ('name = "one"', 'name = ""', "name"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_by_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    """Every mistake in a mapping is named with its key before anything is replayed."""
    assert old in _MAPPING
    with pytest.raises(UserError, match=re.escape(message)):
        read_point_table(*_table(tmp_path, mapping=_MAPPING.replace(old, new))).runs()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "holds no row"),
        ("a,vllm\n", "points.csv:2: has 2 cells"),
        ("a,vllm,0.19.0,256,16,4,1,,fast,8\n", "points.csv:2: ttft is 'fast', must be a number > 0"),
        ("a,vllm,0.19.0,256,16,4,1,,-3,8\n", "ttft is '-3'"),
        ("a,vllm,0.19.0,,16,4,1,,3,8\n", "points.csv:2: names.longest: 'isl + osl + 100' has no value where isl = ''"),
        ('a,"vllm,0.19.0\n', "is no CSV"),
    ],
)
def test_a_broken_row_is_named_by_its_line(tmp_path: Path, rows: str, message: str) -> None:
    """Cells that are missing, too many or no numbers."""
    with pytest.raises(UserError, match=re.escape(message)):
        read_point_table(*_table(tmp_path, rows=rows)).runs()


def test_a_row_of_two_servers_is_refused(tmp_path: Path) -> None:
    """Nobody can say which server it was measured on."""
    twice = _MAPPING + _MAPPING[_MAPPING.index("[[server]]") :].replace('"one"', '"two"')
    with pytest.raises(UserError, match=r"points.csv:2: is held by two servers .*'one', 'two'"):
        read_point_table(*_table(tmp_path, mapping=twice))
