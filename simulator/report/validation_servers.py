"""Servers of many measured runs, one line each, as a table and as rows of a page."""

from collections.abc import Sequence
from typing import Final

from simulator.report.text_table import text_table
from simulator.validation.predict import ValidatedRun
from simulator.validation.predict_all import server_of
from simulator.validation.summary import agreement

_METRICS: Final = ("ttft_s.mean", "tpot_s.mean", "e2e_s.mean", "throughput_tokens_per_s")
_SHORT: Final = {"throughput_tokens_per_s": "tokens/s"}


def short(path: str) -> str:
    """Name a metric in the head of a column."""
    return _SHORT.get(path) or path.removesuffix(".mean").removesuffix("_s").upper()


def server_rows(runs: Sequence[ValidatedRun]) -> list[dict[str, str]]:
    """Return errors, bias and coverage of each server, and of each set where a mapping keeps sets apart."""
    rows = []
    sets = list(dict.fromkeys(run.run.set for run in runs))
    known = [path for path in _METRICS if agreement(runs, path) is not None]
    for name in sets:
        own = [run for run in runs if run.run.set == name]
        servers: dict[str, list[ValidatedRun]] = {}
        for run in own:
            servers.setdefault(server_of(run.run), []).append(run)
        rows += [_row(server, name, members, known) for server, members in servers.items()]
        if len(sets) > 1 and len(servers) > 1:
            rows.append(_row(f"all of {name or 'the others'}", name, own, known))
    return rows


def servers_text(runs: Sequence[ValidatedRun]) -> str:
    """Return the same as a table for a terminal."""
    rows = server_rows(runs)
    heads = list(rows[0]) if rows else []
    return text_table(heads, (list(row.values()) for row in rows), left={"server", "set"})


def _row(server: str, name: str, runs: Sequence[ValidatedRun], paths: Sequence[str]) -> dict[str, str]:
    row = {"server": server, **({"set": name} if name else {}), "runs": str(len(runs))}
    for path in paths:
        found = agreement(runs, path)
        row[f"{short(path)} error"] = "-" if found is None else f"{found.mape_frac:.1%}"
        row[f"{short(path)} bias"] = "-" if found is None else f"{found.bias_frac:+.1%}"
        row[f"{short(path)} inside"] = (
            "-" if found is None or found.coverage_frac is None else f"{found.coverage_frac:.0%}"
        )
    return row
