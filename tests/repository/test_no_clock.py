"""No test knows how fast the machine is: none sleeps, reads a clock, or gives what it waits for a limit of its own."""

import ast
from collections.abc import Iterator
from pathlib import Path

_TESTS = Path(__file__).parents[1]
_CLOCKS = {
    *("time", "monotonic", "perf_counter", "process_time", "thread_time", "sleep"),
    *("time_ns", "monotonic_ns", "perf_counter_ns", "process_time_ns", "thread_time_ns"),
}
_WAITS = {"run", "call", "check_call", "check_output", "communicate", "wait", "join", "result"}
# What reads a clock or sleeps all the same, and why its outcome depends on no machine.
_ALLOWED = {
    ("conftest.py", "time.sleep"): "between two looks at an event that is waited for without a limit",
    ("profiler/conftest.py", "time.monotonic"): "where the fake driver's own time starts",
    ("profiler/test_timing.py", "time.perf_counter"): "a sample encloses its calls, however long they take",
    ("profiler/collective_ranks.py", "time.sleep"): "a rank that hangs; only a timeout can end its siblings' wait",
    ("profiler/test_nvml_real_gpu.py", "time.sleep"): "lets a real GPU's counters stand still for a while",
}


def _dependences(source: str) -> Iterator[tuple[int, str]]:
    """Lines of a module that depend on time, and what stands there."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(value=ast.Name(id="time"), attr=attr) if attr in _CLOCKS:
                yield node.lineno, f"time.{attr}"
            case ast.ImportFrom(module="time"):
                yield node.lineno, "from time import"
            case ast.Attribute(value=ast.Attribute(attr="mark"), attr="timeout"):
                yield node.lineno, "mark.timeout"
            case ast.Call(func=ast.Attribute(attr=attr), keywords=keywords) if attr in _WAITS:
                yield from ((node.lineno, f"{attr}(timeout=)") for word in keywords if word.arg == "timeout")
            case ast.Call(func=ast.Name(id="settings"), keywords=keywords):
                for word in keywords:
                    said = ast.unparse(word.value)
                    if word.arg == "deadline" and said != "None":
                        yield node.lineno, f"settings(deadline={said})"
                    if word.arg == "suppress_health_check" and "too_slow" not in said:
                        yield node.lineno, "settings(suppress_health_check=) without too_slow"


def test_no_test_depends_on_time() -> None:
    """Every clock, sleep and limit in the tests is one that is listed with its reason; none is listed in vain."""
    found = {
        (path.relative_to(_TESTS).as_posix(), what): f"{path.relative_to(_TESTS.parent)}:{line}: {what}"
        for path in sorted(_TESTS.rglob("*.py"))
        for line, what in _dependences(path.read_text(encoding="utf-8"))
    }
    assert [place for key, place in found.items() if key not in _ALLOWED] == []
    assert sorted(_ALLOWED.keys() - found.keys()) == []


def test_each_kind_of_dependence_is_named() -> None:
    """What the check looks for is found where it is, and a plain call is not."""
    source = """
import time
from time import sleep
began_s = time.monotonic()
time.sleep(1)
process.wait(timeout=3)
process.wait()
settings(deadline=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings(deadline=None)
pytest.mark.timeout(5)
"""
    assert sorted(_dependences(source)) == [
        (3, "from time import"),
        (4, "time.monotonic"),
        (5, "time.sleep"),
        (6, "wait(timeout=)"),
        (8, "settings(deadline=200)"),
        (8, "settings(suppress_health_check=) without too_slow"),
        (10, "mark.timeout"),
    ]
