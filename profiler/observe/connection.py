"""The one way to the server: completions that stream, and three addresses that tell of it. Nothing else is touched.

The key goes into a header and nowhere else; redirects are not followed, so that it reaches no other host.
"""

import asyncio
import json
import time
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import aiohttp

from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown
from profiler.observe.answer import Answer, ServerFailure, message_of
from profiler.observe.event_stream import EventReader, StreamDefect
from profiler.observe.wakeups import WakeupLoop

_MOST_BODY_BYTES: Final = 16 * 2**20  # of what tells of the server
_MOST_ERROR_BYTES: Final = 4_096
_CONNECT_S: Final = 10.0
# Servers of uvicorn close a connection after 5 s of silence; one closed while it is used again would look like a fault.
_KEPT_IDLE_S: Final = 1.5
_URL_HINT: Final = "for example http://127.0.0.1:8000"


def base_url(text: str) -> str:
    """Return scheme, host, port and folder of a server, without ``/v1``; raises ``UserError`` for anything else."""
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_url = False
    if not is_url or not text.isascii() or not text.isprintable() or " " in text:
        raise UserError(f"URL is {shown(text)}, must be http:// or https:// with a host", hint=_URL_HINT)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UserError(
            f"URL of {parts.hostname} holds more than host, port and path",
            hint="give a key in an environment variable: --api-key-env NAME",
        )
    path = parts.path.rstrip("/").removesuffix("/completions").removesuffix("/v1")
    return f"{parts.scheme}://{parts.netloc}{path.rstrip('/')}"


class Connection:
    """A session with one server, on the event loop that runs; ``timeout_s`` is the longest silence it may keep."""

    def __init__(self, url: str, *, key: str | None, timeout_s: float) -> None:
        self.url = url
        self._key = key
        self._timeout_s = timeout_s
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        self._session = aiohttp.ClientSession(
            # A connection per unanswered request, kept for the next.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_IDLE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=min(_CONNECT_S, timeout_s), sock_read=timeout_s),
            headers=headers,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def text_at(self, path: str) -> tuple[int, str]:
        """Return status and text of a GET; raises `ServerFailure` where there is none."""
        try:
            async with self._session.get(self.url + path, allow_redirects=False) as response:
                body = await response.content.read(_MOST_BODY_BYTES)
                while len(body) < _MOST_BODY_BYTES and (more := await response.content.read(_MOST_BODY_BYTES)):
                    body += more
                return int(response.status), body.decode(errors="replace")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._failure(error) from error

    async def document_at(self, path: str) -> tuple[int, Any]:
        """Return status and JSON of a GET, None for what is no JSON."""
        status, text = await self.text_at(path)
        try:
            return status, json.loads(text)
        except (ValueError, RecursionError):
            return status, None

    async def complete(self, body: bytes, answer: Answer) -> None:
        """Send one completion and fill ``answer`` as its chunks come; raises `ServerFailure`."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, WakeupLoop)
        wakeups, reader = loop.wakeups, EventReader()
        answer.start_s = time.perf_counter()
        try:
            async with self._session.post(self.url + "/v1/completions", data=body, allow_redirects=False) as response:
                if response.status != 200:
                    raise await self._refusal(response)
                if response.content_type != "text/event-stream":
                    raise self._unstreamed(response.content_type)
                async for piece in response.content.iter_any():
                    now_s = time.perf_counter()
                    answer.lag_s.append(now_s - wakeups.woken_s)
                    for data in reader.feed(piece):
                        answer.take(data, now_s)
                for data in reader.close():
                    answer.take(data, time.perf_counter())
            answer.settle()
        except ServerFailure as error:
            raise ServerFailure(self._without_key(str(error)), hint=error.hint, status=error.status) from error
        except StreamDefect as error:
            raise ServerFailure(
                self._without_key(f"{self.url}: its stream holds {error}"), hint="is it an OpenAI-compatible server?"
            ) from error
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._failure(error) from error

    async def _refusal(self, response: Any) -> ServerFailure:
        text = (await response.content.read(_MOST_ERROR_BYTES)).decode(errors="replace")
        try:
            said = message_of(json.loads(text))
        except (ValueError, RecursionError):
            said = " ".join(text[:200].split())
        return refusal(self.url, int(response.status), said)

    def _unstreamed(self, content_type: str) -> ServerFailure:
        return ServerFailure(
            f"{self.url}: does not stream: it answers {shown(content_type)}, not text/event-stream",
            hint="times to the first token need a server that streams /v1/completions",
        )

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text

    def _failure(self, error: Exception) -> ServerFailure:
        said, hint = _explained(error, self._timeout_s)
        return ServerFailure(self._without_key(f"{self.url}: {said}"), hint=hint)


def refusal(url: str, status: int, said: str) -> ServerFailure:
    """Return what a status other than 200 means."""
    hint = ""
    if status in {401, 403}:
        hint = "it wants a key: put it into the environment variable that --api-key-env names"
    elif status == 404:
        hint = "is it the address of an OpenAI-compatible server, as in http://127.0.0.1:8000?"
    elif 300 <= status < 400:
        hint = "redirects are not followed; give the address it leads to"
    return ServerFailure(f"{url}: answers HTTP {status}{': ' + said if said else ''}", hint=hint, status=status)


def _explained(error: Exception, timeout_s: float) -> tuple[str, str]:
    """Return what a failed connection means, and a hint."""
    reason = " ".join(str(error)[:200].split()) or type(error).__name__
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return (
                f"its certificate is not trusted: {' '.join(str(error.certificate_error)[:200].split())}",
                "SSL_CERT_FILE=FILE names the authority that signed it",
            )
        case aiohttp.ClientSSLError():
            return f"TLS fails: {reason}", "does it speak plain http://?"
        case aiohttp.ClientConnectorDNSError():
            return "no such host is known", _URL_HINT
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {min(_CONNECT_S, timeout_s):g} s", "is it http:// or https://, and the port?"
        case TimeoutError():
            return f"was silent for {timeout_s:g} s", "--timeout allows for more"
        case aiohttp.ClientConnectorError():
            return f"cannot be reached: {error.os_error.strerror or reason}", "is the server running, and at that port?"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return "broke off the connection before its answer was whole", ""
        case _:
            return f"does not speak HTTP as expected: {reason}", "is it the address of an OpenAI-compatible server?"
