"""A fit that was read and checked once, kept so that later commands neither read nor check it again.

The Parquet file is the contract; this is what pricing needs of it, in the user's cache under the digest of the file's
content and of the code that checked it. A changed file or changed checks have another digest and are read anew:
nothing is priced that was not checked whole (decision 122).

    magic | length and digest of the head | head: JSON | numbers of every family, mapped into memory

The head states how long the file is and where each number stands. A file that is cut short, not ours, or has another
head than was written is taken for none, and made again. Families are built when a price first asks for them.
"""

import hashlib
import json
import mmap
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import OutputError
from cluster_specs.files.user_cache import keep_newest, user_cache
from cluster_specs.files.whole import make_folder, write_whole
from costmodel.fit_file.contents import Artefact, FamilyReport, Provenance
from costmodel.fit_file.label_json import factors_from_json, factors_to_json
from costmodel.fitted.knots import Derived, FamilyKnots, LabelFit
from costmodel.fitted.reference import Reference
from costmodel.ops.label import Label
from costmodel.power_model import PowerModel

_MAGIC: Final = b"apex prepared fit 1\n"
_DIGEST_BYTES: Final = 16
_HEAD_AT: Final = 64  # magic, length and digest of the head stand before it
_ALIGNMENT: Final = 64
_MOST_BYTES: Final = 2**27  # the largest bundled fit has 3 MB; what is far larger is not hashed for nothing
_MOST_KEPT: Final = 16  # of 15 MB each; of older ones the file was probably replaced
_ROWS: Final = ("x", "y", "latency_s", "residual")
_ARRAYS_OF_LABEL: Final = ("trend_log_s", "trend", "log_half_width", "size_edges_s")
# Sources that decide what a checked fit is: its reader, its checks, and the values it is kept as.
_SOURCES: Final = (
    "costmodel/*.py",
    "costmodel/fit_file/*.py",
    "costmodel/fitted/*.py",
    "costmodel/families/*.py",
    "costmodel/ops/*.py",
    "profiles_db/parquet_files.py",
)


class PreparedFamilies(Mapping[str, FamilyKnots]):
    """Families of a prepared fit, each built when it is first asked for."""

    def __init__(self, build: Mapping[str, Callable[[], FamilyKnots]]) -> None:
        self._build = build
        self._built: dict[str, FamilyKnots] = {}

    def __getitem__(self, name: str) -> FamilyKnots:
        if name not in self._built:
            self._built[name] = self._build[name]()
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._build)

    def __len__(self) -> int:
        return len(self._build)


def load_for_prices(path: Path) -> Artefact:
    """Open a fitted model for pricing: without held-out errors, which no price rests on.

    Raises as ``load_artefact`` does where the file was never read before. Where the cache cannot be written the file is
    read and checked every time.
    """
    digest = _digest_of(path)
    kept = None if digest is None else user_cache() / "fits" / digest
    if kept is not None and (found := _read(kept)) is not None:
        return found
    from costmodel.fit_file.artefact import load_artefact

    artefact = load_artefact(path, with_errors=False)
    if kept is not None and digest == _digest_of(path):  # else it changed while it was read
        _keep(artefact, kept)
    return artefact


def _digest_of(path: Path) -> str | None:
    """Digest of a file's content and of the code that checks it; None for what is no file of a fit's size."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            return None
        digest = hashlib.blake2b(_code(), digest_size=_DIGEST_BYTES)
        digest.update(path.read_bytes())
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return None
    return digest.hexdigest()


@cache
def _code() -> bytes:
    """Digest of the code that reads, checks and holds fits."""
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for source in code_of_fits():
        digest.update(source.read_bytes())
    return digest.digest()


def code_of_fits() -> list[Path]:
    """Return the sources of which any change makes kept fits those of another version."""
    packages = Path(__file__).parents[2]
    return [source for pattern in _SOURCES for source in sorted(packages.glob(pattern))]


def _keep(artefact: Artefact, path: Path) -> None:
    """Write a checked fit; a cache that cannot be written is no reason to give no answer."""
    families: dict[str, Any] = {}
    blocks: list[NDArray[Any]] = []
    for name, knots in artefact.families.items():
        labels = list(knots.labels)
        number_of = {label: index for index, label in enumerate(labels)}
        numbers = {
            "label": np.array([number_of[label] for label in knots.label], dtype=np.int64),
            "start": knots.start,
            "shape": _with_gaps(knots.shape),
            **{row: getattr(knots, row) for row in _ROWS},
        }
        families[name] = {
            "features": list(knots.features),
            "labels": [_label_to_json(label, knots.labels[label]) for label in labels],
            "derived": {kind: asdict(correction) for kind, correction in knots.derived.items()},
            "numbers": {key: _laid_out(values, blocks) for key, values in numbers.items()},
        }
    head = {
        "provenance": asdict(artefact.provenance),
        "power": None if artefact.power is None else asdict(artefact.power),
        "reports": [asdict(report) for report in artefact.reports],
        "has_digest": artefact.has_digest,
        "families": families,
        "bytes": _padded_bytes(blocks),
    }
    try:
        make_folder(path.parent)
        write_whole(path, lambda stream: _write(stream, head, blocks))
        keep_newest(path.parent, _MOST_KEPT)
    except OutputError:
        return


def _with_gaps(shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return features with the unused columns they were read with: other strides may round otherwise."""
    columns = max(shape.strides[0] // shape.itemsize, shape.shape[1])
    whole = np.full((len(shape), columns), np.nan)
    whole[:, : shape.shape[1]] = shape
    return whole


def _laid_out(values: NDArray[Any], blocks: list[NDArray[Any]]) -> list[Any]:
    """Add an array to the numbers; returns its type, shape and place behind the head."""
    place = _padded_bytes(blocks)
    blocks.append(values)
    return [values.dtype.str, list(values.shape), place]


def _padded_bytes(blocks: list[NDArray[Any]]) -> int:
    return sum(values.nbytes + -values.nbytes % _ALIGNMENT for values in blocks)


def _padded(values: NDArray[Any]) -> bytes:
    content = values.tobytes()
    return content + bytes(-len(content) % _ALIGNMENT)


def _write(stream: BinaryIO, head: Mapping[str, Any], blocks: list[NDArray[Any]]) -> None:
    content = json.dumps(head).encode()
    content += b" " * (-len(content) % _ALIGNMENT)
    digest = hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()
    stream.write((_MAGIC + len(content).to_bytes(8, "little") + digest).ljust(_HEAD_AT, b"\0"))
    stream.write(content)
    for values in blocks:
        stream.write(_padded(values))


def _read(path: Path) -> Artefact | None:
    """Map a prepared fit into memory; None where there is none, or none that was written whole by this code."""
    try:
        with path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # not there, empty
        return None
    length = int.from_bytes(content[len(_MAGIC) : len(_MAGIC) + 8], "little")
    stated, end = content[len(_MAGIC) + 8 : len(_MAGIC) + 8 + _DIGEST_BYTES], _HEAD_AT + length
    if not content[:_HEAD_AT].startswith(_MAGIC) or end > len(content):
        return None
    text = content[_HEAD_AT:end]
    if hashlib.blake2b(text, digest_size=_DIGEST_BYTES).digest() != stated:
        return None
    head = json.loads(text)
    if len(content) != end + head["bytes"]:
        return None
    families = {
        name: lambda name=name, part=part: _family(name, part, content, end) for name, part in head["families"].items()
    }
    return Artefact(
        provenance=_provenance(head["provenance"]),
        families=PreparedFamilies(families),
        power=None if head["power"] is None else PowerModel(**head["power"]),
        reports=tuple(FamilyReport(**report) for report in head["reports"]),
        has_digest=head["has_digest"],
    )


def _provenance(part: Mapping[str, Any]) -> Provenance:
    tuples = {name: tuple(part[name]) for name in ("run_ids", "quantise_included")}
    from_prior = {family: tuple(labels) for family, labels in part["from_prior"].items()}
    return Provenance(**{**part, **tuples, "from_prior": from_prior})


def _family(name: str, part: Mapping[str, Any], content: mmap.mmap, begin: int) -> FamilyKnots:
    numbers = {
        key: np.frombuffer(content, dtype=kind, count=int(np.prod(shape)), offset=begin + place).reshape(shape)
        for key, (kind, shape, place) in part["numbers"].items()
    }
    labels = dict(map(_label_from_json, part["labels"]))
    of_number, features = list(labels), tuple(part["features"])
    return FamilyKnots(
        family=name,
        features=features,
        shape=numbers.pop("shape")[:, : len(features)],
        label=tuple(of_number[number] for number in numbers.pop("label").tolist()),
        labels=labels,
        derived={kind: Derived(**correction) for kind, correction in part["derived"].items()},
        **numbers,
    )


def _label_to_json(label: Label, fit: LabelFit) -> dict[str, Any]:
    """Everything of a label that a price rests on: how its holes were filled is in its rows."""
    own = {item.name: getattr(fit, item.name) for item in fields(fit) if item.name not in {"reference", "filling"}}
    arrays = {name: own[name].tolist() for name in _ARRAYS_OF_LABEL}
    factors = {"shape_factors": factors_to_json(fit.shape_factors)}
    return {"label": label.text, "reference": asdict(fit.reference), "constants": {**own, **arrays, **factors}}


def _label_from_json(part: Mapping[str, Any]) -> tuple[Label, LabelFit]:
    constants = part["constants"]
    arrays = {name: np.array(constants[name], dtype=np.float64) for name in _ARRAYS_OF_LABEL}
    factors = {"shape_factors": factors_from_json(constants["shape_factors"])}
    fit = LabelFit(reference=Reference(**part["reference"]), **{**constants, **arrays, **factors})
    return Label.parse(part["label"]), fit
