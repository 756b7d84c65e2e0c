"""Server-sent events out of a byte stream that is cut anywhere: the data of each event, as bytes.

Lines end with LF or CR LF; an empty line ends an event; data lines of one event are joined; comments and other
fields are dropped (WHATWG HTML, section 9.2.6). A line that is no field at all is refused: something else is speaking.
"""

from typing import Final

_MOST_BYTES: Final = 4 * 2**20  # of one event
_FIELDS: Final = (b"event", b"id", b"retry")


class StreamDefect(ValueError):  # noqa: N818 - what a server sent, not what failed here
    """Bytes that are no stream of events."""


class EventReader:
    """Takes pieces as they come, gives whole events."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of every event that this piece completes; raises `StreamDefect`."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _MOST_BYTES:
            raise StreamDefect(f"an event of over {_MOST_BYTES} bytes")
        return self._events(lines)

    def close(self) -> list[bytes]:
        """Return the data of an event that the end of the stream completes."""
        lines = [self._rest, b""]
        self._rest = b""
        return self._events(lines)

    def _events(self, lines: list[bytes]) -> list[bytes]:
        found = []
        for ended in lines:
            line = ended.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line:
                if self._data:
                    found.append(b"\n".join(self._data))
                    self._data = []
            elif not line.startswith(b":") and line.partition(b":")[0] not in _FIELDS:
                raise StreamDefect(f"a line that is no event: {line[:60]!r}")
        return found
