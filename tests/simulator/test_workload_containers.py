"""One trace in every container, and files that lie about what they hold."""

import gzip
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster_specs.errors import UserError
from simulator.workload.traces.read_trace import iter_trace, read_trace

RECORDS = [
    {"timestamp": 300 * i, "input_length": 600 + i, "output_length": 5, "hash_ids": [0, i + 1]} for i in range(6)
]


def csv_text(delimiter: str) -> str:
    rows = [[f'"{value}"' if isinstance(value, list) else str(value) for value in r.values()] for r in RECORDS]
    return "".join(delimiter.join(row) + "\n" for row in (list(RECORDS[0]), *rows))


def by_column(values: type) -> dict[str, Any]:
    columns = {key: [record[key] for record in RECORDS] for key in RECORDS[0]}
    return {
        key: column if values is list else {str(i): value for i, value in enumerate(column)}
        for key, column in columns.items()
    }


TEXTS = {
    "lines.jsonl": "".join(json.dumps(record) + "\n" for record in RECORDS),
    "lines.json": "".join(json.dumps(record) + "\n" for record in RECORDS),
    "list.json": json.dumps(RECORDS, indent=1),
    "list.jsonl": json.dumps(RECORDS),
    "comma.csv": csv_text(","),
    "semicolon.csv": csv_text(";"),
    "tab.tsv": csv_text("\t"),
    "split.json": json.dumps({"columns": list(RECORDS[0]), "index": [0], "data": [list(r.values()) for r in RECORDS]}),
    "columns.json": json.dumps(by_column(dict)),
    "lists.json": json.dumps(by_column(list), indent=2),
}


@pytest.mark.parametrize("name", [*TEXTS, "rows.parquet"])
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_one_trace_reads_alike_from_every_container(name: str, packing: str, tmp_path: Path) -> None:
    """Mooncake's keys are found, and the same workload comes out, whatever wrote the file; .gz where it is text."""
    path = tmp_path / f"{name}{packing}"
    if name == "rows.parquet":
        pq.write_table(pa.Table.from_pylist(RECORDS), path)
        if packing:
            with pytest.raises(UserError, match="a gzipped Parquet file cannot be read"):
                read_trace(path)
            return
    else:
        content = TEXTS[name].encode()
        path.write_bytes(gzip.compress(content) if packing else content)
    workload = read_trace(path)
    assert workload.arrival_s.tolist() == [0.0, 0.3, 0.6, 0.9, 1.2, 1.5]
    assert workload.prompt_tokens.tolist() == [600, 601, 602, 603, 604, 605]
    assert workload.prefix is not None
    assert workload.prefix.ids.tolist() == [0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6]
    assert read_trace(path, limit=2).arrival_s.tolist() == [0.0, 0.3]


def test_any_suffix_will_do_once_the_columns_are_named(tmp_path: Path) -> None:
    """A log of another suffix is told by its first bytes."""
    columns = {"time": "timestamp", "prompt": "input_length", "output": "output_length"}
    for name in ("lines.jsonl", "comma.csv", "list.json"):
        path = tmp_path / "requests.log"
        path.write_text(TEXTS[name])
        assert len(read_trace(path, columns=columns, time_unit="ms")) == 6
    pq.write_table(pa.Table.from_pylist(RECORDS), path)
    assert len(read_trace(path, columns=columns, time_unit="ms")) == 6


def parquet(path: Path, **columns: Any) -> Path:
    sound = {"arrival_s": np.arange(3.0), "prompt_tokens": np.arange(1, 4), "output_tokens": np.arange(1, 4)}
    pq.write_table(pa.table({**sound, **columns}), path)
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"arrival_s": pa.array([[0.0], [1.0], [2.0]])}, "'arrival_s' is of type 'list<.*must hold one number"),
        ({"prompt_tokens": pa.array([{"a": 1}] * 3)}, "'prompt_tokens' is of type 'struct"),
        ({"prompt_tokens": pa.array([True, True, True])}, r"t\.parquet:1: prompt_tokens is True, must be a number"),
        ({"output_tokens": pa.array([1, None, 2])}, r"t\.parquet:2: output_tokens is None, must be a number"),
        ({"arrival_s": pa.array(["0", "1", "x"])}, r"t\.parquet:3: arrival_s is 'x', must be a number"),
        ({"arrival_s": pa.array(["9" * 5000] * 3)}, "'arrival_s' holds a text of 5000 bytes"),
        ({"replica": pa.array([2**64 - 1, 0, 0], pa.uint64())}, r"t\.parquet:1: replica is 18446744073709551615, must"),
        ({"prefix_ids": pa.array([["a"], ["b"], ["c"]])}, "'prefix_ids' is of type"),
        ({"after": pa.array([-1, 0, 5])}, r"t\.parquet:3: after is 5, must be the index of an earlier request"),
    ],
)
def test_parquet_columns_of_another_type_are_named(columns: dict[str, Any], message: str, tmp_path: Path) -> None:
    """A column that holds lists, structs, truth values, nulls or texts is refused by name and row."""
    with pytest.raises(UserError, match=message):
        read_trace(parquet(tmp_path / "t.parquet", **columns))


def test_a_parquet_column_may_stand_once(tmp_path: Path) -> None:
    """Two columns of one name are a mistake, not a choice."""
    one = np.arange(1, 4)
    table = pa.table([one * 1.0, one, one, one], names=["arrival_s", "prompt_tokens", "output_tokens", "arrival_s"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match="'arrival_s' appears 2 times"):
        read_trace(tmp_path / "t.parquet")


def test_more_rows_than_are_read_whole_are_refused_by_the_metadata(tmp_path: Path) -> None:
    """A file of a few kilobytes that holds millions of equal rows is refused before one is read; its head is not."""
    count = 8_000_001
    column = pa.array(np.ones(count, dtype=np.int8))
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table(dict.fromkeys(("arrival_s", "prompt_tokens", "output_tokens"), column)), path)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="holds 8,000,001 requests and more, at most 8,000,000 are read whole"):
        read_trace(path)
    assert len(read_trace(path, limit=10)) == 10


SOUND = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.csv.gz", "t.json.gz"])
def test_every_damage_of_a_gzip_file_is_one_message(name: str, tmp_path: Path) -> None:
    """Cut anywhere or with any byte changed, a packed file gives its requests or one refusal that names it."""
    content = {"t.jsonl.gz": SOUND, "t.csv.gz": csv_text(",").encode(), "t.json.gz": TEXTS["list.json"].encode()}[name]
    packed = gzip.compress(content, mtime=0)
    path = tmp_path / name
    for place in range(len(packed)):
        changed = bytearray(packed)
        changed[place] ^= 0x55
        for damaged in (packed[:place], bytes(changed)):
            path.write_bytes(damaged)
            assert answer(path) in {6, name}


def answer(path: Path) -> int | str:
    """Return the number of requests, or the name of the file where a short refusal gives it."""
    try:
        return len(read_trace(path))
    except UserError as error:
        return path.name if path.name in str(error) and len(str(error)) < 500 else str(error)


LIARS = {
    "line.jsonl.gz": b'{"timestamp": "' + b"0" * (200 * 2**20),
    "header.csv.gz": b"a" * (200 * 2**20),
    "document.json.gz": b'{\n"a": "' + b"0" * (200 * 2**20),
    "list.json.gz": b'["' + b"0" * (200 * 2**20),
}


@pytest.mark.parametrize("name", LIARS)
def test_a_packed_file_that_grows_without_end_is_refused_in_little_memory(name: str, tmp_path: Path) -> None:
    """A megabyte that unpacks to 200 are refused by their line, entry or size, within 0.5 GB of memory."""
    path = tmp_path / name
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(LIARS[name])
    code = (
        "import sys; from cluster_specs.errors import UserError\n"
        "from simulator.workload.traces.read_trace import read_trace\n"
        "try: read_trace(sys.argv[1])\n"
        "except UserError as error: print(error)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (2**29, 2**29)),
    )
    assert found.returncode == 0, found.stderr[-500:]
    assert "longer than" in found.stdout or "larger than" in found.stdout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"arrival_s,prompt_\rtokens,output_tokens\n0,1,1\n", r"t\.csv:1: not a line of CSV"),
        ("t.csv", b"arrival_s,prompt_tokens,output_tokens\n0,1,1," + b"x" * 140_000, r"t\.csv:2: not a line of CSV"),
        ("t.csv", b"arrival_s,prompt_tokens,output_tokens\n0,1\x00,1\n", r"t\.csv:2: prompt_tokens is '1\\x00'"),
        ("t.csv", b"arrival_s,prompt_tokens,output_tokens\n" + b"9" * 5000 + b",1,1\n", r"t\.csv:2: arrival_s is '99"),
        ("t.csv", b"arrival_s,prompt_tokens,output_tokens\n0,\xff,1\n", r"t\.csv:2: not UTF-8"),
        ("t.jsonl", b'{"chat_id": [1], "parent_chat_id": -1, "timestamp": 0, "input_length": 60, "output_length": 3}',
         r"t\.jsonl:1: chat_id is \[1\], must be a text or a whole number"),
        ("t.jsonl", b'{"chat_id": 1, "parent_chat_id": [1], "timestamp": 0, "input_length": 60, "output_length": 3}',
         r"t\.jsonl:1: parent_chat_id is \[1\]"),
        ("t.jsonl", b'{"timestamp": ' + b"9" * 5000 + b"}", r"t\.jsonl:1: .*too many digits"),
        ("t.jsonl", b'{"a":' * 90_000, r"t\.jsonl:1: .*nested too deeply"),
        ("t.jsonl", b'{"arrival_s": "\\ud800", "prompt_tokens": 1, "output_tokens": 1}', r"arrival_s is '\\ud800'"),
        ("t.jsonl", json.dumps({f"k{i}" * 50: 1 for i in range(999)}).encode(), r"no known trace format has the keys"),
    ],
)  # fmt: skip
def test_odd_content_is_one_short_message(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """Whatever a field holds, the message names file, line and key, and stays under a screen."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as refused:
        read_trace(path)
    assert len(str(refused.value)) + len(refused.value.hint) < 2_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_tokens": 16}, "--block-tokens has no use"),
        ({"turns": "after_parent"}, "--turns after_parent has no use"),
        ({"result": 1}, "--result has no use for records"),
    ],
)
def test_options_that_cannot_act_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    """An option about what a file does not hold is not ignored."""
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n0,1,1\n")
    with pytest.raises(UserError, match=message):
        read_trace(path, **options)


def test_a_table_by_columns_is_not_streamed(tmp_path: Path) -> None:
    """One document cannot be read in parts, and says so; lists and lines can."""
    for name in ("columns.json", "list.json"):
        (tmp_path / name).write_text(TEXTS[name])
    with pytest.raises(UserError, match="cannot be streamed: it is one JSON document"):
        list(iter_trace(tmp_path / "columns.json"))
    assert [len(part) for part in iter_trace(tmp_path / "list.json", chunk_requests=4)] == [4, 2]
