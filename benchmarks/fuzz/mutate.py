"""Ways to break a document, a table or a run of bytes; what is drawn from ``rng`` decides how, and nothing else."""

import copy
import gzip
import random
from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa

# Numbers at the edges of every type that a reader may use, and texts at the edges of every parser.
EXTREMES: Final = (
    0, -1, 1, 2**31, 2**53 + 1, 2**62, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e-300, 1e300, 1e308,
    float("nan"), float("inf"), float("-inf"), True, False, None, "", "x", "0", "-1", "1e400", "NaN", "ß²日", "\ud800",
    "\0", "a" * 300, "b" * 100_000, "../../evil", [], {}, [1], [[[]]], {"a": 1}, [None] * 50, "2025-03-01T10:00:00Z",
)  # fmt: skip


def document(rng: random.Random, value: Any) -> Any:
    """Change one to three places of nested lists and dictionaries."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        changed = _one_place(rng, changed)
    return changed


def _one_place(rng: random.Random, value: Any) -> Any:
    holder, key = None, None
    here = value
    while isinstance(here, (dict, list)) and here and rng.random() < 0.85:
        holder, key = here, rng.choice(list(here)) if isinstance(here, dict) else rng.randrange(len(here))
        here = here[key]
    if holder is None:
        return rng.choice((value, rng.choice(EXTREMES), [value], {"x": value}))
    choice = rng.random()
    if choice < 0.55:
        holder[key] = _other(rng, here)
    elif choice < 0.7:
        del holder[key]
    elif choice < 0.8 and isinstance(holder, dict):
        holder[_other_name(rng, key)] = holder.pop(key)
    elif choice < 0.9:
        extra = copy.deepcopy(here)
        if isinstance(holder, dict):
            holder[_other_name(rng, key)] = extra
        else:
            holder.insert(rng.randrange(len(holder) + 1), extra)
    else:
        holder[key] = _nested(rng, here)
    return value


def _other(rng: random.Random, value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and rng.random() < 0.5:
        try:
            return rng.choice((value * 10, -value, value + 1, value / 3, value * 2**40, str(value), [value]))
        except OverflowError:
            return 0
    if isinstance(value, str) and value and rng.random() < 0.5:
        cut = rng.randrange(len(value))
        return rng.choice((value[:cut], value + value, value.upper(), value[:cut] + "\n" + value[cut:], [value]))
    return copy.deepcopy(rng.choice(EXTREMES))


def _other_name(rng: random.Random, name: Any) -> str:
    return rng.choice((f"{name}_", str(name).upper(), "", "x" * 300, "ß", "\ud800", f" {name}", "type", "__class__"))


def _nested(rng: random.Random, value: Any) -> Any:
    for _ in range(rng.choice((1, 5, 60))):
        value = [value] if rng.random() < 0.7 else {"a": value}
    return value


def text_of(rng: random.Random, text: str) -> str:
    """Break a text the way no parser's own writer would: numbers of thousands of digits, deep brackets, odd keys."""
    digits = [index for index, char in enumerate(text) if char.isdigit()]
    choice = rng.randrange(6)
    if choice == 0 and digits:
        cut = rng.choice(digits)
        return text[:cut] + "9" * rng.choice((20, 5000)) + text[cut:]
    if choice == 1:
        cut = rng.randrange(len(text) + 1)
        return (
            text[:cut] + rng.choice(("[" * 9000, '{"a":' * 3000, '"', ",", "\\u", "NaN", "#", "=", "\r")) + text[cut:]
        )
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    row = rng.randrange(len(lines))
    if choice == 2:
        lines.insert(row, lines[row])
    elif choice == 3:
        del lines[row]
    elif choice == 4:
        rng.shuffle(lines)
    else:
        lines[row] = lines[row].replace(rng.choice(",:=\"'. "), rng.choice(("", ";", "\t", " ", "==", '""')))
    return "".join(lines)


def raw(rng: random.Random, content: bytes) -> bytes:
    """Break bytes: cut, flip, splice, repeat, or another encoding."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if not changed:
            return b""
        place, end = sorted((rng.randrange(len(changed)), rng.randrange(len(changed))))
        choice = rng.randrange(7)
        if choice == 0:
            del changed[place:]
        elif choice == 1:
            changed[place] ^= 1 << rng.randrange(8)
        elif choice == 2:
            del changed[place:end]
        elif choice == 3:
            changed[place:place] = changed[place:end][:5000]
        elif choice == 4:
            changed[place:end] = bytes(min(end - place, 1000))
        elif choice == 5:
            changed[place:place] = rng.randbytes(rng.choice((1, 4, 50)))
        else:
            changed = bytearray(changed.decode(errors="replace").encode(rng.choice(("utf-16", "utf-8-sig", "utf-32"))))
    return bytes(changed)


def packed(rng: random.Random, content: bytes) -> bytes:
    """Return the content as gzip, sound or damaged."""
    sound = gzip.compress(content, mtime=0)
    return sound if rng.random() < 0.3 else raw(rng, sound)


Column = Callable[[random.Random, pa.ChunkedArray], pa.Array]

_NUMBERS: Final = (0.0, -1.0, 1e300, float("nan"), float("inf"), 2.0**62, 1e-300)


def _as_list(_: random.Random, column: pa.ChunkedArray) -> pa.Array:
    return pa.array([[value] for value in column.to_pylist()])


def _as_text(_: random.Random, column: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if value is None else str(value)[:50] for value in column.to_pylist()])


def _shuffled(rng: random.Random, column: pa.ChunkedArray) -> pa.Array:
    values = column.to_pylist()
    rng.shuffle(values)
    return pa.array(values, column.type)


def _one_changed(rng: random.Random, column: pa.ChunkedArray) -> pa.Array:
    values = column.to_pylist()
    row = rng.randrange(len(values))
    kind = column.type
    if pa.types.is_floating(kind):
        values[row] = rng.choice((*_NUMBERS, None, (values[row] or 1.0) * rng.uniform(0.5, 2)))
    elif pa.types.is_integer(kind):
        values[row] = rng.choice((0, -1, 2**31 - 1, None, 2**62 if kind == pa.int64() else 7))
    elif pa.types.is_string(kind) or pa.types.is_dictionary(kind):
        values[row] = rng.choice(("", None, "x" * 3000, "ß", "a\nb", "../../evil"))
        return (
            pa.array(values, pa.string()).cast(pa.string()).dictionary_encode() if _is_coded(kind) else pa.array(values)
        )
    else:
        values[row] = None
    return pa.array(values, kind)


def _is_coded(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind))


_COLUMNS: Final[tuple[Column, ...]] = (
    _one_changed,
    _one_changed,
    _one_changed,
    _shuffled,
    _as_list,
    _as_text,
    lambda _, column: pa.nulls(len(column), column.type),
    lambda _, column: pa.array([{"a": 1}] * len(column)),
    lambda _, column: pa.array([b"\xff"] * len(column)),
    lambda _, column: pa.array([1.5] * len(column)),
    lambda _, column: pa.array([7] * len(column)),
)


def table(rng: random.Random, sound: pa.Table) -> pa.Table:
    """Change columns, rows or metadata of a table."""
    choice = rng.random()
    names = sound.column_names
    index = rng.randrange(len(names))
    if choice < 0.5 and sound.num_rows:
        column = rng.choice(_COLUMNS)(rng, sound.column(index))
        metadata = sound.schema.field(index).metadata if rng.random() < 0.8 else {b"unit": rng.choice((b"ms", b"\xff"))}
        return sound.set_column(index, pa.field(names[index], column.type, metadata=metadata), column)
    if choice < 0.58:
        return sound.remove_column(index)
    if choice < 0.64:
        return sound.append_column(rng.choice((names[index], "extra")), sound.column(index))
    if choice < 0.7:
        return sound.rename_columns(
            [
                _other_name(rng, name)[:50].replace("\ud800", "") if at == index else name
                for at, name in enumerate(names)
            ]
        )
    if choice < 0.85:
        rows = list(range(sound.num_rows))
        how = rng.randrange(4)
        if how == 0:
            rng.shuffle(rows)
        elif how == 1:
            rows = rows[: rng.randrange(len(rows) + 1)]
        elif how == 2:
            rows += rows[:3]
        else:
            rows = rows[::-1]
        return sound.take(pa.array(rows, pa.int64()))
    metadata = dict(sound.schema.metadata or {})
    key = rng.choice([*metadata, b"new"])
    value = metadata.get(key, b"")
    metadata[key] = rng.choice((b"\xff", b"", "²".encode(), b"99", b"9" * 5000, b"{", b"[" * 9000, raw(rng, value)))
    if rng.random() < 0.3:
        del metadata[key]
    return sound.replace_schema_metadata(metadata)
