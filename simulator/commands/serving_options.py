"""The options that say what is served where and how, shared by the commands that simulate."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from simulator.commands.trace_options import workload_files
from simulator.engine_profiles.answer_chunks import LONGEST_INTERVAL
from simulator.engine_profiles.bundled_profiles import DEFAULT_PROFILE
from simulator.engine_profiles.graph_modes import MODE_NAMES, MOST_GRAPH_TOKENS

if TYPE_CHECKING:
    from simulator.engine_profiles.acceptance import Acceptance
    from simulator.model.spec import ModelSpec
    from simulator.serving import Serving
    from simulator.validation.asked import Asked
    from simulator.workload.parts import Traffic

Command = TypeVar("Command", bound=Callable[..., Any])


class _Finite(click.FloatRange):
    """A range that NaN and infinity are outside of."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def _shares(ctx: click.Context, param: click.Parameter, value: str | None) -> "Acceptance | None":
    """Read one number, or several with commas between them; which of these may be is checked with the drafts."""
    if value is None:
        return None
    shares = [_Finite(0, 1).convert(part, param, ctx) for part in value.split(",")]
    return tuple(shares) if len(shares) > 1 else shares[0]


extension_option = click.option(
    "--extension",
    "extensions",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE|MODULE",
    help="Python file or module that registers cells or architectures of your own (docs/guides/add_a_model.md).",
)

engine_option = click.option(
    "--engine",
    default=DEFAULT_PROFILE,
    metavar="NAME|TOML",
    help="Engine profile, bundled or a file (`apex engines`), or a newer version.",
)

_PRICES = (
    click.option(
        "--costs",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Fitted cost model (`apex fit`), or analytic; the bundled one without it.",
    ),
    click.option(
        "--out-of-domain",
        type=click.Choice(["roofline", "clip", "raise"]),
        default="roofline",
        help="How a fitted model answers outside its measured domain.",
    ),
)

unsupported_option = click.option(
    "--allow-unsupported", is_flag=True, help="Simulate models and layouts the engine does not support."
)

# Settings of the engine, by the names of `Overrides` but for `_FIELDS`.
_SETTINGS = (
    click.option("--max-num-seqs", type=click.IntRange(min=1), help="Sequences per step and replica."),
    click.option("--max-num-batched-tokens", type=click.IntRange(min=1), help="Tokens per step and replica."),
    click.option("--max-model-len", type=click.IntRange(min=1), help="Longest sequence; that of the trace without it."),
    click.option(
        "--gpu-memory-utilization",
        type=_Finite(0, 1, min_open=True),
        help="Share of memory used: of all (vLLM), of what is free before (SGLang) or after loading (TensorRT-LLM).",
    ),
    click.option("--num-gpu-blocks", type=click.IntRange(min=2), help="KV blocks, from the log of a real server."),
    click.option("--block-size", type=click.IntRange(min=1), help="Tokens per KV block."),
    click.option("--prefix-caching/--no-prefix-caching", default=None, help="Reuse KV of shared prefixes."),
    click.option("--chunked-prefill/--no-chunked-prefill", default=None, help="Split prompts over steps."),
    click.option("--async-scheduling/--no-async-scheduling", default=None, help="Schedule one step ahead."),
    click.option(
        "--scheduler-recv-interval",
        type=click.IntRange(1, 1000),
        help="Decode steps between two looks for requests that have arrived (SGLang).",
    ),
    click.option("--enforce-eager", is_flag=True, help="Capture no CUDA graphs: the host starts every kernel."),
    click.option(
        "--cudagraph-mode",
        type=click.Choice(MODE_NAMES),
        help="Steps that run as one CUDA graph, in pieces or without (vLLM).",
    ),
    click.option(
        "--max-cudagraph-capture-size",
        type=click.IntRange(1, MOST_GRAPH_TOKENS),
        help="Tokens of the largest step that is captured as a CUDA graph.",
    ),
    click.option(
        "--stream-interval",
        type=click.IntRange(1, LONGEST_INTERVAL),
        help="Tokens of an answer that the server sends together; the engine's own without it.",
    ),
    click.option("--speculative-tokens", type=click.IntRange(min=1), help="Draft tokens per sequence and step."),
    click.option(
        "--speculative-acceptance",
        callback=_shares,
        metavar="SHARE[,SHARE...]",
        help="Probability that a draft is right, given those before it were; or the share accepted of each draft of a "
        "step, as vLLM logs it.",
    ),
    click.option(
        "--speculative-method",
        type=click.Choice(["ngram", "draft_model", "mtp"]),
        help="Where drafts come from: the text, a draft model, or the model's own prediction layer.",
    ),
    click.option(
        "--draft-step-s",
        type=_Finite(0, 1),
        help="Seconds the draft model adds to a step; none for drafts looked up in the text.",
    ),
    click.option(
        "--batch-wait-timeout-iters",
        type=click.IntRange(0, 2**20),
        help="TensorRT-LLM: steps a prompt waits for others while sequences decode.",
    ),
    click.option(
        "--batch-wait-max-tokens-ratio",
        type=_Finite(0, 1),
        help="TensorRT-LLM: share of the tokens per step that ends this wait.",
    ),
    click.option(
        "--attention-dp-timeout-iters",
        type=click.IntRange(0, 2**20),
        help="TensorRT-LLM: steps a rank's prompt waits until every rank has one; 0 is enable_balance: false.",
    ),
    click.option(
        "--attention-dp-batching-wait-iters",
        type=click.IntRange(0, 2**20),
        help="TensorRT-LLM: steps prompts wait once every rank has one.",
    ),
    click.option(
        "--router",
        type=click.Choice(["round_robin", "vllm", "least_outstanding", "prefix"]),
        help="How requests are spread over replicas.",
    ),
)

_OPTIONS = (
    click.option(
        "--model",
        required=True,
        metavar="NAME|ID|PATH",
        help="Bundled model, Hugging Face id, or config.json (docs/reference/models.md).",
    ),
    extension_option,
    click.option("--cluster", required=True, metavar="NAME|TOML", help="Bundled cluster, sized name or TOML file."),
    click.option("--trace", required=True, metavar="FILE|TEXT", help="Request trace, or a generated one as text."),
    *_PRICES,
    click.option(
        "--usd-per-device-hour",
        type=_Finite(min=0),
        help="Price of one device, for USD per million tokens; the cluster file's without it.",
    ),
    engine_option,
    unsupported_option,
    click.option(
        "--slo",
        "slos",
        multiple=True,
        metavar="METRIC<=LIMIT",
        help="Limit: ttft_p99<=500ms on the plan, ttft<=500ms on a request (goodput).",
    ),
    click.option(
        "--mm-encoder-tp-mode",
        type=click.Choice(["weights", "data"]),
        help="Cut the encoder of images over the tensor ranks, or spread whole images over them (vLLM, SGLang).",
    ),
    *_SETTINGS,
)

# The same for runs that were measured: what a result says itself may be left out.
_MEASURED_OPTIONS = (
    click.option(
        "--model",
        metavar="NAME|ID|PATH",
        help="Bundled model, Hugging Face id, or config.json; the one that the result names without it.",
    ),
    extension_option,
    click.option("--cluster", metavar="NAME|TOML", help="Bundled cluster, sized name or TOML file."),
    click.option("--plan", metavar="PLAN", help="For example dp2-tp4, pp2-tp4-kv.fp8 or prefill.tp4+decode.tp4."),
    *_PRICES,
    click.option(
        "--engine",
        metavar="NAME|TOML",
        help="Engine profile, bundled or a file (`apex engines`); that of the result, or the newest, without it.",
    ),
    unsupported_option,
    *_SETTINGS,
)

# Flags that are shorter than the engine's own name of the setting.
_FIELDS: Final = {"prefix_caching": "enable_prefix_caching", "chunked_prefill": "enable_chunked_prefill"}


def serving_options(command: Command) -> Command:
    """Add the serving options to a command; pass what click collects to `load_serving`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def measured_server_options(command: Command) -> Command:
    """Add the options that say which server results were measured on; pass what click collects to `asked_of`."""
    for option in reversed(_MEASURED_OPTIONS):
        command = option(command)
    return command


def asked_of(
    *,
    model: str | None,
    cluster: str | None,
    plan: str | None,
    engine: str | None,
    costs: Path | None,
    out_of_domain: str,
    allow_unsupported: bool,
    extensions: tuple[Path, ...],
    concurrency: int | None = None,
    request_rate_per_s: float | None = None,
    **settings: Any,
) -> "Asked":
    """Return what was said of a measured server; ``settings`` are options by their flags."""
    from simulator.validation.asked import Asked

    return Asked(
        model=model,
        cluster=cluster,
        plan=plan,
        engine=engine,
        costs=costs,
        out_of_domain=out_of_domain,
        allow_unsupported=allow_unsupported,
        extensions=extensions,
        settings={_FIELDS.get(flag, flag): value for flag, value in settings.items()},
        concurrency=concurrency,
        request_rate_per_s=request_rate_per_s,
    )


def input_files(trace: str, options: Mapping[str, Any]) -> list[str]:
    """Return every text of the serving options that may name a file that is read, parts of a workload's text too."""
    named = [*(options.get(name) for name in ("model", "cluster", "costs")), *options.get("extensions", ())]
    model = Path(options["model"]) / "config.json"
    texts = [str(text) for text in named if text is not None]
    return [*texts, str(model), *profile_files(options["engine"]), *workload_files(trace)]


def profile_files(engine: str) -> list[str]:
    """Return the files a profile of a person's own is read from: its own and those it extends."""
    from simulator.engine_profiles.inheritance import own_files

    return list(map(str, own_files(engine)))


def load_serving(
    *,
    model: str,
    extensions: tuple[Path, ...],
    cluster: str,
    costs: Path | None,
    out_of_domain: str,
    usd_per_device_hour: float | None,
    engine: str,
    allow_unsupported: bool,
    **settings: Any,
) -> "Serving":
    """Read model, cluster, cost model and engine profile; raises each room's own error.

    ``settings`` are the options that replace a default of the engine, by their flags.
    """
    from cluster_specs.load import load_cluster
    from costmodel.bundled_fits import choose_costs
    from simulator.engine_profiles.engine_profile import load_profile
    from simulator.feasible.server_setup import Overrides
    from simulator.serving import Serving

    served = _model_with(model, extensions)
    spec = load_cluster(cluster)
    if usd_per_device_hour is not None:
        spec = spec.model_copy(update={"usd_per_device_hour": usd_per_device_hour})
    return Serving(
        model=served,
        cluster=spec,
        profile=load_profile(engine),
        allow_unsupported=allow_unsupported,
        costs=lambda clock_mhz: choose_costs(costs, spec, clock_mhz, out_of_domain=out_of_domain),
        overrides=Overrides(**{_FIELDS.get(flag, flag): value for flag, value in settings.items()}),
    )


def _model_with(model: str, extensions: tuple[Path, ...]) -> "ModelSpec":
    from simulator.model.load_model import load_model

    if not extensions:
        return load_model(model)
    from simulator.model.extension import load_extensions, refuse_unused

    loaded = load_extensions(extensions)
    served = load_model(model)
    refuse_unused(loaded, served)
    return served


def bound_to_model(serving: "Serving", workload: "Traffic") -> "tuple[Serving, Traffic]":
    """Let the model's encoder take the images and audio of a workload, and say on stderr what they become.

    Raises ``UserError`` where it takes none. A workload in parts has none.
    """
    from dataclasses import replace

    from simulator.feasible.encoder_rows import with_encoder_mode
    from simulator.model.bind_workload import bind_workload
    from simulator.workload.workload import Workload

    if not isinstance(workload, Workload):
        return serving, workload
    model, bound = bind_workload(serving.model, workload)
    for note in bound.notes[len(workload.notes) :]:
        click.echo(f"note: {note}", err=True)
    model = with_encoder_mode(model, serving.profile, serving.overrides.mm_encoder_tp_mode)
    return replace(serving, model=model), bound


def say_when_compiling() -> None:
    """Tell a person what the first seconds go to where the engine was not compiled at installation."""
    from simulator.engine.native.load import ENGINE_CODE

    ENGINE_CODE.on_compilation(lambda: click.echo("compiling the simulator, once: some 6 s", err=True))
