"""`apex observe`: options, the table, and nothing else.

Exit codes: 0 the ladder was climbed, or ended at a limit of latency or queue; 2 nothing could be measured; 4 the server
began to fail, what was measured until then is kept; 130 interrupted, what was measured is kept.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cluster_specs.command_line import Command, check_outputs, strict_json
from cluster_specs.errors import UserError
from cluster_specs.files.shown import shown

if TYPE_CHECKING:
    from profiler.observe.session import Observation, ObserveRequest

EXIT_SERVER_FAILED: Final = 4
_INTERRUPTED: Final = 128  # and the number of the signal, as shells count


@click.command(cls=Command)
@click.argument("url")
@click.option("--model", required=True, help="Name under which the server serves it.")
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help="File for the results, one per line.")
@click.option("--max-rate", type=float, help="Poisson arrivals, doubling up to this many requests/s and no further.")
@click.option("--max-concurrency", type=int, help="Closed loops, doubling up to this many requests and no further.")
@click.option("--duration", default="3m", show_default=True, help="Of all loads together, e.g. 90, 60s, 3m.")
@click.option("--requests", type=click.IntRange(1), help="Of one load at most.  [default: as fit into its time]")
@click.option("--input-tokens", default="128-1024", show_default=True, help="Length of prompts, or LOW-HIGH.")
@click.option("--output-tokens", default="64-256", show_default=True, help="Length of answers, or LOW-HIGH.")
@click.option("--max-ttft", default="10s", show_default=True, help="Stop when a first token takes longer.")
@click.option("--timeout", default="60s", show_default=True, help="Longest silence of the server; then it has failed.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of prompts, lengths and arrivals.")
@click.option(
    "--api-key-env",
    help="Environment variable that holds the server's key.  [default: no key is sent; it is never written]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the results without their requests as one JSON object.")
@click.pass_context
def observe(ctx: click.Context, /, *, url: str, out: Path, as_json: bool, **options: object) -> None:
    """Measure a running OpenAI-compatible server under a ladder of loads.

    Starts with one request alone and doubles up to --max-rate or --max-concurrency. Sends streaming completions with
    random prompts, reads /v1/models, /version and the metrics, touches nothing else; stops at once when the server
    fails, its queue runs away, or on Ctrl-C, and keeps what was measured. The file is read like one of `vllm bench
    serve --save-detailed`.
    """
    from cluster_specs.extras import require_extra

    require_extra("observe", "aiohttp", "prometheus_client", what="apex observe")
    from profiler.observe.session import observe as observe_server

    check_outputs([out], [])
    request = _request(url, out, **options)  # type: ignore[arg-type]  # click's own values
    found = observe_server(request, lambda line: click.echo(line, err=True))
    _tell(found, out, as_json=as_json)
    ctx.exit(_exit_code(found))


def _request(
    url: str,
    out: Path,
    *,
    model: str,
    max_rate: float | None,
    max_concurrency: int | None,
    duration: str,
    requests: int | None,
    input_tokens: str,
    output_tokens: str,
    max_ttft: str,
    timeout: str,
    seed: int,
    api_key_env: str | None,
) -> "ObserveRequest":
    """Check what click cannot; raises ``UserError``."""
    from profiler.duration import parse_duration_s
    from profiler.observe.connection import base_url
    from profiler.observe.ladder import ladder
    from profiler.observe.prompts import parse_lengths
    from profiler.observe.session import ObserveRequest

    duration_s = parse_duration_s(duration, "--duration")
    return ObserveRequest(
        url=base_url(url),
        model=model,
        rungs=ladder(max_rate, max_concurrency, duration_s),
        inputs=parse_lengths(input_tokens, "--input-tokens"),
        outputs=parse_lengths(output_tokens, "--output-tokens"),
        duration_s=duration_s,
        most_requests=requests,
        max_ttft_s=parse_duration_s(max_ttft, "--max-ttft"),
        timeout_s=parse_duration_s(timeout, "--timeout"),
        seed=seed,
        key=None if api_key_env is None else _key_in(api_key_env),
        out=out,
    )


def _key_in(variable: str) -> str:
    key = os.environ.get(variable, "")
    if not key or not (key.isascii() and key.isprintable()):
        raise UserError(
            f"--api-key-env {shown(variable)}: the environment has no such variable with a key of printable ASCII",
            hint=f"export {variable if variable.isidentifier() else 'NAME'}=...",
        )
    return key


def _tell(found: "Observation", out: Path, *, as_json: bool) -> None:
    from profiler.observe.summary import lines_of

    if as_json:
        lists = {"input_lens", "output_lens", "start_times", "ttfts", "itls", "errors"}
        results = [{name: value for name, value in result.items() if name not in lists} for result in found.results]
        click.echo(strict_json({"schema": 1, "ending": found.ending, "reason": found.reason, "results": results}))
    elif found.results:
        click.echo("\n".join(lines_of(found.results)))
    if found.results:
        click.echo(f"{out}: {len(found.results)} results", err=True)
    if found.ending != "whole":
        click.echo(f"stopped: {found.reason}", err=True)


def _exit_code(found: "Observation") -> int:
    if found.signal is not None:
        return _INTERRUPTED + found.signal
    return EXIT_SERVER_FAILED if found.ending == "failed" else 0
