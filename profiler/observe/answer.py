"""One request and what came back for it: when each chunk arrived, and how many tokens it was."""

import json
from dataclasses import field
from typing import Any

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from cluster_specs.lazy_dataclass import dataclass
from profiler.observe.event_stream import StreamDefect


class ServerFailure(UserError):  # noqa: N818 - what the server did
    """A request that the server did not answer as asked; ``status`` is that of HTTP where there was one."""

    def __init__(self, message: str, *, hint: str = "", status: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request ready to be sent: nothing is left to compute once the clock runs."""

    body: bytes
    input_tokens: int
    output_tokens: int


@dataclass(slots=True, kw_only=True)
class Answer:
    """Times are seconds of ``time.perf_counter``; lengths are those asked for until `settle` has counted them."""

    input_tokens: int
    output_tokens: int
    due_s: float | None = None  # when an open loop meant to send it
    start_s: float = 0.0
    chunk_s: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)  # bound on how late each piece's time was taken
    error: str | None = None
    is_counted: bool = False  # by the server's usage, not by what was asked for
    is_settled: bool = False
    _usage: tuple[int, int] | None = None
    _finish: str | None = None
    _is_done: bool = False

    @property
    def is_ok(self) -> bool:
        """Whether the whole answer arrived and its tokens are counted."""
        return self.is_settled and self.error is None

    @property
    def ttft_s(self) -> float:
        """From sending to the first chunk."""
        return self.chunk_s[0] - self.start_s

    @property
    def e2e_s(self) -> float:
        """From sending to the last chunk."""
        return self.chunk_s[-1] - self.start_s

    def take(self, data: bytes, now_s: float) -> None:
        """Take the data of one event; raises `StreamDefect` or `ServerFailure`."""
        if data == b"[DONE]":
            self._is_done = True
            return
        try:
            event = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise StreamDefect(f"an event that is not JSON: {shown(data)}") from error
        if not isinstance(event, dict):
            raise StreamDefect(f"an event that is no object: {shown(data)}")
        if event.get("error"):
            raise ServerFailure(f"failed while it answered: {message_of(event)}")
        choices = event.get("choices")
        if isinstance(choices, list) and choices:
            self.chunk_s.append(now_s)
            if isinstance(choices[0], dict) and isinstance(choices[0].get("finish_reason"), str):
                self._finish = choices[0]["finish_reason"]
        if isinstance(usage := event.get("usage"), dict):
            counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
            if any(type(count) is not int or count < 0 for count in counts):
                raise StreamDefect(f"a usage that counts no tokens: {shown(usage)}")
            self._usage = counts  # type: ignore[assignment]  # two whole numbers

    def settle(self) -> None:
        """Count the tokens of an answer whose stream has ended; raises `ServerFailure` for one that is not whole."""
        if not self._is_done and self._finish is None:
            raise ServerFailure(f"ended its answer early: the stream broke off after {len(self.chunk_s)} chunks")
        if not self.chunk_s:
            raise ServerFailure("answered without a single token")
        if self._usage is not None:
            self.input_tokens, self.output_tokens = self._usage
            self.is_counted = True
        elif self._finish != "length":
            raise ServerFailure(
                "counts no tokens (no usage in its stream) and ended an answer before the length that was asked for",
                hint="serve it with a version that takes stream_options.include_usage or ignore_eos",
            )
        if self.output_tokens < 1:
            raise ServerFailure("counts an answer of no tokens")
        self.is_settled = True


def message_of(document: Any) -> str:
    """Return the message in an error document of OpenAI's form, or the document, short enough for a line."""
    error = document.get("error", document) if isinstance(document, dict) else document
    message = error.get("message", error) if isinstance(error, dict) else error
    text = message if isinstance(message, str) else repr(message)
    return " ".join(text[:400].split())
