"""The installed `apex`: instant help, one clear error and a documented exit code for every mistake."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from simulator.cli import apex

_HEAVY = (
    "torch",
    "pandas",
    "sklearn",
    "numba",
    "pyarrow",
    "numpy",
    "pydantic",
    "scipy",
    "matplotlib",
    "triton",
    "rich",
)


def _run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "simulator.cli", *arguments], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_help_imports_nothing_heavy() -> None:
    """`apex --help` must stay instant: it may not load any library that takes time to import."""
    script = (
        "import sys\nfrom simulator.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        f"loaded = sorted(set(sys.modules) & set({_HEAVY!r}))\nassert not loaded, loaded"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Find the best plan" in done.stdout


@pytest.mark.parametrize("name", apex.list_commands(None))  # type: ignore[arg-type]
def test_every_command_has_help(name: str) -> None:
    """Every listed command resolves, and its help names its purpose without loading torch."""
    script = (
        "import sys\nfrom simulator.cli import main\n"
        f"try:\n    main([{name!r}, '--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: apex {name}")


_CHAT = "--trace chat-synthetic"


@pytest.mark.parametrize(
    ("line", "code", "parts"),
    [
        ("serve", 2, ["No such command 'serve'"]),
        ("serch", 2, ["No such command 'serch'", "Did you mean 'search'?"]),
        (
            f"search --model llama-3.1-8b --cluster l40s-1 {_CHAT} --gpu-memory-utilization nan",
            2,
            ["not a finite number"],
        ),
        (f"search --model llama-3.1-8b --cluster l40s-1 {_CHAT} --slo ttft_s<=-1", 2, ["must be > 0", "hint:"]),
        (f"search --model llama-3.1-8b --cluster l40s-1 {_CHAT} --plan tp1 --kv fp8", 2, ["--plan states"]),
        (f"search --model llama-3.1-8b --cluster l40s-1 {_CHAT} --objective tftt", 2, ["did you mean ttft_s"]),
        ("search --model llama-3.1-8b --cluster l40s-1 --trace .", 2, ["is a folder", "hint:"]),
        (
            f"search --model llama-3.1-8b --cluster l40s-1 {_CHAT} --objective usd_per_million_output_tokens",
            2,
            ["l40s-1 states no price", "hint: pass --usd-per-device-hour"],
        ),
        ("search --model llama-3.1-70b", 2, ["Missing option '--cluster'"]),
        (f"search --model lama-3.1-70b --cluster h100-sxm-8 {_CHAT}", 2, ["hint: did you mean llama-3.1-70b"]),
        (f"search --model llama-3.1-8b --cluster h100-8 {_CHAT}", 2, ["'h100-8' is not a bundled cluster", "hint:"]),
        ("search --model llama-3.1-8b --cluster l40s-1 --trace nowhere.jsonl", 2, ["nowhere.jsonl", "hint:"]),
        (f"simulate --plan tp3x --model llama-3.1-8b --cluster l40s-8 {_CHAT}", 2, ["'tp3x'", "hint: for example"]),
        (
            f"search --model llama-3.1-8b --cluster l40s-1 {_CHAT} --objective ttft.p98",
            2,
            ["'ttft.p98' is no metric", "hint: did you mean ttft_s.p99"],
        ),
        (f"search --model llama-3.1-8b --cluster l40s-1 {_CHAT} --slo ttft_s=2", 2, ["is not METRIC<=LIMIT", "hint:"]),
        (
            f"search --model llama-3.1-8b --cluster l40s-1 {_CHAT} --engine vlm-0.33",
            2,
            ["hint: did you mean vllm-0.33"],
        ),
        (
            f"search --model llama-3.1-405b --cluster l40s-8 {_CHAT}",
            3,
            ["runs on no plan of l40s-8", "hint: the smallest cluster that would do is 32 x l40s"],
        ),
        (f"simulate --plan dp8 --model llama-3.1-70b --cluster h100-sxm-8 {_CHAT}", 3, ["dp8 cannot start", "GiB"]),
    ],
)
def test_mistake_ends_in_one_message(
    run_apex: Callable[..., subprocess.CompletedProcess[str]], line: str, code: int, parts: list[str]
) -> None:
    """A user's mistake ends in its exit code and a message with the value and a hint, never in a traceback."""
    done = run_apex(*line.split())
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr


def test_search_output_file_is_whole_or_absent(tmp_path: Path) -> None:
    """`-o` writes the same JSON that `--json` prints, leaves no partial file, and names a folder it cannot write."""
    common = f"search --model tiny-llama --cluster h100-sxm-2 {_CHAT} --limit 50".split()
    done = _run(*common, "--json", "-o", str(tmp_path / "found.json"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "found.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]
    failed = _run(*common, "-o", str(tmp_path / "absent" / "found.json"))
    assert failed.returncode == 1
    assert "absent/found.json" in failed.stderr
    assert "Traceback" not in failed.stderr
