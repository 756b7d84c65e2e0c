"""What the answers of a search rest on, as a digest for each input: two searches of equal digests judge plans alike.

Inputs are compared by what they say, not by their names: the model, cluster and profile that were read, every request
of the workload, the bytes of the fitted prices, and the program itself.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import costmodel
import simulator
from cluster_specs.files.reading import read_document
from costmodel.bundled_fits import bundled_fit, engine_fits
from costmodel.extension.load import source_of
from simulator.results.objective import Slo
from simulator.serving import Serving
from simulator.workload.parts import Traffic
from simulator.workload.workload import Workload

_ROOM: Final = Path(simulator.__file__).parent
_COSTS_ROOM: Final = Path(costmodel.__file__).parent
_DIGITS: Final = 32


def rests_on(
    serving: Serving,
    workload: Traffic,
    slo: Slo,
    *,
    wants_capacity: bool,
    costs: Path | None,
    out_of_domain: str,
    extensions: Iterable[Path],
) -> Mapping[str, str]:
    """Return a digest for each input that a plan's metrics depend on; ``costs`` and what follows are the options.

    ``wants_capacity``: the most traffic within ``slo`` is among the metrics.
    """
    device = serving.cluster.device.name
    if costs is None:
        fits = [path for path in (bundled_fit(device), *engine_fits(device).values()) if path is not None]
    else:
        fits = [] if str(costs) == "analytic" else [costs]
    sources = sorted([*_ROOM.rglob("*.py"), *_COSTS_ROOM.rglob("*.py")])
    return {
        "version of apex": _digest(path.read_bytes() for path in sources),
        "--model": _digest([repr(serving.model)]),
        "--extension": _digest(read_document(source_of(named)) for named in extensions),
        "--cluster": _digest([repr(serving.cluster)]),
        "--engine": _digest([repr(serving.profile)]),
        "--costs": _digest([str(costs), out_of_domain, *(read_document(path) for path in fits)]),
        "--trace": _digest(_requests(workload)),
        "--slo": _digest([repr(slo), str(wants_capacity)]),
        "option of the server": _digest([repr(serving.overrides), str(serving.allow_unsupported)]),
    }


def _requests(workload: Traffic) -> Iterator[str | bytes | memoryview]:
    """Yield everything a workload says, the names of its requests apart: no metric depends on those."""
    whole = [workload] if isinstance(workload, Workload) else workload
    yield type(workload).__name__  # streamed quantiles are approximate
    for part in whole:
        yield repr(part.client)
        yield from _arrays(part)


def _arrays(value: Any) -> Iterator[memoryview | str]:
    """Yield the numbers of a workload, column by column, those of its prefixes included."""
    for name in sorted(value.__dataclass_fields__):
        column = getattr(value, name)
        if name in {"client", "name", "notes", "request_id"} or column is None:
            continue
        yield name
        if hasattr(column, "__dataclass_fields__"):
            yield from _arrays(column)
        elif hasattr(column, "tobytes"):
            yield memoryview(column.tobytes())
        else:
            yield repr(column)


def _digest(parts: Iterable[str | bytes | memoryview]) -> str:
    found = hashlib.sha256()
    for part in parts:
        content = part.encode(errors="replace") if isinstance(part, str) else bytes(part)
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()[:_DIGITS]
