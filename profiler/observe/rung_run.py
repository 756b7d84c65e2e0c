"""One rung: its requests sent, what came back, and the moment it had to stop.

It stops at once when a request fails, when one has waited for its first token beyond ``max_ttft_s``, when the queue of
an open loop runs away, or when it is told to. The queue runs away when more requests wait than chance explains,

    waiting > 3 sqrt(arrivals)          three standard deviations of a Poisson count

or when, by Little's law, whoever joins it now will wait too long:  waiting / rate > max_ttft_s. Waiting requests are
those the server's metrics count, else those that have no first token yet.
"""

import asyncio
import gc
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field
from typing import Final, Literal

import numpy as np

from cluster_specs.lazy_dataclass import dataclass
from profiler.observe.answer import Answer, Prepared, ServerFailure
from profiler.observe.connection import Connection
from profiler.observe.facts import ServerReading
from profiler.observe.ladder import Rung

Ending = Literal["whole", "time", "limit", "failed", "interrupted"]
Look = Callable[[], Awaitable[ServerReading | None]]
_LOOK_EVERY_S: Final = 1.0
_LEAST_ARRIVALS: Final = 16  # before the queue is judged


@dataclass(slots=True, kw_only=True)
class RungResult:
    """What a rung gave; times are of ``time.perf_counter``."""

    rung: Rung
    answers: list[Answer]
    ending: Ending = "whole"
    reason: str = ""
    began_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0  # of this process, all its threads
    before: ServerReading | None = None
    after: ServerReading | None = None
    looks: list[ServerReading] = field(default_factory=list)  # once a second while it ran

    @property
    def served(self) -> list[Answer]:
        """Answers that are whole."""
        return [answer for answer in self.answers if answer.is_ok]


def runs_away(waiting: float, arrivals: int, rate_per_s: float, max_ttft_s: float) -> bool:
    """Whether a queue of an open loop grows without end, or too long to be worth waiting in."""
    is_beyond_chance = arrivals >= _LEAST_ARRIVALS and waiting > 3 * math.sqrt(arrivals)
    return is_beyond_chance or waiting > rate_per_s * max_ttft_s


class RungRun:
    """Sends one rung's requests over a connection; `stop` ends it from outside."""

    def __init__(self, connection: Connection, rung: Rung, *, max_ttft_s: float, look: Look) -> None:
        self._connection = connection
        self._max_ttft_s = max_ttft_s
        self._look = look
        self._result = RungResult(rung=rung, answers=[])
        self._sending: set[asyncio.Task[None]] = set()
        self._stopped = asyncio.Event()
        self._defects: list[BaseException] = []  # of this program, not of the server

    def stop(self, ending: Ending, reason: str) -> None:
        """End the rung; the first reason stays. Whatever is unanswered is cut off."""
        if not self._stopped.is_set():
            self._result.ending, self._result.reason = ending, reason
            self._stopped.set()

    async def run(
        self, requests: Sequence[Prepared], gaps_s: Sequence[float], *, send_s: float, end_s: float
    ) -> RungResult:
        """Send ``requests`` for ``send_s``, wait for their answers until ``end_s`` (of perf_counter).

        Every slot sends at least one. ``gaps_s`` are those between the arrivals of an open loop, one per request.
        """
        rung, result = self._result.rung, self._result
        result.before = await self._look()
        with _uncollected():
            cpu_s, result.began_s = time.process_time(), time.perf_counter()
            send_until_s = result.began_s + send_s
            upcoming = iter(requests)
            if rung.rate_per_s is not None:
                load = [self._arrivals(upcoming, gaps_s, send_until_s)]
            else:
                load = [self._slot(upcoming, send_until_s) for _ in range(rung.concurrency or 1)]
            senders = [asyncio.create_task(part) for part in load]
            watch = asyncio.create_task(self._watch())
            await self._wait_for(senders, end_s)
            result.ended_s = time.perf_counter()
            result.cpu_s = time.process_time() - cpu_s
        everything = [*senders, *self._sending, watch]
        for task in everything:
            task.cancel()
        outcomes = await asyncio.gather(*everything, return_exceptions=True)
        unfinished = [answer for answer in result.answers if not answer.is_settled and answer.error is None]
        if unfinished and result.ending == "whole":
            result.ending = "time"
            result.reason = (
                f"{len(unfinished)} of {len(result.answers)} requests were unfinished when the time was over: "
                "what is measured is that of the faster ones"
            )
        for answer in unfinished:
            answer.error = f"cut off: {result.reason}"
        self._defects += [error for error in outcomes if isinstance(error, Exception)]
        if self._defects:
            raise self._defects[0]
        result.after = await self._look()
        return result

    async def _wait_for(self, senders: Sequence["asyncio.Task[None]"], end_s: float) -> None:
        """Wait until everything is sent and answered, the time is over, or the rung is stopped."""

        async def answered() -> None:
            await asyncio.gather(*senders)
            while self._sending:
                await asyncio.wait(self._sending)

        waiting = [asyncio.create_task(answered()), asyncio.create_task(self._stopped.wait())]
        await asyncio.wait(waiting, timeout=max(0.0, end_s - time.perf_counter()), return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        for outcome in await asyncio.gather(*waiting, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    async def _slot(self, upcoming: Iterator[Prepared], send_until_s: float) -> None:
        """Fill one slot of a closed loop: the next request when the last one is answered."""
        while not self._stopped.is_set() and (request := next(upcoming, None)) is not None:
            await self._send(request, self._answer(request))
            if time.perf_counter() > send_until_s:
                return

    async def _arrivals(self, upcoming: Iterator[Prepared], gaps_s: Sequence[float], send_until_s: float) -> None:
        """Send requests when they are due, whatever is unanswered."""
        due_s = self._result.began_s
        for request, gap_s in zip(upcoming, gaps_s, strict=False):
            due_s += gap_s
            if due_s > send_until_s:
                return
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            task = asyncio.create_task(self._send(request, self._answer(request, due_s)))
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: "asyncio.Task[None]") -> None:
        self._sending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._defects.append(error)
            self._stopped.set()

    def _answer(self, request: Prepared, due_s: float | None = None) -> Answer:
        answer = Answer(
            input_tokens=request.input_tokens,
            output_tokens=request.output_tokens,
            due_s=due_s,
            start_s=time.perf_counter(),
        )
        self._result.answers.append(answer)
        return answer

    async def _send(self, request: Prepared, answer: Answer) -> None:
        overdue = asyncio.get_running_loop().call_later(self._max_ttft_s, self._overdue, answer)
        try:
            await self._connection.complete(request.body, answer)
        except ServerFailure as error:
            answer.error = str(error)
            self.stop("failed", str(error))
        finally:
            overdue.cancel()

    def _overdue(self, answer: Answer) -> None:
        if not answer.chunk_s:
            self.stop("limit", f"a request waited over {self._max_ttft_s:g} s for its first token (--max-ttft)")

    async def _watch(self) -> None:
        """Look at the server once a second; judge the queue of an open loop."""
        rate_per_s = self._result.rung.rate_per_s
        while not self._stopped.is_set():
            await asyncio.sleep(_LOOK_EVERY_S)
            reading = await self._look()
            if reading is not None:
                self._result.looks.append(reading)
            if rate_per_s is None:
                continue
            answers = self._result.answers
            told = None if reading is None else reading.waiting
            waiting = told if told is not None else sum(not answer.chunk_s for answer in answers)
            if runs_away(waiting, len(answers), rate_per_s, self._max_ttft_s):
                self.stop("limit", f"the queue runs away: {waiting:g} of {len(answers)} requests wait")


def poisson_gaps_s(rng: np.random.Generator, rate_per_s: float, count: int) -> list[float]:
    """Gaps between arrivals; the first request comes at once."""
    gaps_s: list[float] = rng.exponential(1 / rate_per_s, count).tolist()
    return [0.0, *gaps_s[1:]]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the cyclic collector out of the block: its pauses would be taken for the server's."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
