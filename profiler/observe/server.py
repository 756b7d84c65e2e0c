"""What a server is before any load: its models, its version, its metrics, and the requests it takes."""

from dataclasses import replace
from typing import Any, Final

import numpy as np

from cluster_specs.errors import UserError
from cluster_specs.files.shown import listed, shown
from cluster_specs.lazy_dataclass import dataclass
from profiler.observe.answer import Answer, ServerFailure
from profiler.observe.connection import Connection, refusal
from profiler.observe.facts import ObservedServer
from profiler.observe.metrics import EngineMetrics, read_metrics
from profiler.observe.prompts import Lengths, PromptForm, forms_of

_OWNERS: Final = {"vllm": "vllm", "sglang": "sglang", "tensorrt_llm": "tensorrt-llm"}
# TensorRT-LLM's /metrics hands out step records once, to whoever asks first: it is left to those who rely on it.
_METRICS: Final = {"tensorrt-llm": "/prometheus/metrics"}
_PROBE_TOKENS: Final = 16
_PROBE_ANSWER: Final = 4
_PROBE_WORDS_TOKENS: Final = 260  # some 200 words


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that answers, and how it is asked; ``metrics_path`` is None where it tells no metrics."""

    facts: ObservedServer
    form: PromptForm
    metrics_path: str | None
    remarks: tuple[str, ...]


async def find_server(connection: Connection, model: str, inputs: Lengths, outputs: Lengths) -> Server:
    """Ask the server what it is; raises ``UserError`` for one that cannot be observed with these lengths."""
    card = await _card_of(connection, model)
    engine = _OWNERS.get(str(card.get("owned_by")))
    max_model_len = card.get("max_model_len")
    if type(max_model_len) is not int or max_model_len < 1:
        max_model_len = None
    if max_model_len is not None and inputs.high + outputs.high > max_model_len:
        raise UserError(
            f"{connection.url}: --input-tokens {inputs} and --output-tokens {outputs} make up to "
            f"{inputs.high + outputs.high} tokens, the server takes {max_model_len} (max_model_len)",
            hint="ask for shorter prompts or answers",
        )
    path = _METRICS.get(engine or "", "/metrics")
    metrics, why_not = await _metrics_at(connection, path)
    found = ObservedServer(
        engine=engine or (metrics.engine if metrics else None),
        version=await _version(connection),
        model=model,
        max_model_len=max_model_len,
        num_gpu_blocks=metrics.num_gpu_blocks if metrics else None,
        block_size=metrics.block_size if metrics else None,
        engines=metrics.engines if metrics else None,
    )
    remarks = [] if metrics else [f"no metrics: {why_not}"]
    if metrics and metrics.reading.running:
        remarks.append(
            f"{metrics.reading.running:g} requests were running before the first was sent: others use this server, "
            "and its times hold their load too"
        )
    form, probe_remarks = await _form_of(connection, model)
    return Server(facts=found, form=form, metrics_path=path if metrics else None, remarks=(*remarks, *probe_remarks))


async def _card_of(connection: Connection, model: str) -> dict[str, Any]:
    status, document = await connection.document_at("/v1/models")
    if status != 200:
        raise refusal(f"{connection.url}/v1/models", status, "")
    cards = document.get("data") if isinstance(document, dict) else None
    if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
        raise UserError(
            f"{connection.url}/v1/models: lists no models", hint="is it the address of an OpenAI-compatible server?"
        )
    found: dict[str, Any] | None = next((card for card in cards if card.get("id") == model), None)
    if found is not None:
        return found
    raise UserError(
        f"{connection.url}: serves no model {shown(model)}",
        hint=f"it serves {listed((card.get('id') for card in cards), 8)}; give one of them as --model",
    )


async def _version(connection: Connection) -> str | None:
    try:
        status, document = await connection.document_at("/version")
    except ServerFailure:
        return None
    version = document.get("version") if status == 200 and isinstance(document, dict) else None
    return version[:80] if isinstance(version, str) and version else None


async def _metrics_at(connection: Connection, path: str) -> tuple[EngineMetrics | None, str]:
    try:
        status, text = await connection.text_at(path)
        if status != 200:
            return None, f"GET {path} answers HTTP {status}"
        metrics = read_metrics(text, path)
    except UserError as error:
        return None, str(error)
    return metrics, "" if metrics else f"GET {path} tells none of vLLM, SGLang or TensorRT-LLM"


async def _form_of(connection: Connection, model: str) -> tuple[PromptForm, list[str]]:
    """Find the most exact form of request that the server takes, by asking for a few tokens."""
    rng = np.random.default_rng(0)
    refused: ServerFailure | None = None
    for form in forms_of(model):
        length = _PROBE_WORDS_TOKENS if form.top_id is None else _PROBE_TOKENS
        request = form.write(rng, length, _PROBE_ANSWER)
        answer = Answer(input_tokens=length, output_tokens=_PROBE_ANSWER)
        try:
            await connection.complete(request.body, answer)
        except ServerFailure as error:
            if error.status not in {400, 422}:
                raise
            refused = error
            continue
        return _told(form, answer)
    assert refused is not None
    raise refused


def _told(form: PromptForm, answer: Answer) -> tuple[PromptForm, list[str]]:
    remarks = []
    if form.top_id is None:
        if not answer.is_counted:
            raise UserError("the server takes no token ids and counts no tokens: lengths of prompts stay unknown")
        form = replace(form, tokens_per_word=form.tokens_per_word * answer.input_tokens / _PROBE_WORDS_TOKENS)
        remarks.append("prompts are words: their lengths are counted by the server and near those asked for")
    elif answer.is_counted and answer.input_tokens != _PROBE_TOKENS:
        remarks.append(f"the server counts {answer.input_tokens} tokens for a prompt of {_PROBE_TOKENS} ids")
    if not form.ignores_eos or (answer.is_counted and answer.output_tokens < _PROBE_ANSWER):
        remarks.append("answers may end early (ignore_eos is not taken): their tokens are counted")
    if not answer.is_counted:
        remarks.append("no usage in the stream: lengths are those asked for")
    return form, remarks


async def read_now(connection: Connection, server: Server) -> EngineMetrics | None:
    """Read the metrics once more; None where there are none, or none at this moment."""
    if server.metrics_path is None:
        return None
    metrics, _ = await _metrics_at(connection, server.metrics_path)
    return metrics
