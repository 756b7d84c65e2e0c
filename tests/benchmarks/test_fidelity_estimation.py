"""Constants are learnt from servers, never from rows; decisions and widths are what they say they are."""

import numpy as np
import pytest

from benchmarks.fidelity.constants import CONSTANTS, shifts
from benchmarks.fidelity.decisions import Setting, quality
from benchmarks.fidelity.linear_fit import Residuals, fit, identifying_servers
from benchmarks.fidelity.profile_changes import changed, shifted, value_of
from benchmarks.fidelity.widths import width
from simulator.engine_profiles.bundled_profiles import newest_bundled
from simulator.engine_profiles.constant import error_of
from simulator.engine_profiles.engine_profile import load_profile
from tests.simulator.validated_runs import validated_run

_LEAST, _PRIOR = np.array([-5.0]), np.array([0.0])


def _residuals(errors: dict[str, list[float]], slope: float = 0.1) -> Residuals:
    servers = [name for name, rows in errors.items() for _ in rows]
    values = [value for rows in errors.values() for value in rows]
    return Residuals(
        path="tpot_s.mean",
        servers=np.array(servers),
        log_error=np.array(values),
        slopes=np.full((len(values), 1), slope),
    )


def test_a_server_counts_once_whatever_its_rows() -> None:
    """Ninety rows of one server that are 10 % slow weigh as much as one row of another that is 10 % fast."""
    part = _residuals({"many": [0.1] * 90, "one": [-0.1]})
    assert fit([part], _LEAST, _PRIOR) == pytest.approx([0.0], abs=1e-6)


def test_a_fold_does_not_see_its_server() -> None:
    """Without the server that is off, the constant stays where it was."""
    part = _residuals({"right": [0.0, 0.0], "too": [0.0], "off": [0.3]})
    assert fit([part], _LEAST, _PRIOR, without="off") == pytest.approx([0.0], abs=1e-9)
    assert fit([part], _LEAST, _PRIOR)[0] < -0.05


def test_no_constant_falls_below_zero() -> None:
    """A bound of minus one prior error holds, however slow the prediction."""
    part = _residuals({name: [2.0] for name in "abcdef"})
    assert fit([part], np.array([-1.0]), _PRIOR) == pytest.approx([-1.0], abs=1e-6)


def test_a_constant_is_identified_by_servers_that_it_moves() -> None:
    """One prior error that moves TPOT by 10 % tells, one that moves it by 1 % does not."""
    assert identifying_servers([_residuals({"a": [0.0], "b": [0.0]})]) == [{"a", "b"}]
    assert identifying_servers([_residuals({"a": [0.0]}, slope=0.01)]) == [set()]


def test_profiles_are_changed_by_key_and_keep_the_error_of_what_moves() -> None:
    """A shift moves the number and stops at 0; a key that no profile has is an error."""
    profile = load_profile("vllm-0.18")
    moved = shifted(profile, {"host.launch_s": 10e-6, "host.frontend_s": -1.0})
    assert value_of(moved, "host.launch_s") == pytest.approx(value_of(profile, "host.launch_s") + 10e-6)
    assert error_of(moved.host.launch_s) == error_of(profile.host.launch_s)
    assert moved.host.frontend_s == 0.0
    with pytest.raises(KeyError, match="no such"):
        changed(profile, {"host.such": 1.0})


def test_every_learnt_constant_is_one_of_its_engines_profiles() -> None:
    """Keys exist, and a shift reaches the engines that share the constant."""
    for constant in CONSTANTS:
        for engine in constant.engines:
            newest = newest_bundled(engine)
            assert newest is not None
            assert value_of(load_profile(newest), constant.key) >= 0
    found = shifts(CONSTANTS, {CONSTANTS[-1].name: 0.1})
    assert set(found) == set(CONSTANTS[-1].engines)


def _setting(devices: int, tpot_s: float, predicted_s: float, concurrency: int = 8) -> Setting:
    return Setting(
        server="one",
        lengths=(1024, 1024),
        plan=f"tp{devices}",
        devices=devices,
        concurrency=concurrency * devices,
        measured=(0.1, tpot_s),
        predicted=(0.1, predicted_s),
    )


def test_the_wrong_size_costs_what_the_best_one_serves_more() -> None:
    """Two devices serve 20 % less per device than was promised: a regret of about a sixth."""
    found = quality([_setting(1, 0.020, 0.020), _setting(2, 0.024, 0.018)])
    assert (found.sizes, found.size_regret) == (1, pytest.approx(1 / 6, abs=0.01))


def test_a_pick_breaks_its_limit_by_more_than_five_percent() -> None:
    """31 ms under 30 is kept, 32 ms is broken; higher limits are kept by both."""
    kept = quality([_setting(1, 0.031, 0.029), _setting(1, 0.010, 0.010, concurrency=1)])
    broken = quality([_setting(1, 0.032, 0.029), _setting(1, 0.010, 0.010, concurrency=1)])
    assert kept.broken == 0.0
    assert broken.broken == pytest.approx(1 / broken.picks)


def test_a_spread_is_what_intervals_lack() -> None:
    """Nine of ten rows lie within 10 %, which an interval of nothing needs as its width."""
    path = "tpot_s.mean"
    measured = [0.011] * 9 + [0.020]
    runs = [validated_run({path: (value, 0.010)}, {path: (0.010, 0.010)}) for value in measured]
    found = width(runs, path)
    assert (found.servers, found.whole) == (1, pytest.approx(0.1))
    assert width(runs, path, rows_alike=True) == found
    assert found.own == pytest.approx(0.0, abs=1e-9)
