"""Bytes broken under guidance: atheris keeps what reaches lines that nothing before reached.

`python -m benchmarks.fuzz --bytes READER` runs this in a process of its own, because only what is imported after
atheris is watched. A fault ends the run with its input in the state folder.
"""

import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

_WATCHED = ["cluster_specs", "profiles_db", "costmodel", "simulator"]


def main() -> None:
    """Fuzz the files of one reader: READER STATE RUNS."""
    reader, state, runs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    with atheris.instrument_imports(include=_WATCHED):
        from benchmarks.fuzz.cases import make_case, reader_of
        from benchmarks.fuzz.judge import judge

        numbers = [number for number in range(1000) if reader_of(number) == reader]
        corpus = state / f"corpus-{reader}"
        corpus.mkdir(parents=True, exist_ok=True)
        _fill(corpus, numbers, make_case)
        for number in numbers[:20]:  # commands import what they need when they run
            _run(number, None, make_case, judge)

    def one_input(data: bytes) -> None:
        number = numbers[random.Random(data[:64]).randrange(len(numbers))]
        _run(number, data, make_case, judge)

    options = [f"-atheris_runs={runs}", "-max_len=30000", f"-artifact_prefix={state}/{reader}-", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()


def _run(number: int, data: bytes | None, make_case: Callable[..., Any], judge: Callable[..., Any]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="apex-fuzz-"))
    try:
        case = make_case(number, folder, content=data)
        verdict = judge(case.arguments, names=case.names)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert not verdict.fault, f"{' '.join(case.arguments)}: {verdict.fault}"


def _fill(corpus: Path, numbers: list[int], make_case: Callable[..., Any]) -> None:
    """Start from the broken files of numbered cases, which are near enough to sound ones."""
    for number in numbers[:50]:
        folder = Path(tempfile.mkdtemp(prefix="apex-fuzz-"))
        make_case(number, folder)
        for path in folder.rglob("*"):
            if path.is_file():
                shutil.copyfile(path, corpus / f"{number}-{path.name}")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
