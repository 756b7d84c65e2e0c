"""The names of bundled devices and clusters, the sizes a cluster's name may ask for, and what a wrong name meant."""

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass

_FOLDER: Final = Path(__file__).parent
_SIZED: Final = re.compile(r"^(?P<device>[a-z0-9.-]+?)-(?:(?P<nodes>[0-9]{1,6})x)?(?P<count>[0-9]{1,6})$")
_COUNT_FIRST: Final = re.compile(r"^(?:(?P<nodes>[0-9]{1,6})x)?(?P<count>[0-9]{1,6})x(?P<device>[a-z][a-z0-9.-]*)$")
_COUNT_LAST: Final = re.compile(r"^(?P<device>[a-z][a-z0-9.-]*?)[x:](?P<count>[0-9]{1,6})$")
_MOST_SUGGESTIONS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A cluster's name in parts: ``h100-sxm-2x8`` is two nodes of eight; ``nodes`` is None in ``h100-sxm-8``."""

    name: str
    device: str
    nodes: int | None
    count: int


def bundled_devices() -> list[str]:
    """Return the names of the bundled devices, sorted."""
    return sorted(path.stem for path in (_FOLDER / "devices").glob("*.toml"))


def bundled_clusters() -> list[str]:
    """Return the names of the bundled clusters, sorted."""
    return sorted(path.stem for path in (_FOLDER / "clusters").glob("*.toml"))


def bundled_path(folder: str, name: str) -> Path:
    """Return the file of a bundled spec."""
    return _FOLDER / folder / f"{name}.toml"


def parse_size(name: str) -> Size | None:
    """Take a cluster's name apart; None where it is not of that form."""
    match = _SIZED.match(name)
    if match is None:
        return None
    nodes = None if match["nodes"] is None else int(match["nodes"])
    return Size(name=name, device=match["device"], nodes=nodes, count=int(match["count"]))


def canonical_cluster(name: str) -> str:
    """Return the name a cluster has here: ``8xH200``, ``2x8xH200`` and ``H200:8`` count devices of ``h200-sxm``.

    What is no such spelling is returned in lower case; so is a family of several boards (``8xH100``), with its size
    where names have it, for `unknown_cluster` to ask which is meant.
    """
    text = name.strip().lower()
    if text in bundled_clusters() or _SIZED.match(text) is not None:
        return text
    match = _COUNT_FIRST.match(text) or _COUNT_LAST.match(text)
    if match is None:
        return text
    devices = bundled_devices()
    boards = [match["device"]] if match["device"] in devices else _of_family(match["device"], devices)
    device = boards[0] if len(boards) == 1 else match["device"]
    nodes = match.groupdict().get("nodes")
    return f"{device}-{'' if nodes is None else f'{nodes}x'}{match['count']}"


def unknown_device(name: str) -> UserError:
    """Return the error for a name that no bundled device has."""
    known = bundled_devices()
    return _unknown("device", name, [*_of_family(name, known), *get_close_matches(name, known)], known)


def unknown_cluster(name: str) -> UserError:
    """Return the error for a name that no bundled cluster has or is a size of.

    ``a100-8`` names a family: its boards come first, at that size where a node holds so many.
    """
    known = bundled_clusters()
    nodes = {size.device: size.count for size in map(parse_size, known) if size is not None and size.nodes is None}
    asked = canonical_cluster(name)
    wanted = parse_size(asked)
    meant = []
    for device in _of_family(asked if wanted is None else wanted.device, list(nodes)):
        per_node = nodes[device]
        if wanted is None:
            meant.append(f"{device}-{per_node}")
        elif wanted.count > per_node or wanted.nodes is not None:
            count = min(wanted.count, per_node)
            several = f"{device}-{wanted.nodes or -(-wanted.count // per_node)}x{count}"
            meant += [several] if f"{device}-2x{per_node}" in known else []
        else:
            meant.append(f"{device}-{wanted.count}")
    return _unknown("cluster", name, [*meant, *get_close_matches(asked, known)], known)


def _of_family(family: str, known: list[str]) -> list[str]:
    """Names that go on where ``family`` stops, at a dash, those with the most memory (the last number) first."""
    return sorted((name for name in known if name.startswith(f"{family}-")), reverse=True)


def _unknown(kind: str, name: str, meant: list[str], known: list[str]) -> UserError:
    close = list(dict.fromkeys(meant))[:_MOST_SUGGESTIONS]
    return UserError(
        f"{shown(name)} is not a bundled {kind}",
        hint=f"did you mean {' or '.join(close)}?" if close else f"bundled: {', '.join(known)}; or give a .toml path",
    )
