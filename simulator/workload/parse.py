"""A workload from one line of text: a trace file, a bundled trace, or a generator with its settings.

chat-synthetic                                     bundled trace
traces/mine.jsonl                                  file of any format `read_trace` knows
synthetic:chat,rate=2,n=1000,seed=0                open loop; mix = chat, code, summarization, long-context, reasoning
synthetic:isl=512,osl=128,rate=2,n=1000            open loop with fixed lengths (isl_cv= / osl_cv= make them lognormal)
synthetic:chat,rate=20,max_concurrency=64          the same from a client that leaves at most 64 requests unanswered
replay:trace=FILE,timeout_s=30,max_concurrency=64  a file's requests from a client that gives up and holds back
closed:isl=1024,osl=1024,concurrency=64            closed loop as a benchmark client offers it
sessions:chat,rate=0.5,n=200,turns=4,system=500    multi-turn sessions with shared prefixes; n and rate count sessions
groups:groups=10,prompts=10,system=100,isl=50,osl=50,rate=2,n=1000   prompts of groups with a common beginning
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.reading import exists
from cluster_specs.files.shown import shown
from simulator.workload.arrivals import ArrivalName
from simulator.workload.client import BenchmarkClient, DrawName
from simulator.workload.generate import LENGTH_MIXES, LengthMix, generate_workload, length_mix, resample_workload
from simulator.workload.lengths import Fixed, LengthDistribution, Lognormal, Uniform
from simulator.workload.prompt_groups import PromptGroups, generate_groups
from simulator.workload.scale import scale_workload
from simulator.workload.sessions import Sessions, generate_sessions
from simulator.workload.span import LONGEST_SPAN_S
from simulator.workload.trace import read_trace
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, Workload

Number = TypeVar("Number", int, float)

# The bundled trace and the text that generates it (`apex trace generate` with it writes the same bytes).
BUNDLED_TRACES: Final[Mapping[str, str]] = {"chat-synthetic": "synthetic:chat,rate=2,n=1000,seed=0"}
_LONGEST_TOKENS: Final = 131_072
_MOST_DIGITS: Final = 12


def parse_workload(
    text: str,
    *,
    rate_scale: float = 1.0,
    length_scale: float | tuple[float, float] = 1.0,
    limit: int | None = None,
    **reading: Any,
) -> Workload:
    """Return the workload ``text`` names; ``reading`` goes to `read_trace` for files.

    Raises UserError naming the setting, its value and what it must be.
    """
    if text in BUNDLED_TRACES:
        with resources.as_file(resources.files("simulator.workload") / "data" / f"{text}.csv") as path:
            return read_trace(path, rate_scale=rate_scale, length_scale=length_scale, limit=limit, **reading)
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in _GENERATORS:
        if not exists(text):
            raise UserError(
                f"trace {shown(text, 200)[1:-1]}: no such trace file, bundled trace or generator",
                hint=f"bundled: {', '.join(BUNDLED_TRACES)}; generators: {', '.join(f'{g}:...' for g in _GENERATORS)}",
            )
        if Path(text).is_dir():
            raise UserError(f"trace {text}: is a folder, must be a file", hint="name one of the files in it")
        return read_trace(text, rate_scale=rate_scale, length_scale=length_scale, limit=limit, **reading)
    settings = _Settings.parse(text, rest, reading)
    if reading and "trace" not in settings.values:
        raise UserError(f"trace {text}: a generator takes no {', '.join(reading)}", hint="these are for trace files")
    workload = _with_timeout(settings, _GENERATORS[scheme](settings))
    settings.refuse_unknown()
    workload = scale_workload(workload, rate_scale, length_scale)
    return workload if limit is None else workload.head(limit)


@dataclass(slots=True, kw_only=True)
class _Settings:
    """The ``word,key=value,...`` part of a generator's text, consumed key by key."""

    text: str
    word: str | None
    values: dict[str, str]
    asked: list[str]
    reading: Mapping[str, Any]  # how a file that is named is read

    @classmethod
    def parse(cls, text: str, rest: str, reading: Mapping[str, Any]) -> "_Settings":
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
        return cls(text=text, word=word, values=values, asked=[], reading=reading)

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


def _lengths(settings: _Settings, key: str, default: LengthDistribution | None) -> LengthDistribution:
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


def _mix(settings: _Settings) -> LengthMix:
    named = None if settings.word is None else length_mix(settings.word)
    return LengthMix(
        prompt=_lengths(settings, "isl", named.prompt if named else None),
        output=_lengths(settings, "osl", named.output if named else None),
    )


def _process(settings: _Settings) -> tuple[ArrivalName, float]:
    """Arrival process and cv of its gaps; a cv alone means Gamma."""
    cv = settings.number("cv", 1.0, float)
    return cast("ArrivalName", settings.word_of("arrivals", "poisson" if cv == 1.0 else "gamma")), cv


def _synthetic(settings: _Settings) -> Workload:
    count = settings.number("n", 1000, int)
    process, cv = _process(settings)
    rate_per_s, seed = settings.number("rate", 1.0, float), settings.number("seed", 0, int)
    like, cap = settings.word_of("like", ""), settings.number("max_concurrency", 0, int)
    if cap < 0 or (cap == 0 and "max_concurrency" in settings.values):
        raise UserError(f"trace {settings.text}: max_concurrency is {cap}, must be >= 1")
    client = CappedLoop(concurrency=cap) if cap else OpenLoop()
    if like:
        source = read_trace(like)
        drawn = resample_workload(source, count, process=process, rate_per_s=rate_per_s, arrival_cv=cv, seed=seed)
        return replace(drawn, client=client)
    drawn = generate_workload(
        count,
        mix=_mix(settings),
        process=process,
        rate_per_s=rate_per_s,
        arrival_cv=cv,
        seed=seed,
        name=f"synthetic-{settings.word or 'lengths'}",
    )
    return replace(drawn, client=client)


def _closed(settings: _Settings) -> Workload:
    trace = settings.word_of("trace", "")
    if trace:
        source = read_trace(trace, **settings.reading)
        concurrency = settings.number("concurrency", None, int)
        if concurrency < 1:
            raise UserError(f"trace {settings.text}: concurrency is {concurrency}, must be >= 1")
        return replace(source, arrival_s=np.zeros(len(source)), client=ClosedLoop(concurrency=concurrency))
    return BenchmarkClient(
        prompt_tokens=settings.number("isl", None, int),
        output_tokens=settings.number("osl", None, int),
        concurrency=settings.number("concurrency", None, int),
        range_ratio=settings.number("ratio", 0.8, float),
        draw=cast("DrawName", settings.word_of("draw", "benchmark-serving")),
        prompts_per_slot=settings.number("prompts_per_slot", 10, int),
        warmup_per_slot=settings.number("warmup_per_slot", 2, int),
        special_tokens=settings.number("special_tokens", 0, int),
        seed=settings.number("seed", 0, int),
    ).workload()


def _with_timeout(settings: _Settings, workload: Workload) -> Workload:
    timeout_s = settings.number("timeout_s", 0.0, float)
    if "timeout_s" not in settings.values:
        return workload
    if not 0 < timeout_s <= LONGEST_SPAN_S:
        raise UserError(
            f"trace {settings.text}: timeout_s is {timeout_s:g}, must be above 0 and at most {LONGEST_SPAN_S:g}"
        )
    return replace(workload, client_timeout_s=timeout_s)


def _replay(settings: _Settings) -> Workload:
    trace, cap = settings.word_of("trace", ""), settings.number("max_concurrency", 0, int)
    if not trace:
        raise UserError(f"trace {settings.text}: trace is missing", hint="add trace=FILE")
    source = read_trace(trace, **settings.reading)
    if "max_concurrency" not in settings.values:
        return source
    if cap < 1:
        raise UserError(f"trace {settings.text}: max_concurrency is {cap}, must be >= 1")
    return replace(source, client=CappedLoop(concurrency=cap))


def _sessions(settings: _Settings) -> Workload:
    mix = _mix(settings)
    process, cv = _process(settings)
    return generate_sessions(
        Sessions(
            count=settings.number("n", 100, int),
            question=mix.prompt,
            answer=mix.output,
            rate_per_s=settings.number("rate", 1.0, float),
            process=process,
            arrival_cv=cv,
            mean_turns=settings.number("turns", 4.0, float),
            mean_think_s=settings.number("think_s", 10.0, float),
            system_prompt_tokens=settings.number("system", 0, int),
            max_prompt_tokens=settings.number("max_prompt", 32_768, int),
            block_tokens=settings.number("block", 16, int),
            seed=settings.number("seed", 0, int),
        )
    )


def _groups(settings: _Settings) -> Workload:
    mix = _mix(settings)
    process, cv = _process(settings)
    return generate_groups(
        PromptGroups(
            count=settings.number("n", 1000, int),
            groups=settings.number("groups", None, int),
            prompts_per_group=settings.number("prompts", None, int),
            system_prompt_tokens=settings.number("system", None, int),
            question=mix.prompt,
            output=mix.output,
            rate_per_s=settings.number("rate", 1.0, float),
            process=process,
            arrival_cv=cv,
            block_tokens=settings.number("block", 16, int),
            seed=settings.number("seed", 0, int),
        )
    )


_GENERATORS: Final[Mapping[str, Callable[[_Settings], Workload]]] = {
    "groups": _groups,
    "replay": _replay,
    "synthetic": _synthetic,
    "closed": _closed,
    "sessions": _sessions,
}
