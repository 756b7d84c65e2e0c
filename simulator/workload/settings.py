"""The ``word,key=value,...`` part of a generated workload's text, taken key by key."""

from collections.abc import Mapping
from typing import Any, Final, TypeVar, cast

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from simulator.workload.generators.arrivals import ArrivalName
from simulator.workload.generators.generate import LENGTH_MIXES, LengthMix, length_mix
from simulator.workload.generators.lengths import Fixed, LengthDistribution, Lognormal, Uniform

Number = TypeVar("Number", int, float)

_LONGEST_TOKENS: Final = 131_072
_MOST_DIGITS: Final = 12


@dataclass(slots=True, kw_only=True)
class Settings:
    """Settings of one text; ``asked`` are the keys that were taken so far."""

    scheme: str
    text: str
    word: str | None
    values: dict[str, str]
    asked: list[str]
    reading: Mapping[str, Any]  # how a file that is named is read

    @classmethod
    def parse(cls, text: str, rest: str, reading: Mapping[str, Any]) -> "Settings":
        """Split the text behind the scheme; raises ``UserError`` for an item that is no setting, or one twice."""
        word, values = None, {}
        for position, item in enumerate(rest.split(",")):
            key, equals, value = (part.strip() for part in item.partition("="))
            if not equals and position == 0:
                word = key or None
            elif not equals or not key or not value:
                raise UserError(f"trace {text}: {item!r} is not key=value", hint="e.g. synthetic:chat,rate=2,n=1000")
            elif key in values:
                raise UserError(f"trace {text}: {key} is given twice")
            else:
                values[key] = value
        return cls(scheme=text.partition(":")[0], text=text, word=word, values=values, asked=[], reading=reading)

    def number(self, key: str, default: Number | None, kind: type[Number]) -> Number:
        """Take ``key`` as an int or float; UserError when it is neither, or missing without default."""
        self.asked.append(key)
        text = self.values.get(key)
        if text is None:
            if default is None:
                raise UserError(f"trace {self.text}: {key} is missing", hint=f"add {key}=...")
            return default
        try:
            return kind(text)
        except ValueError:
            noun = "a whole number" if kind is int else "a number"
            raise UserError(f"trace {shown(self.text, 200)}: {key} is {shown(text)}, must be {noun}") from None

    def word_of(self, key: str, default: str) -> str:
        """Take ``key`` as a word."""
        self.asked.append(key)
        return self.values.get(key, default)

    def refuse_unknown(self) -> None:
        """Raise UserError for settings that no one asked for."""
        for key in self.values:
            if key not in self.asked:
                raise UserError(
                    f"trace {self.text}: setting {key!r} is not known", hint=f"settings are {', '.join(self.asked)}"
                )


def lengths_of(settings: Settings, key: str, default: LengthDistribution | None) -> LengthDistribution:
    """``key`` as one length, a range low-high, or with ``key_cv`` the mean of a lognormal."""
    text = settings.word_of(key, "")
    cv = settings.number(f"{key}_cv", 0.0, float)
    if not text:
        if default is not None:
            return default
        raise UserError(
            f"trace {settings.text}: {key} is missing",
            hint=f"name a mix ({', '.join(LENGTH_MIXES)}) or add {key}=...",
        )
    low, dash, high = text.partition("-")
    if not all(part.isdecimal() and len(part) <= _MOST_DIGITS for part in ((low, high) if dash else (low,))):
        raise UserError(
            f"trace {shown(settings.text, 200)}: {key} is {shown(text)}, must be a length like 512 or a range "
            "like 64-512"
        )
    if dash:
        return Uniform(low=int(low), high=int(high))
    return Lognormal(mean=int(low), cv=cv, maximum=max(_LONGEST_TOKENS, int(low))) if cv else Fixed(tokens=int(low))


def mix_of(settings: Settings) -> LengthMix:
    """Take the named mix, or prompt and output lengths of their own (``isl``, ``osl``)."""
    named = None if settings.word is None else length_mix(settings.word)
    return LengthMix(
        prompt=lengths_of(settings, "isl", named.prompt if named else None),
        output=lengths_of(settings, "osl", named.output if named else None),
    )


def process_of(settings: Settings) -> tuple[ArrivalName, float]:
    """Arrival process and cv of its gaps; a cv alone means Gamma."""
    cv = settings.number("cv", 1.0, float)
    return cast("ArrivalName", settings.word_of("arrivals", "poisson" if cv == 1.0 else "gamma")), cv
