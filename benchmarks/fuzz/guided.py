"""Bytes broken under guidance: atheris keeps what reaches lines that nothing before reached."""

import random
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.fuzz.cases import make_case, reader_of
from benchmarks.fuzz.judge import judge


def fuzz_bytes(reader: str, state: Path, runs: int) -> None:
    """Fuzz the files of one reader; a fault ends the run with its input in the state folder."""
    import atheris

    with atheris.instrument_imports(include=["cluster_specs", "profiles_db", "costmodel", "simulator"]):
        pass
    numbers = [number for number in range(1000) if reader_of(number) == reader]
    corpus = state / f"corpus-{reader}"
    corpus.mkdir(parents=True, exist_ok=True)
    _fill(corpus, numbers)

    def one_input(data: bytes) -> None:
        folder = Path(tempfile.mkdtemp(prefix="apex-fuzz-"))
        try:
            number = numbers[random.Random(len(data)).randrange(len(numbers))]
            case = make_case(number, folder, content=data)
            verdict = judge(case.arguments, names=case.names)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if verdict.fault:
            raise AssertionError(f"{' '.join(case.arguments)}: {verdict.fault}")

    options = [f"-atheris_runs={runs}", "-max_len=20000", f"-artifact_prefix={state}/{reader}-", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()


def _fill(corpus: Path, numbers: list[int]) -> None:
    """Start from the broken files of numbered cases, which are near enough to sound ones."""
    for number in numbers[:50]:
        folder = Path(tempfile.mkdtemp(prefix="apex-fuzz-"))
        make_case(number, folder)
        for path in folder.rglob("*"):
            if path.is_file():
                shutil.copyfile(path, corpus / f"{number}-{path.name}")
        shutil.rmtree(folder)
