"""Constants of an engine profile with their errors: read as one value, inherited as one value, still numbers."""

import copy
from pathlib import Path

from simulator.engine_profiles.constant import Constant, error_of
from simulator.engine_profiles.engine_profile import load_profile
from simulator.engine_profiles.inheritance import merge_profile
from simulator.engine_profiles.profile_facts import whole_profile


def _profile(folder: Path, host: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(f'schema = 1\nname = "mine"\nextends = "vllm-0.33"\n[host]\n{host}\n', encoding="utf-8")
    return path


def test_a_constant_is_a_number_that_carries_its_error(tmp_path: Path) -> None:
    """Arithmetic with a constant gives plain numbers, and its error is read apart."""
    launch_s = load_profile(str(_profile(tmp_path, "launch_s = { value = 30e-6, error = 10e-6 }"))).host.launch_s
    assert launch_s == 30e-6
    assert error_of(launch_s) == 10e-6
    assert error_of(2 * launch_s) == 0.0
    assert error_of(copy.deepcopy(launch_s)) == 10e-6


def test_a_child_that_states_a_number_takes_the_error_of_its_parent_away(tmp_path: Path) -> None:
    """A constant is one value where profiles are merged: what replaces it replaces its error too."""
    assert error_of(load_profile("vllm-0.33").host.launch_s) > 0
    path = str(_profile(tmp_path, "launch_s = 20e-6"))
    host = load_profile(path).host
    assert (host.launch_s, error_of(host.launch_s)) == (20e-6, 0.0)
    stated = merge_profile(path).stated_by
    assert [keys for keys in stated if keys[:2] == ("host", "launch_s")] == [("host", "launch_s")]


def test_a_child_may_state_an_error_where_its_parent_has_none(tmp_path: Path) -> None:
    """A constant with an error replaces a plain number."""
    host = load_profile(str(_profile(tmp_path, "all_reduce_s = { value = 9e-6, error = 2e-6 }"))).host
    assert (host.all_reduce_s, error_of(host.all_reduce_s)) == (9e-6, 2e-6)


def test_a_constant_is_written_as_it_is_read(tmp_path: Path) -> None:
    """The whole profile as one file, read again, has every error of the profile it was written from."""
    from cluster_specs.files.toml_text import toml_text

    profile = load_profile("vllm-0.33")
    path = tmp_path / "whole.toml"
    path.write_text(toml_text(whole_profile(profile, merge_profile("vllm-0.33"))), encoding="utf-8")
    again = load_profile(str(path))
    for table in ("host", "memory", "sustained_load"):
        ours, theirs = getattr(profile, table), getattr(again, table)
        for name in type(ours).model_fields:
            value = getattr(ours, name)
            assert not isinstance(value, Constant) or error_of(getattr(theirs, name)) == error_of(value)
    assert "launch_s = { value = 4.4e-05, error = 1.1e-05 }" in path.read_text(encoding="utf-8")
