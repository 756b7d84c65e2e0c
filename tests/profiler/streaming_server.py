"""A server of the completions protocol, as a process of its own, that can fail in every way a server does.

Started with one JSON argument of the keys in `DEFAULTS`; prints its port. ``GET /seen`` tells what it was asked for.
It is a server, not a model: tokens come at once, or ``step_s`` apart for whoever measures the client by hand.
"""

import asyncio
import json
import ssl
import sys
from typing import Any

DEFAULTS: dict[str, Any] = {
    "key": None,  # what Authorization must hold
    "owned_by": "vllm",
    "max_model_len": 4096,
    "metrics": "vllm",  # vllm, sglang, tensorrt-llm, none or damaged
    "takes_ids": True,
    "top_id": 1_000_000,  # ids beyond are refused
    "takes_ignore_eos": True,
    "counts": True,  # whether usage is in the stream
    "streams": True,
    "fails_after": None,  # completions answered well before the trouble
    "fails_beyond": None,  # requests at once that are answered well
    "trouble": None,  # refuses, breaks_off, garbage, event_error, silent, no_token, closes
    "certificate": None,  # file of key and certificate
    "step_s": 0.0,
}
METRICS = {
    "vllm": """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} RUNNING
vllm:num_requests_waiting{engine="0",model_name="m"} WAITING
vllm:num_requests_waiting_by_reason{engine="0",model_name="m",reason="capacity"} 7.0
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{engine="0",model_name="m"} 3.0
vllm:prefix_cache_queries_total{engine="0",model_name="m"} QUERIES
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 0.0
vllm:cache_config_info{block_size="16",enable_prefix_caching="True",engine="0",num_gpu_blocks="1234"} 1.0
""",
    "sglang": """sglang:num_running_reqs{model_name="m",tp_rank="0",pp_rank="0"} RUNNING
sglang:num_running_reqs{model_name="m",tp_rank="1",pp_rank="0"} RUNNING
sglang:num_queue_reqs{model_name="m",tp_rank="0",pp_rank="0"} WAITING
sglang:num_retracted_requests_total{model_name="m",tp_rank="0",pp_rank="0"} 2.0
sglang:prompt_tokens_total{model_name="m"} QUERIES
sglang:cached_tokens_total{model_name="m",cache_source="device"} 0.0
sglang:max_total_num_tokens{model_name="m",tp_rank="0",pp_rank="0"} 64000.0
sglang:page_size{model_name="m",tp_rank="0",pp_rank="0"} 64.0
""",
    "tensorrt-llm": """trtllm_num_requests_running{model_name="m"} RUNNING
trtllm_num_requests_waiting{model_name="m"} WAITING
trtllm_prompt_tokens_total{model_name="m"} QUERIES
trtllm_prompt_cached_tokens_total{model_name="m"} 0.0
trtllm_kv_cache_max_blocks{model_name="m"} 500.0
trtllm_kv_cache_tokens_per_block{model_name="m"} 32.0
""",
    "damaged": 'vllm:num_requests_running{engine="0 many\n',
}


class Server:
    """Answers, and counts what it was asked."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = DEFAULTS | settings
        self.answered = self.running = self.most = self.queries = 0
        self.paths: set[str] = set()
        self.keys: set[str] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it is closed."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                line, *fields = head.decode().split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = line.split(" ")
                if not await self.answer(writer, method, path, headers, body):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> bool:
        """Answer one request; whether the connection stays."""
        wanted = self.settings
        if path == "/seen":
            return self.whole(writer, 200, {"paths": sorted(self.paths), "most": self.most, "answered": self.answered})
        self.paths.add(f"{method} {path}")
        if wanted["key"] is not None and headers.get("authorization") != f"Bearer {wanted['key']}":
            return self.whole(writer, 401, {"error": {"message": "Incorrect API key provided", "code": 401}})
        if path == "/v1/models":
            card = {"id": "m", "owned_by": wanted["owned_by"], "max_model_len": wanted["max_model_len"]}
            return self.whole(writer, 200, {"object": "list", "data": [card, {"id": "other"}]})
        if path == "/version":
            return self.whole(writer, 200, {"version": "0.99.1"})
        if path.endswith("/metrics") and wanted["metrics"] != "none":
            counts = {"RUNNING": self.running, "WAITING": max(0, self.running - 1), "QUERIES": self.queries}
            text = METRICS[wanted["metrics"]]
            for name, count in counts.items():
                text = text.replace(name, f"{count}.0")
            return self.whole(writer, 200, text)
        if method == "POST" and path == "/v1/completions":
            return await self.complete(writer, json.loads(body))
        return self.whole(writer, 404, {"detail": "Not Found"})

    async def complete(self, writer: asyncio.StreamWriter, request: dict[str, Any]) -> bool:
        """Answer a completion, or fail as told."""
        wanted = self.settings
        ids = request["prompt"] if isinstance(request["prompt"], list) else None
        refusals = (
            (ids is not None and not wanted["takes_ids"], "prompt must be a text"),
            (ids is not None and max(ids) > wanted["top_id"], "a token id is out of vocabulary"),
            ("ignore_eos" in request and not wanted["takes_ignore_eos"], "ignore_eos: extra field"),
            ("stream_options" in request and not wanted["counts"], "stream_options: extra field"),
        )
        for is_refused, reason in refusals:
            if is_refused:
                return self.whole(writer, 400, {"error": {"message": reason}})
        in_trouble = any(
            wanted[limit] is not None and count >= wanted[limit]
            for limit, count in (("fails_after", self.answered), ("fails_beyond", self.running))
        )
        trouble = wanted["trouble"] if in_trouble else None
        if trouble == "refuses":
            return self.whole(writer, 503, {"error": {"message": f"overloaded, {wanted['key']} is not served"}})
        if trouble == "closes":
            return False
        if not wanted["streams"]:
            return self.whole(writer, 200, {"choices": [{"text": "a"}]})
        self.answered += not in_trouble
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self.stream(writer, request, len(ids) if ids else len(request["prompt"].split()), trouble)
        finally:
            self.running -= 1

    async def stream(
        self, writer: asyncio.StreamWriter, request: dict[str, Any], prompt_tokens: int, trouble: str | None
    ) -> bool:
        """Stream tokens, one per event, in chunked encoding."""
        self.queries += prompt_tokens
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        if trouble == "silent":
            await asyncio.Event().wait()
        if trouble == "garbage":
            self.chunk(writer, b"<html>no events here</html>\n\n")
        if trouble == "event_error":
            self.chunk(writer, b'data: {"error": {"message": "engine died"}}\n\n')
        tokens = request["max_tokens"] if "ignore_eos" in request else min(3, request["max_tokens"])
        for index in range(0 if trouble in {"no_token", "garbage", "event_error"} else tokens):
            if trouble == "breaks_off" and index == tokens // 2:
                return False
            finish = None if index + 1 < tokens else "length" if tokens == request["max_tokens"] else "stop"
            self.event(writer, {"choices": [{"text": "a", "finish_reason": finish}]})
            await writer.drain()
            if self.settings["step_s"]:
                await asyncio.sleep(self.settings["step_s"])
        if self.settings["counts"]:
            usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens}
            self.event(writer, {"choices": [], "usage": usage})
        self.chunk(writer, b": a comment\n\ndata: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    def event(self, writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
        """Write one event."""
        self.chunk(writer, b"data: " + json.dumps(document).encode() + b"\n\n")

    @staticmethod
    def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
        """Write one chunk of the transfer encoding."""
        writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    @staticmethod
    def whole(writer: asyncio.StreamWriter, status: int, document: Any) -> bool:
        """Write an answer that does not stream."""
        is_text = isinstance(document, str)
        data = document.encode() if is_text else json.dumps(document).encode()
        kind = "text/plain" if is_text else "application/json"
        head = f"HTTP/1.1 {status} Status\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        return True


async def serve(settings: dict[str, Any]) -> None:
    """Listen on a free port, say which, and serve until killed."""
    certificate = settings.get("certificate")
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(Server(settings).converse, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
