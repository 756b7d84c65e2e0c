"""Typed reading of a Hugging Face `config.json`: every fault names file, key, value and what was expected."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cluster_specs.errors import UserError
from cluster_specs.files.json_text import parse_json
from cluster_specs.files.reading import read_document
from cluster_specs.files.shown import shown

MOST_LAYERS: Final = 10_000  # ten times the deepest model anyone trained
MOST: Final = 2**24  # of anything that is counted: the largest vocabularies have 2**18 tokens, contexts 10 M
MOST_BYTES: Final = 64 * 2**20  # of a config.json: per-layer quantisation maps reach a megabyte


class HfConfig:
    """One (sub-)config: a mapping, the place it came from, and readers that check type and range."""

    __slots__ = ("_read", "_values", "place")

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self._values = values
        self._read: set[str] = set()
        self.place = place

    @classmethod
    def from_file(cls, path: Path) -> "HfConfig":
        """Read a JSON file (or the ``config.json`` of a folder), with what lies beside it.

        That is modelopt's ``hf_quant_config.json``, and the image processor's ``preprocessor_config.json``.
        """
        file = path / "config.json" if path.is_dir() else path
        if file != path and not file.is_file():
            raise UserError(f"{path}: is a folder without a config.json", hint="give the folder of a checkpoint")
        values = _object(file)
        beside = file.with_name("hf_quant_config.json")
        if values.get("quantization_config") is None and beside.is_file():
            written = _object(beside)
            inner = written.get("quantization")
            if not isinstance(inner, dict):
                raise UserError(f"{beside}: key 'quantization' is {shown(inner)}, must be an object")
            values["quantization_config"] = {"producer": written.get("producer"), **inner}
        processor = file.with_name("preprocessor_config.json")
        if "vision_config" in values and processor.is_file():
            values["preprocessor_config"] = _object(processor)
        return cls(values, str(file))

    def __contains__(self, key: str) -> bool:
        return self._value(key) is not None

    def keys(self) -> tuple[str, ...]:
        """Keys in file order."""
        return tuple(self._values)

    def unread(self) -> tuple[str, ...]:
        """Keys that say something (neither null, false, zero nor empty) and that nobody asked for, in file order."""
        return tuple(key for key, value in self._values.items() if value and key not in self._read)

    def raw(self, key: str) -> Any:
        """Return a value as it stands, None when absent."""
        return self._value(key)

    def fault(self, key: str, must: str, *, hint: str = "") -> UserError:
        """Return an error about ``key``: what it is and what it must be."""
        hint = hint or "compare with the model's published config.json"
        if key not in self._values:
            return UserError(f"{self.place}: key {key!r} is missing, must be {must}", hint=hint)
        return UserError(f"{self.place}: key {key!r} is {shown(self._values[key])}, must be {must}", hint=hint)

    def layers(self, key: str, default: int | None = None) -> int:
        """Return a count of layers, each of which is going to be built."""
        return self.integer(key, default, most=MOST_LAYERS)

    def integer(self, key: str, default: int | None = None, *, least: int = 1, most: int = MOST) -> int:
        """Return a whole number of at least ``least``; a null or absent key takes ``default`` where one is given."""
        value = self._value(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.fault(key, f"an integer >= {least}")
        if value > most:
            raise self.fault(key, f"at most {most}")
        return value

    def first_integer(self, *keys: str, default: int | None = None) -> int:
        """Return the first of several spellings that is present."""
        present = [key for key in keys if key in self]
        return self.integer(present[0]) if present else self.integer(keys[0], default)

    def number(self, key: str, default: float, *, most: float) -> float:
        """Return a number above zero and up to ``most``; a null or absent key takes ``default``."""
        value = self._value(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
            raise self.fault(key, f"a number above 0 and at most {most:g}")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """Return a boolean."""
        value = self._value(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Return a string."""
        value = self._value(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.fault(key, "a string")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """Return a list of strings, empty when absent."""
        value = self._value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise self.fault(key, "a list of strings")
        return tuple(value)

    def integers(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers, empty when absent."""
        value = self._value(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(one, int) and abs(one) <= MOST for one in value):
            raise self.fault(key, f"a list of integers of at most {MOST}")
        return tuple(value)

    def section(self, key: str, defaults: Mapping[str, Any] | None = None) -> "HfConfig | None":
        """Return a nested config, None when absent.

        Hugging Face writes a nested config without the keys that equal its class's defaults: ``defaults`` are those.
        """
        value = self._value(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fault(key, "an object")
        return HfConfig({**(defaults or {}), **value}, f"{self.place}: {key}")

    def _value(self, key: str) -> Any:
        self._read.add(key)
        return self._values.get(key)

    def with_values(self, changes: Mapping[str, Any]) -> "HfConfig":
        """Return the same config, of the same place, with ``changes``."""
        changed = HfConfig({**self._values, **changes}, self.place)
        changed._read = self._read
        return changed

    def refuse(self, key: str, *, because: str, hint: str = "") -> None:
        """Fail when a key that changes the computation is set to anything but null, false, zero or empty."""
        if self._value(key):
            raise self.fault(key, f"absent or false: {because}", hint=hint)


def _object(file: Path) -> dict[str, Any]:
    """Return the object a JSON file holds."""
    hint = "give the path of a Hugging Face config.json"
    values = parse_json(read_document(file, most_bytes=MOST_BYTES, hint=hint), str(file), hint=hint)
    if not isinstance(values, dict):
        raise UserError(f"{file}: holds a {type(values).__name__}, must be an object of config keys", hint=hint)
    return values
