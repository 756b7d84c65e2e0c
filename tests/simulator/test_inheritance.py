"""A profile states what differs from another; what it means is exact, and every fault is reported where it stands."""

from pathlib import Path

import pytest

from cluster_specs.errors import UserError
from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE, bundled_path, bundled_profiles
from simulator.engine_profiles.engine_profile import load_profile
from simulator.engine_profiles.inheritance import merge_profile, own_files

_HEAD = 'schema = 1\nname = "ours"\n'


def _write(folder: Path, name: str, text: str, head: str = _HEAD) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + text, encoding="utf-8")
    return str(path)


def _refused(path: str) -> UserError:
    with pytest.raises(UserError) as caught:
        load_profile(path)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("parent", bundled_profiles())
def test_three_lines_are_a_profile(tmp_path: Path, parent: str) -> None:
    """Schema, name and parent make a whole profile, which is the parent under another name."""
    ours = load_profile(_write(tmp_path, "ours.toml", f'extends = "{parent}"\n'))
    assert ours.name == "ours"
    assert ours.model_copy(update={"name": parent}) == load_profile(parent)


def test_tables_merge_key_by_key_and_lists_replace(tmp_path: Path) -> None:
    """A key of a table, also of one inside a table, changes alone; a list is taken as it stands."""
    ours = load_profile(
        _write(
            tmp_path,
            "ours.toml",
            'extends = "vllm-0.33"\nblock_size = 32\n[graphs]\nsizes = [1, 2]\n[host]\nstep_s = 0.002\n'
            '[mxfp4_experts.devices]\nhopper = "marlin"\n[memory.states]\nis_block_per_sequence = false\n',
        )
    )
    parent = load_profile("vllm-0.33")
    assert (ours.block_size, ours.graphs.sizes, ours.host.step_s) == (32, [1, 2], 0.002)
    assert (ours.host.sequence_s, ours.graphs.max_tokens) == (parent.host.sequence_s, parent.graphs.max_tokens)
    assert ours.mxfp4_experts.devices == {**parent.mxfp4_experts.devices, "hopper": "marlin"}
    assert ours.memory.states is not None
    assert (ours.memory.states.layout, ours.memory.states.is_block_per_sequence) == ("pages", False)


def test_keys_of_a_parent_can_be_taken_away(tmp_path: Path) -> None:
    """What ``without`` names is as if no parent had stated it, a whole table too; it may be stated anew."""
    ours = load_profile(
        _write(
            tmp_path,
            "ours.toml",
            'extends = "sglang-0.5"\nwithout = ["reserve", "memory.slow_communicator_mib", "mxfp4_experts.devices"]\n'
            '[mxfp4_experts.devices]\nada = "rocm"\n',
        )
    )
    assert ours.reserve is None
    assert ours.memory.slow_communicator_mib is None
    assert ours.mxfp4_experts.devices == {"ada": "rocm"}


def test_a_chain_is_followed_and_the_nearest_wins(tmp_path: Path) -> None:
    """A parent may be a path, relative to the file that states it, and extend a file or a bundled profile in turn."""
    _write(tmp_path, "base/far.toml", 'extends = "vllm-0.11"\nblock_size = 32\n[host]\nstep_s = 0.5\nlaunch_s = 0.25\n')
    _write(tmp_path, "base/near.toml", 'extends = "far.toml"\n[host]\nstep_s = 0.125\n')
    path = _write(tmp_path, "ours.toml", 'extends = "base/near.toml"\n')
    ours = load_profile(path)
    assert (ours.block_size, ours.host.step_s, ours.host.launch_s) == (32, 0.125, 0.25)
    assert ours.version == "0.11.0"
    labels = [file.label for file in merge_profile(path).files]
    near, far = (str(tmp_path / "base" / name) for name in ("near.toml", "far.toml"))
    assert labels == [path, near, far, "vllm-0.11", "vllm-0.10"]
    assert own_files(path) == [Path(path), Path(near), Path(far)]
    assert own_files("vllm-0.33") == []


def test_every_value_knows_the_file_that_states_it(tmp_path: Path) -> None:
    """A changed key is the child's, its neighbours stay the parent's, and a key nobody states is nobody's."""
    merged = merge_profile(_write(tmp_path, "ours.toml", 'extends = "vllm-0.33"\n[host]\nstep_s = 0.002\n'))
    files = {
        place: None if (file := merged.file_of(place)) is None else Path(file.label).name
        for place in (("host", "step_s"), ("host", "sequence_s"), ("host", "frontend_s"), ("limits", 1, "kind"))
    }
    assert list(files.values()) == ["ours.toml", "vllm-0.15", "vllm-0.10", "vllm-0.33"]
    assert merged.file_of(("reserve", "constant")) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('extends = "vllm-0.3"\n', "extends is 'vllm-0.3', which is no engine profile"),
        ('extends = "base.toml"\n', "extends is 'base.toml', but there is no file"),
        ("extends = 3\n", "extends is 3, must be the name of a bundled profile or the path of a TOML file"),
        ('extends = ""\n', "extends is '', which is no engine profile"),
        ('extends = "\\u0000.toml"\n', "but there is no file"),
        ('extends = "vllm-0.33"\n[host]\nstep_s = 2.0\n', "host.step_s is 2.0, must be less than 1"),
        ('extends = "vllm-0.33"\n[host]\nstep = 2.0\n', "host.step: unknown key"),
        ('extends = "vllm-0.33"\nhost = 3\n', "host is 3, must be"),
        ('extends = "vllm-0.33"\n[block_size]\nvalue = 3\n', "block_size is {'value': 3}, must be"),
        ('extends = "vllm-0.33"\nlimits = []\n', "limits is []"),
        ('extends = "vllm-0.33"\nwithout = ["host"]\n', "host: missing"),
        (
            'extends = "vllm-0.33"\nwithout = ["memory.pages"]\n',
            "without names 'memory.pages', which vllm-0.33 does not",
        ),
        ('extends = "vllm-0.33"\nwithout = "memory"\n', "without is 'memory', must be a list of keys"),
        ('without = ["memory"]\n', "without takes keys of another profile away, but extends names none"),
        ('engine = "vllm"\n', "version: missing"),
    ],
)
def test_a_fault_of_the_child_names_its_file(tmp_path: Path, text: str, said: str) -> None:
    """One message has the child's file, the key and the value; the hint says what to do."""
    path = _write(tmp_path, "ours.toml", text)
    error = _refused(path)
    assert str(error).startswith(f"{path}: ")
    assert said in str(error)


@pytest.mark.parametrize("head", ["", 'schema = 1\nextends = "vllm-0.33"\n', 'name = "x"\nextends = "vllm-0.33"\n'])
def test_schema_and_name_are_not_inherited(tmp_path: Path, head: str) -> None:
    """A child without either is refused, whatever its parent states."""
    path = _write(tmp_path, "ours.toml", "", head=head)
    assert ": missing" in str(_refused(path))


def test_a_fault_of_a_parent_names_the_parent(tmp_path: Path) -> None:
    """Values are charged to the file that states them, each file once, and what a nearer file corrects is no fault."""
    base = _write(
        tmp_path, "base.toml", 'extends = "vllm-0.33"\nblock_size = 0\n[host]\nstep_s = -1.0\nlaunch_s = 7.0\n'
    )
    path = _write(tmp_path, "ours.toml", 'extends = "base.toml"\nblok_size = 1\n[host]\nlaunch_s = 0.1\n')
    assert str(_refused(path)) == (
        f"{base}: block_size is 0, must be greater than 0; host.step_s is -1.0, must be greater than or equal to 0; "
        f"{path}: blok_size: unknown key"
    )


def test_a_parent_states_its_own_schema(tmp_path: Path) -> None:
    """A parent of a schema that is not understood is refused by its own name."""
    base = _write(tmp_path, "base.toml", "", head='schema = 2\nname = "base"\nextends = "vllm-0.33"\n')
    error = _refused(_write(tmp_path, "ours.toml", 'extends = "base.toml"\n'))
    assert str(error) == f"{base}: schema is 2, must be 1"


def test_a_circle_is_refused_once(tmp_path: Path) -> None:
    """Profiles that extend each other end in one message: the file, the key and the way round."""
    first = _write(tmp_path, "first.toml", 'extends = "second.toml"\n')
    second = _write(tmp_path, "second.toml", 'extends = "./first.toml"\n')
    message = str(_refused(first))
    assert message.startswith(f"{second}: extends is './first.toml', which extends this file in turn: ")
    assert [Path(part).name for part in message.rsplit(": ", 1)[-1].split(" -> ")] == [
        "first.toml",
        "second.toml",
        "first.toml",
    ]
    alone = _write(tmp_path, "alone.toml", 'extends = "alone.toml"\n')
    assert "extends this file in turn" in str(_refused(alone))


def test_tables_too_deep_for_a_profile_are_no_crash(tmp_path: Path) -> None:
    """A dotted key of thousands of parts is an unknown key, over a parent too."""
    text = f'extends = "vllm-0.33"\n{".".join(["memory"] * 5_000)} = 1\n'
    assert "memory.memory: unknown key" in str(_refused(_write(tmp_path, "ours.toml", text)))


def test_the_default_profile_is_named_once() -> None:
    """The default is bundled, and no module but one has its name as a text."""
    assert DEFAULT_PROFILE in bundled_profiles()
    room = bundled_path(DEFAULT_PROFILE).parents[1]
    files = [path for path in room.rglob("*.py") if f'"{DEFAULT_PROFILE}"' in path.read_text(encoding="utf-8")]
    assert {path.name for path in files} <= {"bundled_profiles.py", "inheritance.py"}
