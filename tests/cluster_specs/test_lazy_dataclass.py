"""The dataclass whose methods come at their first call, held beside the standard library's."""

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, field, fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

from cluster_specs.lazy_dataclass import dataclass as lazy


def _classes(make: Callable[..., Any]) -> SimpleNamespace:
    """One class per thing a dataclass can have, made by the decorator ``make``."""

    @make(frozen=True, slots=True, kw_only=True)
    class Value:
        """A value."""

        a: int
        b: float = 2.0
        items: list[int] = field(default_factory=list)
        hidden: str = field(default="x", repr=False)
        noted: tuple[str, ...] = field(default=(), compare=False)

        @property
        def doubled(self) -> int:
            return 2 * self.a

    @make(frozen=True, slots=True, kw_only=True)
    class Extended(Value):
        c: int = 3

    @make(frozen=True, slots=True)
    class InOrder:
        x: int
        y: int = 1
        z: int = field(default=5, init=False)

    @make(frozen=True, slots=True)
    class Checked:
        """One that works something out."""

        parts: tuple[str, ...]
        text: str = field(init=False, repr=False)

        def __post_init__(self) -> None:
            if not self.parts:
                raise ValueError("no parts")
            object.__setattr__(self, "text", "|".join(self.parts))

    @make(frozen=True, slots=True)
    class Own:
        x: int

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

        def __hash__(self) -> int:
            return 7

    @make(frozen=True, slots=True)
    class OwnEquality:  # noqa: PLW1641 - dataclasses give it a hash
        x: int

        def __eq__(self, other: object) -> bool:
            return True

    @make(frozen=True, slots=True, eq=False)
    class Same:
        x: int

    @make(frozen=True, slots=True)
    class Empty:
        pass

    return SimpleNamespace(**locals())


_LAZY, _STANDARD = _classes(lazy), _classes(dataclasses.dataclass)

# Of each: a class and how a value of it is made.
_MADE: dict[str, Callable[[SimpleNamespace], Any]] = {
    "defaults": lambda of: of.Value(a=1),
    "all stated": lambda of: of.Value(a=1, b=3.0, items=[4], hidden="y", noted=("n",)),
    "extended": lambda of: of.Extended(a=1, c=2),
    "in order": lambda of: of.InOrder(1, 2),
    "in order by name": lambda of: of.InOrder(y=3, x=1),
    "worked out": lambda of: of.Checked(("a", "b")),
    "own methods": lambda of: of.Own(1),
    "own equality": lambda of: of.OwnEquality(1),
    "identity": lambda of: of.Same(1),
    "empty": lambda of: of.Empty(),
}


def _said(work: Callable[[], Any]) -> tuple[type, str] | Any:
    """Return what ``work`` returns, or the kind and the words of what it raises."""
    try:
        return work()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize("make", _MADE.values(), ids=_MADE.keys())
def test_a_value_is_as_the_standard_one(make: Callable[[SimpleNamespace], Any]) -> None:
    """Fields, text, equality, hash, copies and plain values of a value are those of a standard dataclass."""
    ours, standard = make(_LAZY), make(_STANDARD)
    assert is_dataclass(ours)
    assert repr(ours) == repr(standard)
    assert [one.name for one in fields(ours)] == [one.name for one in fields(standard)]
    assert asdict(ours) == asdict(standard)
    assert (ours == make(_LAZY)) is (standard == make(_STANDARD))
    assert ours != standard or type(ours).__name__.startswith("Own")
    if isinstance(_said(lambda: hash(standard)), int):
        assert (hash(ours) == hash(make(_LAZY))) is (hash(standard) == hash(make(_STANDARD)))
    else:
        assert _said(lambda: hash(ours)) == _said(lambda: hash(standard))
    assert asdict(copy.deepcopy(ours)) == asdict(standard)
    assert type(ours).__match_args__ == type(standard).__match_args__
    assert type(ours).__slots__ == type(standard).__slots__
    assert not hasattr(ours, "__dict__")


_REFUSED: dict[str, Callable[[SimpleNamespace], Any]] = {
    "missing": lambda of: of.Value(),
    "unknown": lambda of: of.Value(a=1, q=2),
    "by place": lambda of: of.Value(1),
    "too many": lambda of: of.InOrder(1, 2, 3),
    "not to be stated": lambda of: of.InOrder(1, z=3),
    "own check": lambda of: of.Checked(()),
    "set": lambda of: setattr(of.Value(a=1), "a", 2),
    "deleted": lambda of: delattr(of.Value(a=1), "a"),
    "replaced by an unknown one": lambda of: replace(of.Value(a=1), q=2),
}


@pytest.mark.parametrize("make", _REFUSED.values(), ids=_REFUSED.keys())
def test_what_the_standard_one_refuses_is_refused_in_its_words(make: Callable[[SimpleNamespace], Any]) -> None:
    """Arguments that do not fit, and changes of a frozen value, end in the same error, each time they are tried."""
    kind, words = _said(lambda: make(_STANDARD))
    for _ in range(2):
        assert _said(lambda: make(_LAZY)) == (kind, words)


def test_signature_is_known_before_the_first_value() -> None:
    """``inspect.signature`` names the arguments of a class of which no value was made."""
    ours, standard = _classes(lazy), _classes(dataclasses.dataclass)
    for name in ("Extended", "InOrder", "Checked"):
        shown = [
            [(one.name, one.kind) for one in inspect.signature(getattr(of, name)).parameters.values()]
            for of in (ours, standard)
        ]
        assert shown[0] == shown[1]


@lazy(frozen=True, slots=True, kw_only=True)
class Sent:
    """A value that goes to another process."""

    a: int
    b: tuple[int, ...] = ()


def test_a_value_goes_through_a_pickle() -> None:
    """A pickled value comes back equal and frozen."""
    found = pickle.loads(pickle.dumps(Sent(a=1, b=(2, 3))))  # noqa: S301 - its own
    assert found == Sent(a=1, b=(2, 3))
    with pytest.raises(FrozenInstanceError):
        found.a = 2
    assert replace(found, a=4) == Sent(a=4, b=(2, 3))


def test_a_factory_makes_a_new_value_each_time() -> None:
    """Two values do not share what a default factory made."""
    first, second = _LAZY.Value(a=1), _LAZY.Value(a=1)
    assert first.items is not second.items


def test_other_forms_are_the_standard_librarys() -> None:
    """A mutable or ordered class is what the standard decorator makes."""

    @lazy(slots=True)
    class Counter:
        n: int = 0

    @lazy(frozen=True, slots=True, order=True)
    class Ranked:
        n: int

    counter = Counter()
    counter.n += 1
    assert counter == Counter(1)
    assert Ranked(1) < Ranked(2)
