"""`apex doctor`: what it finds on healthy, sick, shared and absent hardware, and that it changes nothing unasked."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from profiler.doctor.command import doctor
from profiler.doctor.host_checks import check_host


@pytest.fixture(autouse=True)
def _quick_counter(fake_nvml):
    fake_nvml.set(tick_ms=10)


def _run(*arguments):
    result = CliRunner().invoke(doctor, [*arguments, "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, json.loads(result.output)


def _findings(report, topic, severity):
    return [f for f in report["findings"] if f["topic"] == topic and f["severity"] == severity]


def test_a_healthy_gpu_has_no_failure_of_its_own_and_nothing_is_touched(fake_nvml):
    """Driver, spec, clocks, energy and throttle counters are all reported; no call changes the GPU."""
    _, report = _run()
    texts = " ".join(f["text"] for f in _findings(report, "gpu 0", "ok"))
    for words in ("device spec h200-sxm", "345-1980 MHz in 110 steps", "energy counter moves every", "power_brake"):
        assert words in texts
    assert _findings(report, "gpu 0", "failure") == []
    assert "580.65.06" in _findings(report, "driver", "ok")[0]["text"]
    assert fake_nvml.changes() == []


@pytest.mark.parametrize(
    ("state", "severity", "words", "fix"),
    [
        ({"process": 4242}, "failure", "4242", "stop"),
        ({"ecc": 3}, "failure", "3 uncorrected", "replace"),
        ({"reasons": 0x40}, "failure", "hw_thermal", "cooling"),
        ({"mig": 1}, "warning", "MIG is on", "-mig 0"),
        ({"virtualization": 2}, "warning", "vgpu", "bare metal"),
        ({"celsius": 86}, "warning", "86 degC", "cooling"),
        ({"persistence": 0}, "warning", "persistence", "-pm 1"),
        ({"limit_mw": 500_000}, "warning", "500 W, below the device's 700 W", "-pl 700"),
        ({"pcie_width": 8}, "warning", "x8 of x16", "reseat"),
        ({"name0": "NVIDIA GeForce RTX 2080 Ti"}, "warning", "none bundled", "TOML"),
        ({"fail__nvmlDeviceGetTotalEnergyConsumption": 3}, "warning", "energy not measured", "empty"),
        ({"fail__nvmlDeviceGetFieldValues": 3}, "warning", "counts no throttling", "driver"),
        ({"tick_ms": 10**9}, "warning", "did not move", ""),
    ],
)
def test_each_problem_of_a_gpu_is_found_with_its_fix(fake_nvml, state, severity, words, fix):
    """One finding of the right severity names the value and what to type."""
    fake_nvml.set(**state)
    code, report = _run()
    found = [f for f in _findings(report, "gpu 0", severity) if words in f["text"]]
    assert len(found) == 1
    assert fix in found[0]["fix"]
    assert code == (1 if report["failures"] else 0)


@pytest.mark.parametrize(
    ("state", "severity", "words"),
    [
        ({"nvlinks1": 12}, "failure", "18, 12"),
        ({"fail__nvmlDeviceGetP2PStatus": 3}, "warning", "not every pair"),
        ({"name1": "NVIDIA L40S"}, "warning", "different kinds"),
    ],
)
def test_each_problem_between_gpus_is_found(fake_nvml, state, severity, words):
    """Lost NVLinks, pairs without one, mixed boards."""
    fake_nvml.set(gpus=2, **state)
    _, report = _run()
    assert any(words in f["text"] for f in _findings(report, "topology", severity))


def test_a_lost_gpu_is_a_failure_and_not_a_traceback(fake_nvml):
    """A driver that fails on the first query is reported with a fix; the exit code says so."""
    fake_nvml.fail("nvmlDeviceGetName", 15)
    code, report = _run()
    (failure,) = _findings(report, "driver", "failure")
    assert code == 1
    assert "lost" in failure["text"]
    assert failure["fix"]


def test_trying_a_lock_proves_permission_and_restores(fake_nvml):
    """`--try-lock` locks a supported clock once and gives it back."""
    _, report = _run("--try-lock")
    assert any("locked and restored" in f["text"] for f in _findings(report, "gpu 0", "ok"))
    assert [name for name, _, _ in fake_nvml.changes()] == ["lock", "reset"]


def test_trying_a_lock_without_permission_says_what_to_do(fake_nvml):
    """The refusal is a warning with the capability that is missing."""
    fake_nvml.fail("nvmlDeviceSetGpuLockedClocks", 4)
    _, report = _run("--try-lock")
    (warning,) = [f for f in _findings(report, "gpu 0", "warning") if "Permission" in f["text"]]
    assert "CAP_SYS_ADMIN" in warning["fix"]


def test_a_lock_left_by_a_killed_run_is_given_back_on_request(fake_nvml):
    """`--reset-clocks` frees every GPU, and reports a refusal as a failure."""
    fake_nvml.set(gpus=2)
    _run("--reset-clocks")
    assert fake_nvml.changes() == [("reset", 0, 0), ("reset", 1, 0)]
    fake_nvml.fail("nvmlDeviceResetGpuLockedClocks", 4)
    code, report = _run("--reset-clocks")
    assert code == 1
    assert any("cannot be reset" in f["text"] for f in _findings(report, "gpu 0", "failure"))


def test_a_gpu_that_this_torch_cannot_use_is_a_failure(fake_nvml):
    """A CPU build of torch beside a GPU is named with the fix."""
    torch = pytest.importorskip("torch")
    if torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    code, report = _run()
    assert code == 1
    (failure,) = _findings(report, "software", "failure")
    assert "built without CUDA" in failure["text"]


def test_without_a_gpu_the_answer_is_useful_and_the_code_is_zero(fake_nvml):
    """A laptop is told why there is no GPU and what it can do all the same."""
    fake_nvml.fail("nvmlInitWithFlags", 12)
    code, report = _run()
    assert (code, report["failures"]) == (0, 0)
    (warning,) = _findings(report, "driver", "warning")
    assert "no GPU is reachable" in warning["text"]
    assert "driver" in warning["fix"]


def test_without_torch_and_pynvml_the_command_still_answers():
    """Neither package is needed to be told that it is missing."""
    code = (
        "import sys\n"
        "sys.modules['torch'] = sys.modules['pynvml'] = None\n"
        "from profiler.doctor.command import doctor\n"
        "doctor([])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "the NVML binding is not installed" in result.stdout
    assert "torch" in result.stdout
    assert "Traceback" not in result.stderr


def test_the_text_marks_each_finding_and_counts_them(fake_nvml):
    """A person sees failures first by mark, fixes below, and a total at the end."""
    fake_nvml.set(ecc=1)
    result = CliRunner().invoke(doctor, [])
    lines = result.output.splitlines()
    assert any(line.startswith("XX  gpu 0") for line in lines)
    assert any(line.strip().startswith("fix: reset or replace") for line in lines)
    assert lines[-1].startswith("failures: ")


def test_a_busy_host_and_a_saving_governor_are_warnings(tmp_path):
    """Load above half the cores and a governor that is not `performance` spoil host timings."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("64000.00 1 1 1/1 1")
    governor = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    governor.mkdir(parents=True)
    (governor / "scaling_governor").write_text("powersave\n")
    (tmp_path / ".dockerenv").touch()
    texts = {finding.text: finding.severity for finding in check_host(tmp_path)}
    assert any("64000.00" in text and severity == "warning" for text, severity in texts.items())
    assert any("powersave" in text and severity == "warning" for text, severity in texts.items())
    assert any("container" in text and severity == "info" for text, severity in texts.items())


def test_a_quiet_host_has_nothing_to_warn_of(tmp_path):
    """A host whose files say idle gives one line and no warning."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("0.00 0.00 0.00 1/1 1")
    assert [finding.severity for finding in check_host(tmp_path)] == ["ok"]


@pytest.mark.parametrize(("ecc", "code"), [(1, 1), (0, 0)])
def test_the_installed_command_ends_with_the_documented_exit_code(fake_nvml, ecc, code):
    """`apex doctor` in a process of its own: 1 with a failure, 0 without."""
    torch = pytest.importorskip("torch")
    if not ecc and not torch.cuda.is_available():
        fake_nvml.set(gpus=0)  # a GPU that torch cannot use would be a failure of its own
    fake_nvml.set(ecc=ecc)
    command = [sys.executable, "-m", "simulator.cli", "doctor"]
    result = subprocess.run(command, env=fake_nvml.environment, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stdout + result.stderr
    assert result.stderr == ""
