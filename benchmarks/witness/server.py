"""A real `vllm serve`, its worker alone on one core and everything else on another, and its client."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, Final

from benchmarks.witness.environment import Environment
from benchmarks.witness.models import VOCABULARY
from benchmarks.witness.workloads import BLOCK_TOKENS, ServerCase, WorkloadCase
from cluster_specs.errors import UserError

MAX_NUM_SEQS: Final = 64
MAX_NUM_BATCHED_TOKENS: Final = 2048
KV_BLOCKS: Final = "witness_kv_blocks"
_KV_GIB: Final = 1
_START_S: Final = 240.0
_STOP_S: Final = 20.0
_RUN_S: Final = 240.0
_WARM_UP: Final = (1, 2, 4, 8)  # requests at a time
_WARM_UP_TOKENS: Final = 8
_DECODING: Final = 8  # sequences beside which a prompt may arrive where requests come at a rate
_COUNTERS: Final = {
    "preemptions": "vllm:num_preemptions_total",
    "hits": "vllm:prefix_cache_hits_total",
    "queries": "vllm:prefix_cache_queries_total",
}


def vllm_command(environment: Environment, *words: str) -> list[str]:
    """Return a command of vLLM, which an environment need not have as a program of its own."""
    return [str(environment.python), "-m", "vllm.entrypoints.cli.main", *words]


def serve_arguments(case: ServerCase, model: Path, port: int) -> list[str]:
    """Return the arguments of `vllm serve`."""
    found = ["serve", str(model), "--load-format", "dummy", "--dtype", "bfloat16", "--enforce-eager"]
    found += ["--max-model-len", str(case.context), "--max-num-seqs", str(MAX_NUM_SEQS)]
    found += ["--max-num-batched-tokens", str(MAX_NUM_BATCHED_TOKENS), "--host", "127.0.0.1", "--port", str(port)]
    if case.kv_blocks is not None:
        found += ["--num-gpu-blocks-override", str(case.kv_blocks)]
    return found


def bench_arguments(case: WorkloadCase, run: int, model: Path, port: int, result: Path) -> list[str]:
    """Return the arguments of `vllm bench serve`."""
    found = ["bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions", "--model", str(model)]
    found += ["--base-url", f"http://127.0.0.1:{port}", "--dataset-name", "random", "--ignore-eos", "--disable-tqdm"]
    found += ["--save-result", "--save-detailed", "--result-dir", str(result.parent), "--result-filename", result.name]
    return [*found, *case.arguments(run)]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that answers: its address, its version and the KV blocks it has."""

    environment: Environment
    model: Path
    port: int
    client_core: int
    kv_blocks: int

    def measure(self, case: WorkloadCase, run: int, result: Path) -> None:
        """Drive one workload and keep its result, with what the server says of itself; raises ``UserError``."""
        before = self._counters()
        partial = result.with_suffix(".partial.json")
        partial.unlink(missing_ok=True)
        command = vllm_command(self.environment, *bench_arguments(case, run, self.model, self.port, partial))
        done = _on_core(command, self.client_core, self.environment.variables(), _RUN_S)
        if done.returncode or not partial.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1][:300]
            raise UserError(f"the client ended with code {done.returncode}: {last}")
        after = self._counters()
        grown = {name: after[name] - before[name] for name in _COUNTERS}
        document = json.loads(partial.read_text())
        document["server"] = {
            "engine": "vllm",
            "version": self.environment.version,
            "block_size": BLOCK_TOKENS,
            "preemptions": round(grown["preemptions"]),
            "prefix_hit_frac": grown["hits"] / grown["queries"] if grown["queries"] else 0.0,
        }
        # Not among the server's facts: blocks that a server was told to have say nothing of its model's memory.
        document[KV_BLOCKS] = self.kv_blocks
        result.write_text(json.dumps(document))
        partial.unlink()

    def warm_up(self, cases: Iterable[WorkloadCase]) -> None:
        """Send prompts of each length, several at a time and beside decoding sequences: the products' first calls."""
        most: dict[int, int] = {}
        for case in cases:
            for length in (case.prompt, case.prefix + case.prompt):
                most[length] = max(most.get(length, 1), case.concurrency or _DECODING)
        for length, sequences in sorted(most.items()):
            for together in (count for count in _WARM_UP if count * length <= 2 * MAX_NUM_BATCHED_TOKENS):
                with ThreadPoolExecutor(together) as senders:
                    for answer in [senders.submit(self._complete, length, seed) for seed in range(together)]:
                        answer.result()
            self._join_one_by_one(length, sequences)

    def _join_one_by_one(self, length: int, sequences: int) -> None:
        """Send each prompt when the one before has its first token, and let all of them decode until the last joins."""
        with ThreadPoolExecutor(sequences) as senders:
            answers = []
            for seed in range(sequences):
                has_begun = Event()
                tokens = _WARM_UP_TOKENS * sequences
                answers.append(senders.submit(self._complete, length, seed, tokens=tokens, has_begun=has_begun))
                has_begun.wait()
            for answer in answers:
                answer.result()

    def _complete(
        self, prompt_tokens: int, seed: int, *, tokens: int = _WARM_UP_TOKENS, has_begun: Event | None = None
    ) -> None:
        """Ask for an answer and read it; ``has_begun`` is set at its first token, or where there will be none."""
        drawn = random.Random(seed * 7919 + prompt_tokens)
        prompt = [drawn.randrange(2, VOCABULARY) for _ in range(prompt_tokens)]
        asked = {"model": str(self.model), "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/completions",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=_RUN_S) as answer:  # noqa: S310
                for line in answer:
                    if has_begun is not None and line.startswith(b"data:"):
                        has_begun.set()
        except (urllib.error.URLError, OSError) as error:
            raise UserError(f"the server does not answer while it is warmed up: {error}") from error
        finally:
            if has_begun is not None:
                has_begun.set()

    def _counters(self) -> dict[str, float]:
        text = _asked(f"http://127.0.0.1:{self.port}/metrics") or ""
        return {name: metric(text, key) for name, key in _COUNTERS.items()}


@contextmanager
def serving(
    case: ServerCase, model: Path, environment: Environment, log: Path, cores: tuple[int, int]
) -> Iterator[RunningServer]:
    """Start a server, wait until it answers, and stop it whatever happens; raises ``UserError`` where it does not."""
    compute, others = cores
    port = free_port()
    own = {"VLLM_CPU_KVCACHE_SPACE": str(_KV_GIB), "VLLM_CPU_OMP_THREADS_BIND": str(compute)}
    command = vllm_command(environment, *serve_arguments(case, model, port))
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=environment.variables(**own), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(process, port, log)
        for pid in _members(process.pid):
            _pin(pid, compute if "Worker" in _command_of(pid) else others)
        text = _asked(f"http://127.0.0.1:{port}/metrics") or ""
        found = re.search(r'vllm:cache_config_info\{[^}]*num_gpu_blocks="(\d+)"', text)
        if found is None:
            raise UserError(f"the server's metrics state no KV blocks: {log}")
        yield RunningServer(
            environment=environment, model=model, port=port, client_core=others, kv_blocks=int(found[1])
        )
    finally:
        _stop(process)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def metric(text: str, name: str) -> float:
    """Return the sum of a counter over its labels in the text of a metrics endpoint; 0 where it is not there."""
    lines = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? ([0-9.eE+-]+)$", text, re.MULTILINE)
    return sum(map(float, lines))


def _on_core(command: list[str], core: int, env: dict[str, str], limit_s: float) -> "subprocess.CompletedProcess[str]":
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        _pin(process.pid, core)
        _, said = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"took more than {limit_s:.0f} s")
    finally:
        _stop(process)
    return subprocess.CompletedProcess(command, process.returncode, "", said)


def _wait(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            found = re.search(r"\w+Error: .*", log.read_text(errors="replace"))  # the first is the cause of the others
            why = found[0][:300] if found else f"code {process.returncode}"
            raise UserError(f"the server ended: {why}", hint=str(log))
        if _asked(f"http://127.0.0.1:{port}/health") is not None:
            return
        time.sleep(0.5)
    raise UserError(f"the server does not answer after {_START_S:.0f} s", hint=str(log))


def _asked(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - our own address
            body: bytes = answer.read()
    except (urllib.error.URLError, OSError):
        return None
    return body.decode()


def _members(leader: int) -> list[int]:
    """Return the processes of a session: those that its leader and its children started."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if os.getsid(int(place.name)) == leader:
                    found.append(int(place.name))
            except OSError:  # it is gone
                continue
    return found


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _pin(pid: int, core: int) -> None:
    """Keep every thread of a process on one core."""
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {core})
    except OSError:  # it is gone
        return


def _stop(process: "subprocess.Popen[Any]") -> None:
    """End a process and all of its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
    for pid in _members(process.pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            continue
    process.wait()
