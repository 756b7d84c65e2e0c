"""A command imports what it uses: bounds in modules, which no machine is faster or slower at."""

import pytest

from benchmarks.command_modules import BOUNDS, COMMANDS, HEAVY, OURS, modules, top


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_no_more_than_its_bound(name: str) -> None:
    """Modules of ours stay below the bound, and none belongs to a heavy package that the command does not use."""
    packages = top(modules(COMMANDS[name]))
    assert sum(package in OURS for package in packages) <= BOUNDS[name].ours
    assert {package for package in HEAVY if package in packages} <= BOUNDS[name].heavy
