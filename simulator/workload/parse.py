"""A workload from one line of text: a trace file, a bundled trace, or a generator with its settings.

chat-synthetic                                     bundled trace
traces/mine.jsonl                                  file of any format `read_trace` knows
synthetic:chat,rate=2,n=1000,seed=0                open loop; mix = chat, code, summarization, long-context, reasoning
synthetic:isl=512,osl=128,rate=2,n=1000            open loop with fixed lengths (isl_cv= / osl_cv= make them lognormal)
synthetic:chat,rate=20,max_concurrency=64          the same from a client that leaves at most 64 requests unanswered
replay:trace=FILE,timeout_s=30,max_concurrency=64  a file's requests from a client that gives up and holds back
closed:isl=1024,osl=1024,concurrency=64            closed loop as a benchmark client offers it
closed:isl=1024,osl=1024,concurrency=64,spread_s=5  the same, its slots starting within five seconds
sessions:chat,rate=0.5,n=200,turns=4,system=500    multi-turn sessions with shared prefixes; n and rate count sessions
groups:groups=10,prompts=10,system=100,isl=50,osl=50,rate=2,n=1000   prompts of groups with a common beginning
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.reading import exists
from cluster_specs.files.shown import shown
from simulator.workload.generators.client import BenchmarkClient, DrawName, check_seconds, wave_notes
from simulator.workload.generators.generate import Synthetic
from simulator.workload.generators.media import with_media
from simulator.workload.generators.prompt_groups import PromptGroups, generate_groups
from simulator.workload.generators.sessions import Sessions, generate_sessions
from simulator.workload.scale import scale_workload
from simulator.workload.settings import Settings, mix_of, process_of
from simulator.workload.span import LONGEST_SPAN_S
from simulator.workload.workload import CappedLoop, ClosedLoop, OpenLoop, Workload

# The bundled trace and the text that generates it (`apex trace generate` with it writes the same bytes).
BUNDLED_TRACES: Final[Mapping[str, str]] = {"chat-synthetic": "synthetic:chat,rate=2,n=1000,seed=0"}


def parse_workload(
    text: str,
    *,
    rate_scale: float = 1.0,
    length_scale: float | tuple[float, float] = 1.0,
    limit: int | None = None,
    images: str | None = None,
    audio_s: str | None = None,
    **reading: Any,
) -> Workload:
    """Return the workload ``text`` names; ``reading`` goes to `read_trace` for files.

    ``images`` and ``audio_s`` give every request media (`simulator.workload.generators.media`).

    Raises UserError naming the setting, its value and what it must be.
    """
    settings = generator_settings(text, reading)
    if settings is None:
        with trace_file(text) as path:
            read = _read(path, rate_scale=rate_scale, length_scale=length_scale, limit=limit, **reading)
        return with_media(read, images, audio_s)
    workload = _with_timeout(settings, _GENERATORS[settings.scheme](settings))
    settings.refuse_unknown()
    workload = scale_workload(workload, rate_scale, length_scale)
    return with_media(workload if limit is None else workload.head(limit), images, audio_s)


def generator_settings(text: str, reading: Mapping[str, Any]) -> Settings | None:
    """Return the settings of a generator's text, None for a file or a bundled trace; raises ``UserError``."""
    scheme, colon, rest = text.partition(":")
    if text in BUNDLED_TRACES or not colon or scheme not in _GENERATORS:
        return None
    settings = Settings.parse(text, rest, reading)
    if reading and "trace" not in settings.values:
        raise UserError(f"trace {text}: a generator takes no {', '.join(reading)}", hint="these are for trace files")
    return settings


@contextmanager
def trace_file(text: str) -> Iterator[Path]:
    """Find the file of a bundled trace or at a path; raises ``UserError`` where there is none."""
    if text in BUNDLED_TRACES:
        yield Path(__file__).parent / "data" / f"{text}.csv"
        return
    if not exists(text):
        raise UserError(
            f"trace {shown(text, 200)[1:-1]}: no such trace file, bundled trace or generator",
            hint=f"bundled: {', '.join(BUNDLED_TRACES)}; generators: {', '.join(f'{g}:...' for g in _GENERATORS)}",
        )
    if Path(text).is_dir():
        raise UserError(f"trace {text}: is a folder, must be a file", hint="name one of the files in it")
    yield Path(text)


def _synthetic(settings: Settings) -> Workload:
    drawn, client = synthetic_of(settings)
    return replace(drawn.whole(), client=client)


def synthetic_of(settings: Settings) -> tuple[Synthetic, OpenLoop | CappedLoop]:
    """Take what a ``synthetic:`` text draws, and the client that sends it."""
    count = settings.number("n", 1000, int)
    process, cv = process_of(settings)
    rate_per_s, seed = settings.number("rate", 1.0, float), settings.number("seed", 0, int)
    like, cap = settings.word_of("like", ""), settings.number("max_concurrency", 0, int)
    if cap < 0 or (cap == 0 and "max_concurrency" in settings.values):
        raise UserError(f"trace {settings.text}: max_concurrency is {cap}, must be >= 1")
    source = _read(like) if like else None
    drawn = Synthetic(
        count=count,
        lengths=mix_of(settings) if source is None else source,
        process=process,
        rate_per_s=rate_per_s,
        arrival_cv=cv,
        seed=seed,
        name=f"synthetic-{settings.word or 'lengths'}" if source is None else f"{source.name}-resampled",
    )
    return drawn, CappedLoop(concurrency=cap) if cap else OpenLoop()


def _read(file: str | Path, **reading: Any) -> Workload:
    """Read a trace; what draws its requests imports no reader of files."""
    from simulator.workload.traces.read_trace import read_trace

    return read_trace(file, **reading)


def _closed(settings: Settings) -> Workload:
    trace = settings.word_of("trace", "")
    if trace:
        source = _read(trace, **settings.reading)
        concurrency = settings.number("concurrency", None, int)
        if concurrency < 1:
            raise UserError(f"trace {settings.text}: concurrency is {concurrency}, must be >= 1")
        spread_s, seed = settings.number("spread_s", 0.0, float), settings.number("seed", 0, int)
        request_s = settings.number("request_s", 0.0, float)
        check_seconds(spread_s=spread_s, request_s=request_s)
        client = ClosedLoop(concurrency=concurrency, spread_s=spread_s, request_s=request_s, seed=seed)
        waves = wave_notes(source.prompt_tokens, source.output_tokens, client)
        return replace(source, arrival_s=np.zeros(len(source)), client=client, notes=(*source.notes, *waves))
    return BenchmarkClient(
        prompt_tokens=settings.number("isl", None, int),
        output_tokens=settings.number("osl", None, int),
        concurrency=settings.number("concurrency", None, int),
        range_ratio=settings.number("ratio", 0.8, float),
        draw=cast("DrawName", settings.word_of("draw", "benchmark-serving")),
        prompts_per_slot=settings.number("prompts_per_slot", 10, int),
        warmup_per_slot=settings.number("warmup_per_slot", 2, int),
        spread_s=settings.number("spread_s", 0.0, float),
        request_s=settings.number("request_s", 0.0, float),
        special_tokens=settings.number("special_tokens", 0, int),
        seed=settings.number("seed", 0, int),
    ).workload()


def _with_timeout(settings: Settings, workload: Workload) -> Workload:
    timeout_s = settings.number("timeout_s", 0.0, float)
    if "timeout_s" not in settings.values:
        return workload
    if not 0 < timeout_s <= LONGEST_SPAN_S:
        raise UserError(
            f"trace {settings.text}: timeout_s is {timeout_s:g}, must be above 0 and at most {LONGEST_SPAN_S:g}"
        )
    return replace(workload, client_timeout_s=timeout_s)


def _replay(settings: Settings) -> Workload:
    source = _read(replayed_file(settings), **settings.reading)
    cap = settings.number("max_concurrency", 0, int)
    if "max_concurrency" not in settings.values:
        return source
    if cap < 1:
        raise UserError(f"trace {settings.text}: max_concurrency is {cap}, must be >= 1")
    return replace(source, client=CappedLoop(concurrency=cap))


def replayed_file(settings: Settings) -> str:
    """Take the file a ``replay:`` text names."""
    trace = settings.word_of("trace", "")
    if not trace:
        raise UserError(f"trace {settings.text}: trace is missing", hint="add trace=FILE")
    return trace


def _sessions(settings: Settings) -> Workload:
    mix = mix_of(settings)
    process, cv = process_of(settings)
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


def _groups(settings: Settings) -> Workload:
    mix = mix_of(settings)
    process, cv = process_of(settings)
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


_GENERATORS: Final[Mapping[str, Callable[[Settings], Workload]]] = {
    "groups": _groups,
    "replay": _replay,
    "synthetic": _synthetic,
    "closed": _closed,
    "sessions": _sessions,
}
