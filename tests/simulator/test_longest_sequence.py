"""Nobody's server is narrowed to a sample in silence: a length taken from the trace is said, a stated one is kept."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from simulator.cli import apex

_NOTE = (
    "max_model_len 1024: the longest request of synthetic-lengths needs 250 tokens, llama-3.1-8b takes up to 131,072; "
    "state --max-model-len where the server gets longer ones"
)
_SEARCH = ("search", "--plan", "tp1", "--no-interval")
_SIMULATE = ("simulate", "--plan", "tp1")


def _run(*arguments: str) -> Result:
    served = ("--model", "llama-3.1-8b", "--cluster", "h100-sxm-1", "--trace", "synthetic:isl=200,osl=50,rate=1,n=5")
    done = CliRunner().invoke(apex, [*arguments, *served])
    assert done.exit_code == 0, done.output
    return done


def _limits(command: tuple[str, ...], answer: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = (answer["plans"][0] if command is _SEARCH else answer)["limits"]
    return limits


@pytest.mark.parametrize("command", [_SIMULATE, _SEARCH])
def test_a_length_from_the_trace_is_said(command: tuple[str, ...]) -> None:
    """Stderr and the JSON name the length, the request it comes from, the model's context and the flag."""
    done = _run(*command, "--json")
    answer = json.loads(done.stdout)
    assert _limits(command, answer)["max_model_len"] == 1024
    assert answer["notes"][0] == _NOTE
    assert _NOTE in done.stderr.splitlines()


@pytest.mark.parametrize("command", [_SIMULATE, _SEARCH])
def test_a_stated_length_is_kept_and_not_remarked_on(command: tuple[str, ...]) -> None:
    """What the user states is what is simulated and started."""
    done = _run(*command, "--json", "--max-model-len", "4096")
    answer = json.loads(done.stdout)
    assert _limits(command, answer)["max_model_len"] == 4096
    assert not any("max_model_len" in note for note in [*answer["notes"], *done.stderr.splitlines()])
