"""Compare today's answers with the kept ones: ``python -m benchmarks.golden``; ``--write`` keeps today's instead.

One digest per answer says whether a single bit moved; a few figures beside it say to a person what the answer was.
The times at which a file was made are left out of the digests. The last bits of a fit depend on the processor and
the versions of numpy and scikit-learn: where fits alone differ from the kept answers, compare with those of the commit
before, on the same machine.
"""

import contextlib
import hashlib
import io
import json
import re
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.golden.cases import FITS, SEARCHES, SIMULATIONS
from benchmarks.golden.measurements import write_measurements
from cluster_specs.command_line import strict_json
from profiles_db.parquet_files import read_table
from simulator.cli import main as apex

_KEPT: Final = Path(__file__).parent / "answers.json"
_ANSWERED: Final = (0, 3)  # 3: no plan can start, which is an answer too
_FILE_DIGEST: Final = b"apex_fit_digest"  # of the date too
_MADE_AT: Final = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(\+00:00|Z)?")


def _run(arguments: list[str]) -> tuple[int, str]:
    """Exit code and standard output of one command."""
    shown, said = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(said):
        try:
            apex(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    if code not in _ANSWERED:
        raise click.ClickException(f"apex {shlex.join(arguments)} ended with {code}: {said.getvalue()}")
    return code, shown.getvalue()


def _digest(text: str, folder: Path) -> str:
    """Sixteen hexadecimal digits of the text without its dates and without the folder it was made in."""
    return hashlib.sha256(_MADE_AT.sub("", text.replace(str(folder), "")).encode()).hexdigest()[:16]


def _figures(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what a person wants to see of a search's or a simulation's JSON."""
    first = answer["plans"][0] if answer.get("plans") else answer
    if "metrics" not in first:
        return {}
    metrics = first["metrics"]
    figures = {"plan": first["plan"]} if "plan" in first else {}
    for name in ("ttft_s", "tpot_s"):
        figures[f"{name}.mean"] = f"{metrics[name]['mean']:.6g}"
    return figures


def _answer(command: str, line: str, folder: Path) -> dict[str, Any]:
    arguments = [word.format(db=folder / "db", fit=folder / "fit.parquet") for word in shlex.split(line)]
    code, text = _run([command, *arguments, "--json"])
    answer: dict[str, Any] = {"exit_code": code}
    if text:
        document = json.loads(text)
        del document["made_by"]  # the sources of apex are part of it
        text = strict_json(document) + "\n"
        answer |= _figures(document)
    return {"digest": _digest(text, folder), **answer}


def _fit_answer(line: str, folder: Path) -> dict[str, Any]:
    file = folder / "fit.parquet"
    arguments = [word.format(db=folder / "db") for word in shlex.split(line)]
    code, text = _run(["fit", *arguments, "--out", str(file), "--json"])
    table = read_table(file)
    metadata = {
        key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items() if key != _FILE_DIGEST
    }
    content = json.dumps([metadata, table.to_pydict()], sort_keys=True, default=str)
    return {
        "digest": _digest(text, folder),
        "exit_code": code,
        "file": _digest(content, folder),
        "rows": table.num_rows,
    }


def answers(folder: Path) -> dict[str, dict[str, Any]]:
    """Answer all cases; ``folder`` takes the files they need."""
    write_measurements(folder / "db")
    # The first fit is made last: it is what the simulations read.
    found = {name: _fit_answer(FITS[name], folder) for name in reversed(FITS)}
    found |= {name: _answer("search", line, folder) for name, line in SEARCHES.items()}
    found |= {name: _answer("simulate", line, folder) for name, line in SIMULATIONS.items()}
    return found


@click.command(help=(__doc__ or "").partition(":")[0] + ".")
@click.option("--write", is_flag=True, help="Keep today's answers.")
def main(*, write: bool) -> None:
    """Answer all cases and compare them with, or keep them as, the known ones."""
    with tempfile.TemporaryDirectory() as folder:
        found = answers(Path(folder))
    if write:
        _KEPT.write_text(json.dumps(found, indent=1) + "\n")
        click.echo(f"{len(found)} answers kept")
        return
    kept = json.loads(_KEPT.read_text())
    changed = [name for name in kept.keys() | found.keys() if kept.get(name) != found.get(name)]
    for name in sorted(changed):
        click.echo(f"{name}: was {kept.get(name)}, is {found.get(name)}")
    click.echo(f"{len(found) - len(changed)} of {len(kept)} answers are the kept ones to the bit")
    sys.exit(1 if changed else 0)


if __name__ == "__main__":
    main()
