"""A fit kept after its first opening: the same to the bit, and read anew whenever it is not what was kept."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster_specs.cluster import ClusterSpec
from cluster_specs.errors import UserError
from costmodel.bundled_fits import bundled_fit
from costmodel.fit_file.artefact import load_artefact, save_artefact
from costmodel.fit_file.contents import Artefact
from costmodel.fit_file.label_json import factors_to_json
from costmodel.fit_file.prepared import PreparedFamilies, code_of_fits, load_for_prices
from costmodel.fitted.knots import FamilyKnots, LabelFit
from costmodel.fitted_costs import FittedCosts
from costmodel.ops.label import Label
from costmodel.ops.op_types import Gemm
from costmodel.power_model import PowerModel
from profiles_db.parquet_files import read_table


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a user's cache of its own; returns the folder of its fits."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "apex" / "fits"


@pytest.fixture
def saved(artefact: Artefact, tmp_path: Path) -> Path:
    """Write the fitted model."""
    path = tmp_path / "fit.parquet"
    save_artefact(artefact, path)
    return path


def _is_prepared(artefact: Artefact) -> bool:
    return isinstance(artefact.families, PreparedFamilies)


def _assert_same_labels(ours: LabelFit, read: LabelFit) -> None:
    for item in fields(LabelFit):
        if item.name == "shape_factors":
            assert factors_to_json(ours.shape_factors) == factors_to_json(read.shape_factors)
        elif item.name != "filling":
            found, wanted = getattr(ours, item.name), getattr(read, item.name)
            assert type(found) is type(wanted)
            assert np.array_equal(found, wanted) if isinstance(wanted, np.ndarray) else found == wanted


def _assert_same_knots(ours: FamilyKnots, read: FamilyKnots) -> None:
    assert (ours.family, ours.features, ours.label, ours.derived) == (
        read.family,
        read.features,
        read.label,
        read.derived,
    )
    assert list(ours.labels) == list(read.labels)
    for name in ("start", "shape", "x", "y", "latency_s", "residual"):
        found, wanted = getattr(ours, name), getattr(read, name)
        assert (found.dtype, found.shape, found.strides) == (wanted.dtype, wanted.shape, wanted.strides)
        assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(wanted).tobytes()
    for label, fit in read.labels.items():
        _assert_same_labels(ours.labels[label], fit)


def test_a_kept_fit_is_what_was_read(kept: Path) -> None:
    """The second opening gives every number of the first, bit by bit and laid out alike, but for held-out errors."""
    path = bundled_fit("a100-sxm-80gb")
    assert path is not None
    read, ours = load_for_prices(path), load_for_prices(path)
    assert (_is_prepared(read), _is_prepared(ours)) == (False, True)
    assert len(list(kept.iterdir())) == 1
    assert list(ours.families) == list(read.families)
    for name, knots in read.families.items():
        _assert_same_knots(ours.families[name], knots)
    for name in ("provenance", "power", "reports", "has_digest"):
        assert getattr(ours, name) == getattr(read, name)


def test_a_change_of_what_is_kept_is_another_version(artefact: Artefact) -> None:
    """Every class of ours that a fit consists of stands in a source that kept fits are told apart by."""

    def classes(value: object) -> Iterator[type]:
        if is_dataclass(value):
            yield type(value)
            for item in fields(value):
                yield from classes(getattr(value, item.name))
        elif isinstance(value, Mapping):
            for part in (*value.keys(), *value.values()):
                yield from classes(part)
        elif isinstance(value, tuple):
            for part in value[:100]:
                yield from classes(part)

    found = set(classes(artefact)) | {PowerModel}
    assert {Artefact, FamilyKnots, LabelFit, Label} <= found
    assert {Path(inspect.getfile(kind)) for kind in found} <= set(code_of_fits())


def test_both_price_alike(artefact: Artefact, cluster: ClusterSpec, saved: Path, kept: Path) -> None:
    """Prices and what they say they rest on do not tell whether the fit was read or kept."""
    op = Gemm(m=np.array([1, 3, 64, 5000]), n=2048, k=4096, dtype="bf16")
    first, second = (FittedCosts(load_for_prices(saved), cluster) for _ in range(2))
    assert _is_prepared(second.artefact)
    assert first.origin == second.origin
    for item in fields(first.predict(op)):
        assert np.array_equal(getattr(first.predict(op), item.name), getattr(second.predict(op), item.name))


@pytest.mark.parametrize(
    "damage",
    [
        lambda _content: b"",
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:40],
        lambda content: content + b"\0",
        lambda content: b"another program's" + content,
        lambda content: content.replace(b'"provenance"', b'"provenence"', 1),
        lambda content: content[:20] + b"\xff" * 8 + content[28:],
    ],
    ids=["empty", "cut", "half", "head cut", "longer", "not ours", "head changed", "length changed"],
)
def test_what_was_not_kept_whole_is_read_anew(saved: Path, kept: Path, damage: Callable[[bytes], bytes]) -> None:
    """A kept file that is cut short, not ours or changed in its head is never used, and is made again."""
    load_for_prices(saved)
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert not _is_prepared(load_for_prices(saved))
    assert file.read_bytes() == whole


def test_a_changed_fit_is_checked_though_the_sound_one_is_kept(saved: Path, kept: Path) -> None:
    """Opening a fit keeps what was in the file: the same name with another row is read, checked and refused."""
    load_for_prices(saved)
    table = read_table(saved)
    pq.write_table(table.slice(1), saved)
    with pytest.raises(UserError, match=r"fit\.parquet"):
        load_for_prices(saved)
    assert len(list(kept.iterdir())) == 1


def test_no_place_to_keep_it_is_no_fault(saved: Path, kept: Path) -> None:
    """A file where the folder should be leaves the answer as it is."""
    kept.parent.parent.write_text("in the way")
    for _ in range(2):
        assert not _is_prepared(load_for_prices(saved))


def test_errors_are_those_of_the_reader(kept: Path, tmp_path: Path) -> None:
    """A file that is not there, a folder and a text file are refused in the words of `load_artefact`."""
    (tmp_path / "text").write_text("no fit")
    for name in ("absent", ".", "text"):
        said = []
        for load in (load_artefact, load_for_prices):
            with pytest.raises(UserError) as caught:
                load(tmp_path / name)
            said.append((str(caught.value), caught.value.hint))
        assert said[0] == said[1]
    assert not kept.exists()


def test_a_few_fits_are_kept(artefact: Artefact, kept: Path, tmp_path: Path, saved: Path) -> None:
    """The cache does not grow without end: of many fits the last ones written stay."""
    kept.mkdir(parents=True)
    for index in range(20):
        (kept / f"older-{index:02}").write_bytes(b"of another version")
    load_for_prices(saved)
    assert len(list(kept.iterdir())) == 16
    assert _is_prepared(load_for_prices(saved))
