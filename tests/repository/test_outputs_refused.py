"""Where a file cannot be written every command ends with exit code 1 and one message, and leaves nothing half-written.

The disks are real: files limited in size as by a quota, a folder that is a file, and a device that is always full.
"""

import contextlib
import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from costmodel.bundled_fits import bundled_fit
from profiles_db.store import open_store
from simulator.cli import main

# Command lines; {out} is what cannot be written, {in} holds this test's inputs.
FILES = {
    "fit": "fit --db {in}/db --prior none --out {out}",
    "shapes": "shapes --model tiny-llama --cluster cpu-2 --plan tp1 --max-num-seqs 4 --max-num-batched-tokens 64"
    " --max-model-len 128 --out {out}",
    "db export": "db export gemm {out} --format csv --db {in}/db",
    "db export parquet": "db export gemm {out} --format parquet --db {in}/db",
    "db export json": "db export gemm {out} --format json --db {in}/db",
    "import --requests": "import vllm-bench {in}/serve.json --requests {out}.csv",
    "trace generate": "trace generate synthetic:isl=20,osl=5,rate=1,n=300 --to csv --out {out}",
    "trace convert": "trace convert {in}/trace.csv {out} --to jsonl",
    "simulate --requests-out": "simulate --model tiny-llama --cluster cpu-2 --plan tp1"
    " --trace synthetic:isl=20,osl=5,rate=1,n=30 --requests-out {out}",
    "search --out": "search --model tiny-llama --cluster cpu-2 --plan tp1 --trace synthetic:isl=20,osl=5,rate=1,n=3"
    " --out {out}",
    "search --report": "search --model tiny-llama --cluster cpu-2 --plan tp1"
    " --trace synthetic:isl=20,osl=5,rate=1,n=3 --report {out}",
}
FOLDERS = {
    "import": "import apex-plus {in}/h100/gemm_0.csv --db {out}",
    "db merge": "db merge {in}/db --db {out}",
    "compare": "compare device=h100-sxm,db={in}/db device=h100-sxm,db={in}/db --out {out}",
    "profile": "profile --device cpu --families gemm --dtypes fp32 --db {out}",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the files that the commands read; what they compile once is compiled while the disk has room."""
    folder = tmp_path_factory.mktemp("in")
    context = {"device": "h100-sxm", "backend": "torch.cublas", "dtype": "bf16", "launch": "graph", "cache": "cold"}
    rows = [
        {"m": m, "n": n, "k": 1024, "scaling": "none", "quantise": False, "latency_s": 1e-5 + 1e-9 * m * n / 1024}
        | context
        | {"status": "ok", "origin": "measured"}
        for m in (1, 2, 4, 8, 16, 32, 64, 128)
        for n in (1024, 2048, 4096)
    ]
    open_store(folder / "db", bundled=None).append("gemm", rows, "run")
    (folder / "trace.csv").write_text(
        "arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{i},10,10\n" for i in range(300))
    )
    (folder / "h100").mkdir()
    (folder / "h100" / "gemm_0.csv").write_text(
        "gpu,dtype,m,k,n,time(us)\n" + "".join(f"H100-SXM-80GB,half,1024,1024,{n},{50 + n}\n" for n in range(1, 9))
    )
    (folder / "serve.json").write_text(
        '{"duration": 1.0, "completed": 1, "total_input_tokens": 5, "total_output_tokens": 2, "input_lens": [5],'
        ' "output_lens": [2], "ttfts": [0.1], "itls": [[0.1]], "errors": [""]}'
    )
    for command in ("simulate --requests-out", "search --out"):
        assert _here(FILES[command], folder, folder / "compiled")[0] == 0
    return folder


def _words(line: str, inputs: Path, out: Path) -> list[str]:
    return [word.replace("{in}", str(inputs)).replace("{out}", str(out)) for word in line.split()]


def _here(line: str, inputs: Path, out: Path) -> tuple[int, str]:
    """Run the command in this process; return its exit code and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as stop:
        main(_words(line, inputs, out))
    assert isinstance(stop.value.code, int)
    return stop.value.code, said.getvalue()


def _is_one_refusal(code: int, said: str, out: Path) -> None:
    assert code == 1, said
    assert "Traceback" not in said
    assert f"error: {out}" in said
    assert "cannot be written" in said
    assert "hint: " in said


@contextlib.contextmanager
def _full_disk() -> Iterator[None]:
    """Let no file grow beyond 100 bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _left_as_they_were(folder: Path, contents: list[str]) -> None:
    left = [path for path in folder.rglob("*") if path.is_file() and path.name not in {".lock", "lock"}]
    assert [path.read_text() for path in left] == contents


@pytest.mark.parametrize("command", [name for name in (*FILES, *FOLDERS) if name != "profile"])
def test_a_full_disk_leaves_nothing_half_written(command: str, inputs: Path, tmp_path: Path) -> None:
    """No file longer than 100 bytes can be written: an old file stays, and nothing is left beside it."""
    out = tmp_path / "out"
    if command in FILES:
        for name in ("out", "out.csv"):
            (tmp_path / name).write_text("old")
    with _full_disk():
        code, said = _here((FILES | FOLDERS)[command], inputs, out)
    _is_one_refusal(code, said, out)
    _left_as_they_were(tmp_path, ["old", "old"] if command in FILES else [])


def test_a_full_disk_ends_a_profile(inputs: Path, tmp_path: Path) -> None:
    """The process that measures is another than the command, and ends it with one message all the same."""
    pytest.importorskip("torch", reason="apex profile needs torch")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "simulator.cli", *_words(FOLDERS["profile"], inputs, out)]
    with _full_disk():
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    _is_one_refusal(done.returncode, done.stderr, out)
    _left_as_they_were(tmp_path, [])


@pytest.mark.parametrize("command", [name for name in (*FILES, *FOLDERS) if name != "profile"])
def test_a_place_under_a_file_is_refused(command: str, inputs: Path, tmp_path: Path) -> None:
    """An output under what is no folder is refused, and the file stays."""
    (tmp_path / "file").write_text("old")
    _is_one_refusal(*_here((FILES | FOLDERS)[command], inputs, tmp_path / "file" / "out"), tmp_path / "file")
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into read-only folders")
@pytest.mark.parametrize("command", [name for name in (*FILES, *FOLDERS) if name != "profile"])
def test_a_read_only_folder_is_refused(command: str, inputs: Path, tmp_path: Path) -> None:
    """A folder without the right to write ends like a full disk."""
    (tmp_path / "locked").mkdir(mode=0o555)
    _is_one_refusal(*_here((FILES | FOLDERS)[command], inputs, tmp_path / "locked" / "out"), tmp_path / "locked")


@pytest.mark.parametrize(
    "line",
    [
        "db export gemm {out} --format csv --db {in}/db",
        "fit --db {in}/db --prior none --out {out}",
        "fit --db {in}/db --prior {out} --out {out}",
        "import vllm-bench {out} --requests {out}",
        "shapes --model tiny-llama --cluster cpu-2 --trace {out} --out {out}",
        "search --model tiny-llama --cluster cpu-2 --trace {out} --out {out}",
    ],
)
def test_an_output_never_replaces_an_input(line: str, inputs: Path, tmp_path: Path) -> None:
    """The output that is an input in another spelling is refused with exit code 2; the input stays."""
    bundled = bundled_fit("a100-sxm-80gb")
    assert bundled is not None
    if "vllm-bench" in line:
        source = inputs / "serve.json"
    elif "--prior {out}" in line:
        source = tmp_path / "prior.parquet"
        source.write_bytes(bundled.read_bytes())
    elif "--trace" in line:
        source = inputs / "trace.csv"
    else:
        (source,) = (inputs / "db" / "h100-sxm" / "gemm").glob("*.parquet")
    content = source.read_bytes()
    code, said = _here(line, inputs, source.parent / ".." / source.parent.name / source.name)
    assert (code, "is an input" in said) == (2, True), said
    assert source.read_bytes() == content


@pytest.mark.parametrize("line", ["models", "models --help", "clusters h100-sxm-8 --json"])
def test_standard_output_on_a_full_disk_is_one_message(line: str) -> None:
    """What cannot be printed ends like what cannot be written: exit code 1, no traceback."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "simulator.cli", *line.split()], stdout=full, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "error: standard output: cannot be written: No space left on device"
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_reader_who_has_left_ends_the_command_quietly() -> None:
    """`apex models | head -1` prints no complaint."""
    command = f"{sys.executable} -m simulator.cli models --json | true"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stderr == ""
