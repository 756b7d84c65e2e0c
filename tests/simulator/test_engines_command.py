"""`apex engines` lists the bundled profiles and shows one with all it inherits, each value with who states it."""

import json
from pathlib import Path
from typing import Any

import pytest

from simulator.cli import main
from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE, bundled_profiles
from simulator.engine_profiles.engine_profile import EngineProfile, load_profile


def _run(line: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(["engines", *line])
    said = capsys.readouterr()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code, said.out, said.err


def _ours(folder: Path, text: str = "[host]\nstep_s = 0.002\n") -> str:
    path = folder / "ours.toml"
    path.write_text(f'schema = 1\nname = "ours"\nextends = "vllm-0.33"\n{text}', encoding="utf-8")
    return str(path)


def test_every_bundled_profile_is_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    """The list has a line per profile with its version, batching policy and limits; a star marks the default."""
    code, out, err = _run([], capsys)
    head, *lines = out.splitlines()
    assert code == 0
    assert head.split()[:5] == ["profile", "engine", "version", "policy", "extends"]
    names = [line[2:].split()[0] for line in lines]
    assert sorted(names) == list(bundled_profiles())
    assert [name for name, line in zip(names, lines, strict=True) if line.startswith("*")] == [DEFAULT_PROFILE]
    old = lines[names.index("vllm-0.6")]
    assert old.split() == ["vllm-0.6", "vllm", "0.6.0", "vllm-v0", "-", "512", "256"]
    assert err.startswith("*")


def test_the_list_as_json_has_the_limits_of_every_kind_of_device(capsys: pytest.CaptureFixture[str]) -> None:
    """The newest version of an engine comes first, with its parents and its limits by device."""
    found = json.loads(_run(["--json"], capsys)[1])
    vllm = [item for item in found if item["engine"] == "vllm"]
    versions = ("0.33", "0.19", "0.18", "0.17", "0.15", "0.12", "0.11", "0.10", "0.6")
    assert [item["name"] for item in vllm] == [f"vllm-{version}" for version in versions]
    assert [item["is_default"] for item in vllm] == [True, *[False] * 8]
    assert vllm[0]["extends"] == [f"vllm-{version}" for version in versions[1:-1]]
    assert vllm[0]["limits"][1]["except_names"] == ["a100", "gb10"]


def _facts(name: str, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    return {fact["key"]: fact for fact in json.loads(_run([name, "--json"], capsys)[1])["facts"]}


@pytest.mark.parametrize("name", bundled_profiles())
def test_every_value_of_a_bundled_profile_has_a_source(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a bundled profile or one of its parents states, the same file says the source of."""
    facts = _facts(name, capsys)
    assert facts["host.step_s"]["value"] == load_profile(name).host.step_s
    unexplained = [key for key, fact in facts.items() if fact["stated_by"] is not None and not fact["source"]]
    assert unexplained == []


def test_a_value_is_shown_with_the_file_that_states_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file's own value has the file and no source where it gives none; inherited ones keep profile and source."""
    path = _ours(tmp_path, 'without = ["memory.states"]\n[host]\nstep_s = 0.002\n')
    facts = _facts(path, capsys)
    own = {"key": "host.step_s", "value": 0.002, "error": None, "stated_by": path, "source": None}
    assert facts["host.step_s"] == own
    assert (facts["host.launch_s"]["value"], facts["host.launch_s"]["error"]) == (44e-6, 11e-6)
    assert facts["host.launch_s"]["stated_by"] == "vllm-0.10"
    assert "44 us per launch" in facts["host.launch_s"]["source"]
    assert facts["host.serial_sequence_s"]["stated_by"] == "vllm-0.10"
    assert facts["memory.states"] == {
        "key": "memory.states",
        "value": None,
        "error": None,
        "stated_by": None,
        "source": None,
    }
    code, out, _ = _run([path], capsys)
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert rows[0][:4] == ["ours", "extends", "vllm-0.33,", "vllm-0.19,"]
    assert rows[0][-1] == "vllm-0.10"
    assert ["step_s", path, "0.002"] in rows
    assert ["launch_s", "vllm-0.10", "{", "value", "=", "4.4e-05,", "error", "=", "1.1e-05", "}"] in rows
    assert ["states", "(default)", "none"] in rows


@pytest.mark.parametrize("name", bundled_profiles())
def test_the_printed_file_is_the_profile(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What --toml prints is a file that extends nothing and loads as the same values, sources aside."""
    path = tmp_path / "whole.toml"
    path.write_text(_run([name, "--toml"], capsys)[1], encoding="utf-8")
    assert "extends =" not in path.read_text(encoding="utf-8")
    found, bundled = (_plain(load_profile(source)) for source in (str(path), name))
    assert found.pop("name") == f"my-{bundled.pop('name')}"
    assert found == bundled


def test_a_name_of_several_lines_is_no_broken_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever a person calls a profile, what --toml prints of it can be read."""
    path, whole = tmp_path / "ours.toml", tmp_path / "whole.toml"
    path.write_text('schema = 1\nname = "two\\nlines = 3"\nextends = "vllm-0.33"\n', encoding="utf-8")
    whole.write_text(_run([str(path), "--toml"], capsys)[1], encoding="utf-8")
    assert load_profile(str(whole)).name == "two\nlines = 3"


def _plain(profile: EngineProfile) -> dict[str, Any]:
    def without_sources(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_sources(inner) for key, inner in value.items() if key != "source"}
        return value

    plain: dict[str, Any] = without_sources(profile.model_dump(by_alias=True))
    return plain


def test_a_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A faulty file ends in exit code 2 with file, key, value and hint, and nothing on standard output."""
    path = _ours(tmp_path, "[host]\nstep_s = 2.0\n")
    code, out, err = _run([path], capsys)
    assert (code, out) == (2, "")
    assert f"error: {path}: host.step_s is 2.0, must be less than 1" in err
    assert "hint: apex engines vllm-0.33" in err
    code, out, err = _run(["vlm-0.33"], capsys)
    assert (code, out) == (2, "")
    assert "hint: did you mean vllm-0.33" in err


def test_a_version_without_a_profile_is_shown_as_the_one_that_stands_in(capsys: pytest.CaptureFixture[str]) -> None:
    """The page is that of the nearest older profile, and a note says which and how much wider intervals are."""
    code, out, err = _run(["vllm-0.34"], capsys)
    assert (code, out) == (0, _run(["vllm-0.33"], capsys)[1])
    assert "vllm-0.34 has no profile, vllm-0.33 stands in: intervals are wider by" in err
