"""`apex observe` against a real server process that speaks the protocol and fails in each of the ways servers do."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiles_db.recordings.files import read_runs
from tests.conftest import Start, WaitUntil

pytest.importorskip("aiohttp", reason="apex observe needs the extra observe")
pytest.importorskip("prometheus_client", reason="apex observe needs the extra observe")

_SERVER = Path(__file__).parent / "streaming_server.py"
_SHORT = ("--input-tokens", "8-16", "--output-tokens", "4-8")
_SELF_SIGNED = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost")
_ALLOWED = {"GET /v1/models", "GET /version", "GET /metrics", "POST /v1/completions"}

Serve = Callable[..., str]
Observe = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def serve(start: Start) -> Serve:
    """Start a server with those settings; return its URL."""

    def serving(**settings: Any) -> str:
        process = start([sys.executable, str(_SERVER), json.dumps(settings)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        scheme = "https" if "certificate" in settings else "http"
        return f"{scheme}://127.0.0.1:{int(process.stdout.readline())}"

    return serving


@pytest.fixture
def observe(run_apex: Observe, tmp_path: Path) -> Observe:
    """Observe the model of that server, nine requests per load, into results.jsonl."""

    def observing(url: str, *options: str) -> "subprocess.CompletedProcess[str]":
        given = dict.fromkeys(option for option in options if option.startswith("--"))
        line = [*options, *(() if "--input-tokens" in given or "--output-tokens" in given else _SHORT)]
        line += [] if "--model" in given else ["--model", "m"]
        line += [] if "--duration" in given else ["--duration", "10m"]
        line += [] if "--requests" in given else ["--requests", "9"]
        line += [] if given.keys() & {"--max-rate", "--max-concurrency"} else ["--max-concurrency", "2"]
        done = run_apex("observe", url, *line, "-o", tmp_path / "results.jsonl")
        assert "Traceback" not in done.stderr
        return done

    return observing


def _seen(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/seen") as answer:  # noqa: S310 - our own server
        found: dict[str, Any] = json.load(answer)
    return found


def _results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_a_ladder_is_climbed_to_its_limit_and_no_further(serve: Serve, observe: Observe, tmp_path: Path) -> None:
    """Concurrencies double up to the stated one; no more requests are ever unanswered; nothing else is touched."""
    url = serve(step_s=0.002)
    done = observe(f"{url}/v1/", "--max-concurrency", "6")
    assert done.returncode == 0, done.stderr
    assert [result["max_concurrency"] for result in _results(tmp_path)] == [1, 2, 4, 6]
    seen = _seen(url)
    assert seen["most"] == 6
    assert set(seen["paths"]) == _ALLOWED
    assert "vllm 0.99.1 serves m, max_model_len 4,096, 1,234 KV blocks of 16 tokens" in done.stderr
    assert "prompts: token ids 256 to 29999" in done.stderr


def test_what_is_written_is_read_like_the_client_s_own(serve: Serve, observe: Observe, tmp_path: Path) -> None:
    """Each line is a run of the vllm-bench reader: lengths as counted, times, the load, and the server's facts."""
    assert observe(serve()).returncode == 0
    runs = read_runs(tmp_path / "results.jsonl", "vllm-bench")
    assert [run.max_concurrency for run in runs] == [1, 2]
    for run, result in zip(runs, _results(tmp_path), strict=True):
        assert run.is_closed_loop
        assert run.is_ok.all()
        assert (run.server.engine, run.server.version) == ("vllm", "0.99.1")
        assert (run.server.num_gpu_blocks, run.server.block_size) == (1234, 16)
        assert (run.server.preemptions, run.server.prefix_hit_frac) == (0, 0)
        assert (result["server"]["model"], result["server"]["max_model_len"]) == ("m", 4096)
        before, after = (result["server"][when]["prefix_query_tokens"] for when in ("before", "after"))
        assert after - before == run.prompt_tokens.sum() == result["total_input_tokens"]
        assert (run.prompt_tokens >= 8).all()
        assert (run.prompt_tokens <= 16).all()
        assert run.chunks is not None
        assert (run.chunks == run.output_tokens).all()
        assert result["observed"]["lengths"] == "usage"


def test_an_open_ladder_starts_alone_and_ends_at_its_rate(serve: Serve, observe: Observe, tmp_path: Path) -> None:
    """One request alone, then Poisson arrivals at rates that double up to the stated one."""
    done = observe(serve(), "--max-rate", "800", "--json")
    assert done.returncode == 0, done.stderr
    loads = [(result["max_concurrency"], result["request_rate"]) for result in _results(tmp_path)]
    rates = [25.0, 50.0, 100.0, 200.0, 400.0, 800.0]
    assert loads == [(1, "inf"), *((None, rate) for rate in rates)]
    told = json.loads(done.stdout)
    assert told["ending"] == "whole"
    assert [result["request_rate"] for result in told["results"]] == ["inf", *rates]
    assert "ttfts" not in told["results"][0]


@pytest.mark.parametrize(
    ("settings", "said", "written"),
    [
        ({"takes_ids": False}, "prompts are words", "usage"),
        ({"top_id": 5_000}, "token ids 256 to 1000", "usage"),
        ({"takes_ignore_eos": False}, "answers may end early (ignore_eos is refused)", "usage"),
        ({"counts": False}, "no usage in the stream: lengths are those asked for", "asked"),
        ({"metrics": "none"}, "no metrics: GET /metrics answers HTTP 404", "usage"),
        ({"metrics": "damaged"}, "no metrics: /metrics: is no Prometheus text", "usage"),
        ({"max_model_len": None}, "vllm 0.99.1 serves m, 1,234 KV blocks", "usage"),
    ],
)
def test_what_a_server_lacks_is_said_and_done_without(  # noqa: PLR0917 - fixtures
    serve: Serve, observe: Observe, tmp_path: Path, settings: dict[str, Any], said: str, written: str
) -> None:
    """A server that refuses ids, options or metrics is asked in the form it takes, and the answer says which."""
    done = observe(serve(**settings))
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    results = _results(tmp_path)
    assert {result["observed"]["lengths"] for result in results} == {written}
    if "takes_ignore_eos" in settings:  # what is counted, not what was asked for
        assert {length for result in results for length in result["output_lens"]} == {3}


@pytest.mark.parametrize(
    ("owned_by", "metrics", "facts", "path"),
    [
        ("sglang", "sglang", ("sglang", 1000, 64), "GET /metrics"),
        ("tensorrt_llm", "tensorrt-llm", ("tensorrt-llm", 500, 32), "GET /prometheus/metrics"),
        ("somebody", "vllm", ("vllm", 1234, 16), "GET /metrics"),
    ],
)
def test_each_engine_s_metrics_are_read(  # noqa: PLR0917 - fixtures
    serve: Serve,
    observe: Observe,
    tmp_path: Path,
    owned_by: str,
    metrics: str,
    facts: tuple[str, int, int],
    path: str,
) -> None:
    """KV blocks and running requests are found under each engine's names; ranks of one engine count once."""
    url = serve(owned_by=owned_by, metrics=metrics, step_s=0.01)
    assert observe(url, "--requests", "30", "--max-concurrency", "1").returncode == 0
    (run,) = read_runs(tmp_path / "results.jsonl", "vllm-bench")
    assert (run.server.engine, run.server.num_gpu_blocks, run.server.block_size) == facts
    assert 0 < _results(tmp_path)[0]["observed"]["running_mean"] <= 1
    assert {seen for seen in _seen(url)["paths"] if seen.endswith("metrics")} == {path}


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("refuses", "answers HTTP 503: overloaded"),
        ("closes", "broke off the connection"),
        ("breaks_off", "broke off the connection before its answer was whole"),
        ("garbage", "its stream holds a line that is no event: b'<html>no events here</html>'"),
        ("event_error", "failed while it answered: engine died"),
        ("no_token", "answered without a single token"),
        ("silent", "was silent for 0.5 s"),
    ],
)
def test_a_server_that_begins_to_fail_ends_it_and_what_was_measured_is_kept(
    serve: Serve, observe: Observe, tmp_path: Path, trouble: str, said: str
) -> None:
    """The first failure ends the ladder with exit code 4; the file holds every answer until then, and the reason."""
    url = serve(fails_after=5, trouble=trouble)
    done = observe(url, "--timeout", "0.5s", "--max-concurrency", "8")
    assert done.returncode == 4, done.stderr
    assert said in done.stderr
    assert _seen(url)["most"] <= 1  # the second load was never sent
    (result,) = _results(tmp_path)
    assert (result["completed"], result["failed"]) == (3, 1)
    assert said in result["errors"][-1]
    assert any(said in remark for remark in result["observed"]["remarks"])
    (run,) = read_runs(tmp_path / "results.jsonl", "vllm-bench")
    assert run.is_ok.sum() == 3
    assert any(said in note for note in run.notes)


def test_a_load_under_which_the_server_fails_is_the_last(serve: Serve, observe: Observe, tmp_path: Path) -> None:
    """A server that refuses a third request at once ends the ladder there; the loads before it are whole."""
    url = serve(fails_beyond=2, trouble="refuses", step_s=0.002)
    done = observe(url, "--max-concurrency", "64")
    assert done.returncode == 4, done.stderr
    assert [result["failed"] for result in _results(tmp_path)][:2] == [0, 0]
    assert _seen(url)["most"] == 2


def test_a_first_token_that_takes_too_long_ends_it(serve: Serve, observe: Observe, tmp_path: Path) -> None:
    """Beyond --max-ttft the ladder ends at a limit, which is an answer: exit code 0, the reason is said."""
    done = observe(serve(fails_after=5, trouble="silent"), "--max-ttft", "0.3s")
    assert done.returncode == 0, done.stderr
    assert "stopped: a request waited over 0.3 s for its first token" in done.stderr
    assert _results(tmp_path)[0]["completed"] == 3


def test_a_queue_that_runs_away_ends_it(serve: Serve, observe: Observe, tmp_path: Path) -> None:
    """Requests that pile up at a rate the server does not follow end the ladder before it fails."""
    url = serve(fails_beyond=1, trouble="silent", step_s=0.01)
    done = observe(url, "--max-rate", "640", "--max-ttft", "1h", "--requests", "40")
    assert done.returncode == 0, done.stderr
    assert "stopped: the queue runs away" in done.stderr
    assert _results(tmp_path)[0]["max_concurrency"] == 1


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"key": "secret"}, (), ["answers HTTP 401", "--api-key-env"]),
        ({}, ("--model", "n"), ["serves no model 'n'", "it serves 'm', 'other'"]),
        ({}, ("--output-tokens", "5000"), ["make up to 6024 tokens", "the server takes 4096"]),
        ({"streams": False}, (), ["does not stream: it answers 'application/json'"]),
        ({"takes_ids": False, "counts": False}, (), ["takes no token ids and counts no tokens"]),
        ({"takes_ignore_eos": False, "counts": False}, (), ["counts no tokens", "ended an answer before the length"]),
        ({"fails_after": 0, "trouble": "refuses"}, (), ["answers HTTP 503: overloaded"]),
        ({"fails_after": 2, "trouble": "refuses"}, (), ["nothing was measured", "answers HTTP 503"]),
        ({"step_s": 0.05}, ("--duration", "0.6s"), ["a request alone takes", "hint: --duration"]),
        (
            {},
            ("--max-rate", "1", "--duration", "0.6s"),
            ["--max-rate 1 sends 0.3 requests", "must be at least 10"],
        ),
        ({}, ("--max-rate", "1", "--max-concurrency", "1"), ["either --max-rate or --max-concurrency"]),
        ({}, ("--api-key-env", "APEX_NO_SUCH_KEY"), ["--api-key-env 'APEX_NO_SUCH_KEY'", "no such variable"]),
        ({}, ("--max-rate", "nan"), ["--max-rate is nan"]),
        ({}, ("--max-concurrency", "0"), ["--max-concurrency is 0"]),
        ({}, ("--input-tokens", "9-3"), ["--input-tokens is '9-3'"]),
        ({}, ("--output-tokens", "many"), ["--output-tokens is 'many'"]),
        ({}, ("--timeout", "soon"), ["--timeout is 'soon'"]),
        ({}, ("--max-ttft", "-1"), ["--max-ttft is '-1'"]),
    ],
)
def test_what_cannot_be_observed_is_one_message(  # noqa: PLR0917 - fixtures
    serve: Serve, observe: Observe, tmp_path: Path, settings: dict[str, Any], options: tuple[str, ...], said: list[str]
) -> None:
    """Nothing measured: exit code 2, the value, the limit and what to do next; no file."""
    done = observe(serve(**settings), *options)
    assert done.returncode == 2, done.stderr
    for part in said:
        assert part in done.stderr
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "cannot be reached"),
        ("http://no-such-host.invalid", "no such host is known"),
        ("127.0.0.1:8000", "must be http:// or https://"),
        ("http://me:secret@127.0.0.1:1", "holds more than host, port and path"),
        ("http://127.0.0.1:99999", "must be http:// or https://"),
    ],
)
def test_a_wrong_address_is_one_message(observe: Observe, url: str, said: str) -> None:
    """An address nobody answers at, or that is none, is named with a hint."""
    done = observe(url)
    assert done.returncode == 2
    assert said in done.stderr
    assert "hint:" in done.stderr
    assert "secret" not in done.stderr


def test_tls_that_is_not_trusted_is_one_message(serve: Serve, observe: Observe, tmp_path: Path) -> None:
    """A self-signed certificate is refused with the way to trust it; a server that speaks no TLS is not waited for."""
    pem = tmp_path / "both.pem"
    subprocess.run(
        [*_SELF_SIGNED, "-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")],
        check=True,
        capture_output=True,
    )
    pem.write_text((tmp_path / "key.pem").read_text() + (tmp_path / "certificate.pem").read_text())
    done = observe(serve(certificate=str(pem)))
    assert done.returncode == 2
    assert "its certificate is not trusted" in done.stderr
    assert "SSL_CERT_FILE" in done.stderr
    done = observe(serve().replace("http:", "https:"), "--timeout", "0.5s")
    assert done.returncode == 2
    assert "no connection within 0.5 s" in done.stderr


def test_the_key_reaches_the_server_and_nothing_else(
    serve: Serve, observe: Observe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is sent as a header; even a server that repeats it in its errors does not get it into an answer."""
    monkeypatch.setenv("MY_KEY", "sk-very-secret")
    url = serve(key="sk-very-secret", fails_after=4, trouble="refuses")
    done = observe(url, "--api-key-env", "MY_KEY")
    assert done.returncode == 4
    assert "*** is not served" in done.stderr
    written = (tmp_path / "results.jsonl").read_text()
    assert "sk-very-secret" not in done.stderr + done.stdout + written


def test_the_seed_draws_the_requests(serve: Serve, observe: Observe, tmp_path: Path) -> None:
    """The same seed asks for the same lengths in the same order, another seed for others."""
    url = serve()
    drawn = []
    for seed in ("0", "0", "1"):
        assert observe(url, "--seed", seed, "--max-concurrency", "1", "--input-tokens", "5-900").returncode == 0
        drawn.append(_results(tmp_path)[0]["input_lens"][:8])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_file_that_cannot_be_written_is_told_before_the_server_is_asked(
    serve: Serve, run_apex: Observe, tmp_path: Path
) -> None:
    """No load is put on a server whose results have no place."""
    url = serve()
    out = tmp_path / "absent" / "results.jsonl"
    done = run_apex("observe", url, "--model", "m", "--max-concurrency", "1", "-o", out)
    assert done.returncode == 1
    assert "absent" in done.stderr
    assert _seen(url)["paths"] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_keeps_what_was_measured(  # noqa: PLR0917 - fixtures
    serve: Serve, start: Start, wait_until: WaitUntil, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Ctrl-C ends the load at once; the answers until then are in the file, and the exit code is the signal's."""
    url = serve()
    command = [sys.executable, "-m", "simulator.cli", "observe", url, "--model", "m", "--max-concurrency", "4"]
    command += [*_SHORT, "--duration", "1h", "--requests", "3000", "-o", str(tmp_path / "results.jsonl")]
    process = start(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    wait_until(lambda: _seen(url)["answered"] > 20)
    process.send_signal(number)
    _, said = process.communicate()
    assert process.returncode == code, said
    assert "stopped: interrupted" in said
    (result,) = _results(tmp_path)
    assert result["completed"] > 10
    assert result["observed"]["ending"] == "interrupted"
