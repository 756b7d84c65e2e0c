"""The tests marked gpu that a campaign has time for: whether what it then times computes what it should."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from profiler.duration import format_duration

TESTS: Final = Path(__file__).parents[2] / "tests" / "profiler"
# Formats of products, attention, graphs against events, captures and memory that fail, whole steps.
CHOSEN: Final = (
    "test_gpu_kernels.py::test_gemm_formats_run_and_are_finite",
    "test_gpu_kernels.py::test_flash_attention_is_causal_from_the_lower_right",
    "test_gpu_kernels.py::test_paged_attention_equals_attention_over_gathered_pages",
    "test_gpu_kernels.py::test_cudnn_attention_is_causal_attention",
    "test_gpu_kernels.py::test_a_graph_of_copies_takes_the_time_the_events_say",
    "test_gpu_kernels.py::test_a_kernel_that_cannot_be_captured_is_timed_eagerly",
    "test_gpu_kernels.py::test_cold_operands_overflow_the_cache",
    "test_gpu_kernels.py::test_whole_steps_are_captured",
    "test_gpu_kernels.py::test_an_impossible_allocation_is_a_row",
    "test_gpu_faults.py::test_out_of_memory_is_a_status_and_the_next_point_is_a_graph_again",
)
_RANK_VARIABLES: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def run_gpu_tests(limit_s: float) -> dict[str, Any]:
    """Run them for so long; returns pytest's code and its last words, and never raises for a test that fails."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "-v", "--tb=short", "-rfE"]
    # Other versions of plugins and of torch may warn; that is no news about the GPU.
    command += ["-W", "default", "-o", "addopts=--import-mode=importlib", *(str(TESTS / name) for name in CHOSEN)]
    environment = {name: value for name, value in os.environ.items() if name not in _RANK_VARIABLES}
    try:
        done = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=max(limit_s, 1.0), check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace")
        return {"left_out": [f"tests that {format_duration(limit_s)} did not suffice for"], "tail": said[-2000:]}
    return {"exit_code": done.returncode, "tail": done.stdout[-2000:]}
