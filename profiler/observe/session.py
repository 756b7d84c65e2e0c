"""The whole of an observation: find the server, warm it up, climb the ladder, keep every rung as it is measured.

The clock of ``--duration`` starts with the first whole request. What is left of it is shared equally among the rungs
still to come; a rung sends during the part of its share that leaves room for the longest answer seen so far, and waits
for every answer, at the cost of the rungs after it: what is measured of the faster ones alone would flatter the server.
"""

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.whole import write_text
from cluster_specs.lazy_dataclass import dataclass
from profiler.observe.answer import Answer
from profiler.observe.connection import Connection
from profiler.observe.facts import ServerReading
from profiler.observe.ladder import Rung
from profiler.observe.prompts import Lengths
from profiler.observe.result_file import as_lines, result_of
from profiler.observe.rung_run import Ending, RungResult, RungRun, poisson_gaps_s
from profiler.observe.server import Server, find_server, read_now
from profiler.observe.wakeups import WakeupLoop
from profiler.signals import listening

_DRAIN_MARGIN: Final = 1.5  # longest answer so far: the next rung's are slower
_MOST_DRAIN_SHARE: Final = 0.5
_LEAST_ANSWERS: Final = 3  # one after another that must fit into a rung
_MOST_PREPARED: Final = 20_000  # requests written beforehand: seconds
_MOST_PREPARED_TOKENS: Final = 5_000_000  # of their prompts: some 30 MB

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveRequest:
    """What a person asked for, checked."""

    url: str
    model: str
    rungs: Sequence[Rung]
    inputs: Lengths
    outputs: Lengths
    duration_s: float
    most_requests: int | None  # of one load
    max_ttft_s: float
    timeout_s: float
    seed: int
    key: str | None
    out: Path


@dataclass(slots=True, kw_only=True)
class Observation:
    """What was measured: the server, one document per rung, and how it ended."""

    server: Server | None = None
    results: list[dict[str, Any]] = field(default_factory=list)
    ending: Ending = "whole"
    reason: str = ""
    signal: int | None = None


def observe(request: ObserveRequest, say: Say) -> Observation:
    """Climb the ladder; raises ``UserError`` where nothing could be measured. The file holds each rung that was."""
    session = _Session(request, say)
    with asyncio.Runner(loop_factory=WakeupLoop) as runner:
        loop = runner.get_loop()

        def hear(number: int, _: object) -> None:
            loop.call_soon_threadsafe(session.interrupt, number)

        with listening(hear):
            return runner.run(session.run())


class _Session:
    def __init__(self, request: ObserveRequest, say: Say) -> None:
        self._request = request
        self._say = say
        self._found = Observation()
        self._current: RungRun | None = None
        self._preparing: asyncio.Task[tuple[Server, float]] | None = None
        self._rng = np.random.default_rng(request.seed)

    def interrupt(self, number: int) -> None:
        """End at once, with what there is."""
        self._found.signal = number
        self._found.ending, self._found.reason = "interrupted", "interrupted"
        if self._current is not None:
            self._current.stop("interrupted", "interrupted")
        elif self._preparing is not None:
            self._preparing.cancel()

    async def run(self) -> Observation:
        request = self._request
        async with Connection(request.url, key=request.key, timeout_s=request.timeout_s) as connection:
            self._preparing = asyncio.create_task(self._prepare(connection))
            try:
                server, longest_s = await self._preparing
            except asyncio.CancelledError:
                if self._found.signal is None:
                    raise
                return self._found
            end_s = self._end_s
            for index, rung in enumerate(request.rungs):
                if self._found.signal is not None:
                    break
                left_s = end_s - time.perf_counter()
                if left_s < longest_s:
                    self._found.ending = "time"
                    self._found.reason = f"the time was over before {rung} ({len(request.rungs) - index} loads left)"
                    break
                share_s = left_s / (len(request.rungs) - index)
                result = await self._climb(connection, server, rung, share_s, longest_s)
                self._keep(server, result)
                longest_s = max([longest_s, *(answer.e2e_s for answer in result.served)])
                if result.ending != "whole":
                    self._found.ending, self._found.reason = result.ending, result.reason
                    break
        if not self._found.results and self._found.signal is None:
            raise UserError(f"{request.url}: nothing was measured: {self._found.reason}")
        return self._found

    async def _prepare(self, connection: Connection) -> tuple[Server, float]:
        """Find the server and time a request alone, which also warms it up; the clock starts here."""
        request = self._request
        server = await find_server(connection, request.model, request.inputs, request.outputs)
        self._found.server = server
        for line in _introduction(server):
            self._say(line)
        self._end_s = time.perf_counter() + request.duration_s
        share_s = request.duration_s / len(request.rungs)
        alone_s = await self._alone_s(connection, server)
        if alone_s * _LEAST_ANSWERS > share_s:  # the first may have compiled something
            alone_s = min(alone_s, await self._alone_s(connection, server))
        if alone_s * _LEAST_ANSWERS > share_s:
            needed_s = math.ceil(_LEAST_ANSWERS * alone_s * len(request.rungs))
            raise UserError(
                f"a request alone takes {alone_s:.2f} s; {len(request.rungs)} loads within --duration "
                f"{request.duration_s:g}s have {share_s:.2f} s each, must be at least {_LEAST_ANSWERS} requests",
                hint=f"--duration {needed_s}s, a lower limit, or shorter --output-tokens",
            )
        return server, alone_s

    async def _alone_s(self, connection: Connection, server: Server) -> float:
        inputs, outputs = self._request.inputs, self._request.outputs
        prepared = server.form.write(self._rng, round(inputs.mean), round(outputs.mean))
        answer = Answer(input_tokens=prepared.input_tokens, output_tokens=prepared.output_tokens)
        await connection.complete(prepared.body, answer)
        return answer.e2e_s

    async def _climb(
        self, connection: Connection, server: Server, rung: Rung, share_s: float, longest_s: float
    ) -> RungResult:
        request = self._request
        drain_s = min(_DRAIN_MARGIN * longest_s, _MOST_DRAIN_SHARE * share_s)
        if rung.rate_per_s is not None:
            count = math.ceil(rung.rate_per_s * share_s + 5 * math.sqrt(rung.rate_per_s * share_s))
            gaps_s = poisson_gaps_s(self._rng, rung.rate_per_s, count)
        else:
            slots = rung.concurrency or 1
            count, gaps_s = slots + math.ceil(4 * slots * share_s / longest_s), []
        most = min(_MOST_PREPARED, 1 + math.floor(_MOST_PREPARED_TOKENS / request.inputs.mean))
        count = min(count, most, request.most_requests or most)
        prepared = server.form.draw(self._rng, count, request.inputs, request.outputs)

        async def look() -> ServerReading | None:
            metrics = await read_now(connection, server)
            return None if metrics is None else metrics.reading

        run = RungRun(connection, rung, max_ttft_s=request.max_ttft_s, look=look)
        self._current = run
        try:
            if self._found.signal is not None:
                run.stop("interrupted", "interrupted")
            return await run.run(prepared, gaps_s, send_s=share_s - drain_s, end_s=self._end_s)
        finally:
            self._current = None

    def _keep(self, server: Server, result: RungResult) -> None:
        """Write the file anew with this rung in it, whole at every moment."""
        if not result.served:
            self._say(f"{result.rung}: no answer was whole{': ' + result.reason if result.reason else ''}")
            return
        date = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self._found.results.append(result_of(result, server.facts, server.remarks, date))
        write_text(self._request.out, as_lines(self._found.results))
        self._say(f"{result.rung}: {len(result.served)} of {len(result.answers)} answered whole")


def _introduction(server: Server) -> list[str]:
    facts = server.facts
    engine = "an engine that does not say which" if facts.engine is None else facts.engine
    version = "" if facts.version is None else f" {facts.version}"
    cache = ""
    if facts.num_gpu_blocks is not None:
        cache = f", {facts.num_gpu_blocks:,} KV blocks" + (f" of {facts.block_size} tokens" if facts.block_size else "")
    context = "" if facts.max_model_len is None else f", max_model_len {facts.max_model_len:,}"
    engines = f", {facts.engines} engines" if facts.engines and facts.engines > 1 else ""
    return [
        f"{engine}{version} serves {facts.model}{context}{cache}{engines}",
        f"prompts: {server.form.described}",
        *(f"note: {remark}" for remark in server.remarks),
    ]
