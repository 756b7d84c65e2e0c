"""vLLM's own scheduler on a simulated clock; run by an interpreter that has vLLM (`docs/reference/conformance.md`).

Reads one case of ``scheduler_cases`` per line from stdin and prints its log, one line of JSON each. Scheduler, KV cache
manager, block pool and both loops of ``EngineCore`` (``step`` and ``step_with_batch_queue``) are vLLM's. The executor
alone is a stand-in: it knows how long a batch takes on every pipeline stage, and its future, when it is asked, takes
the clock to the end of that batch and gives one token to every request whose prompt is complete. No model is loaded.

A log holds ``steps``, one row each of decision, start and end in ps, prefill tokens, prefills, decodes, causal pairs of
the chunks and KV tokens the decodes read, then running, waiting and free blocks after the decision; and ``requests``,
one row each of first admission, first token and finish in ps (-1: never), preemptions, tokens found in the prefix cache
at the first admission. Source: vLLM 0.32 and 0.33, ``v1/engine/core.py`` and ``v1/core/``.
"""

import heapq
import json
import logging
import os
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any, Final

NEVER: Final = -1
_MOST_STEPS: Final = 200_000
_OWN_TOKENS: Final = 10**9  # token numbers of what no id names, and of answers
_ANSWERS: Final = 5 * 10**9
_MODEL: Final = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "vocab_size": 1000,
    "max_position_embeddings": 1 << 20,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _hide_broken_packages() -> None:
    """Let packages built for another torch look as if they were not installed: nothing here needs them."""
    for name in ("torchvision", "torchaudio", "torchcodec"):
        try:
            __import__(name)
        except Exception:
            sys.modules[name] = None  # type: ignore[assignment]  # importlib's way to say that there is none


class Batch:
    """Future of a batch: to ask for its result is to wait until it has ended."""

    def __init__(self, device: "Device", end_ps: int, output: Any) -> None:
        self._device, self._end_ps, self._output = device, end_ps, output

    def result(self) -> Any:
        """Take the clock to the end of the batch."""
        self._device.now_ps = max(self._device.now_ps, self._end_ps)
        self._device.result_ps = self._end_ps
        self._device.results += 1
        return self._output


class Device:
    """Stand-in for the executor: pipeline stages that take stated times, and the log of what runs on them."""

    def __init__(self, case: dict[str, Any], scheduler: Any, queues_batches: bool) -> None:
        self.now_ps = 0
        self.result_ps = 0  # end of the batch whose output was asked for last
        self.results = 0
        self.steps: list[list[int]] = []
        self.requests = [[NEVER, NEVER, NEVER, 0, 0] for _ in case["prompts"]]
        self._case, self._scheduler, self._queues_batches = case, scheduler, queues_batches
        self._stage_free_ps = [0] * case["stages"]
        self._last_end_ps = 0
        self._token = _ANSWERS
        self._back_ps: dict[str, int] = {}  # when the last token of a request is back
        self._prefilling: set[str] = set()
        self._launched: Any = None
        preempt = scheduler._preempt_request

        def noted(request: Any, *args: Any, **kwargs: Any) -> None:
            self.requests[int(request.request_id)][3] += 1
            self._prefilling.discard(request.request_id)
            preempt(request, *args, **kwargs)

        scheduler._preempt_request = noted

    def execute_model(self, decided: Any, non_block: bool = False) -> Batch:  # noqa: ARG002 - the executor's signature
        """Put a batch on the device."""
        from vllm.v1.outputs import ModelRunnerOutput

        if not decided.num_scheduled_tokens:
            # An empty batch has no duration; where batches queue, its turn comes after those before it.
            end_ps = self._last_end_ps if self._queues_batches else self.now_ps
            self._launched = Batch(self, end_ps, ModelRunnerOutput([], {}))
            return self._launched
        resumed = decided.scheduled_cached_reqs.resumed_req_ids
        self._prefilling |= {new.req_id for new in decided.scheduled_new_reqs} | set(resumed)
        names = list(decided.num_scheduled_tokens)
        counts, ready_ps = self._count(decided.num_scheduled_tokens)
        start_ps, end_ps = self._run(sum(decided.num_scheduled_tokens.values()), len(names), ready_ps)
        sampled: list[list[int]] = []
        for name in names:
            is_chunk = self._scheduler.requests[name].is_prefill_chunk
            sampled.append([] if is_chunk else [self._next_token()])
            if not is_chunk:
                self._prefilling.discard(name)
                self._back_ps[name] = end_ps
        self._last_end_ps = end_ps
        scheduler = self._scheduler
        waiting = len(scheduler.waiting) + len(scheduler.kv_holding_waiting)
        free = scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        self.steps.append([self.now_ps, start_ps, end_ps, *counts, len(scheduler.running), waiting, free])
        output = ModelRunnerOutput(names, {name: at for at, name in enumerate(names)}, sampled)
        self._launched = Batch(self, end_ps, output)
        return self._launched

    def sample_tokens(self, grammar: Any, non_block: bool = False) -> Batch:  # noqa: ARG002 - the executor's signature
        """Return the batch that was put on the device last."""
        return self._launched

    def _next_token(self) -> int:
        self._token += 1
        return self._token

    def _count(self, scheduled: dict[str, int]) -> tuple[list[int], int]:
        """Count the tokens of a batch, and say when the last token that a decode in it needs is back."""
        tokens = prefills = decodes = pairs = reads = 0
        ready_ps = self.now_ps
        for name, count in scheduled.items():
            computed = self._scheduler.requests[name].num_computed_tokens
            row = self.requests[int(name)]
            if name not in self._prefilling:
                decodes += 1
                reads += computed
                ready_ps = max(ready_ps, self._back_ps.get(name, 0))
                continue
            before = computed - count
            if row[0] == NEVER:
                row[0], row[4] = self.now_ps, before
            tokens += count
            prefills += 1
            pairs += count * before + count * (count + 1) // 2
        return [tokens, prefills, decodes, pairs, reads], ready_ps

    def _run(self, tokens: int, rows: int, ready_ps: int) -> tuple[int, int]:
        """Send a batch through all stages: when the first one starts it, and when the last one ends it."""
        case, first_ps = self._case, NEVER
        for stage in range(case["stages"]):
            start_ps = max(ready_ps, self._stage_free_ps[stage])
            ready_ps = start_ps + case["step_ps"] + tokens * case["token_ps"]
            if stage == case["stages"] - 1:
                ready_ps += rows * case["seq_ps"]
            self._stage_free_ps[stage] = ready_ps
            first_ps = start_ps if first_ps == NEVER else first_ps
        return first_ps, ready_ps


class Client:
    """Sends the requests of a case: at their times, after others, or from slots that each wait for an answer."""

    def __init__(self, case: dict[str, Any]) -> None:
        self._is_closed = case["concurrency"] > 0
        self._count = len(case["prompts"])
        self._sent = 0  # by the slots of a closed loop
        self._after = case.get("after", [-1] * self._count)
        self._think_ps = case.get("think_ps", [0] * self._count)
        # When what is sent: by a slot the next request, else the one with that number.
        self._due = [(0, slot) for slot in range(min(case["concurrency"], self._count))]
        if not self._is_closed:
            self._due = [(time, i) for i, time in enumerate(case["arrivals"]) if self._after[i] < 0]

    def next_ps(self) -> int | None:
        """Time of the next request; None if there is none before an answer comes."""
        is_over = self._is_closed and self._sent == self._count
        return self._due[0][0] if self._due and not is_over else None

    def send(self) -> int:
        """Return the number of the request that is sent next."""
        number = heapq.heappop(self._due)[1]
        self._sent += 1
        return self._sent - 1 if self._is_closed else number

    def hear(self, time_ps: int, number: int) -> None:
        """Take the answer of a request, or its refusal."""
        if self._is_closed:
            heapq.heappush(self._due, (time_ps + 1, number))
        for follower, before in enumerate(self._after):
            if before == number:
                heapq.heappush(self._due, (time_ps + self._think_ps[follower], follower))


class Vllm:
    """One vLLM, imported once, for any number of cases."""

    def __init__(self, folder: Path) -> None:
        logging.disable(logging.WARNING)  # the CPU platform warns of every small block
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        _hide_broken_packages()
        from vllm.model_executor.models import registry
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash

        # A process of its own would look at the model class without those packages hidden.
        registry._run_in_subprocess = lambda look: look()
        (folder / "config.json").write_text(json.dumps(_MODEL))
        self._folder, self._hash, self._hasher = folder, sha256, get_request_block_hasher
        self._models: dict[int, Any] = {}
        init_none_hash(sha256)

    def _config(self, case: dict[str, Any]) -> Any:
        """Return vLLM's configuration with the limits of a case."""
        from vllm.config import CacheConfig, DeviceConfig, ModelConfig, SchedulerConfig, VllmConfig

        length = case["max_model_len"]
        if length not in self._models:
            self._models[length] = ModelConfig(
                model=str(self._folder), dtype="bfloat16", max_model_len=length, seed=0, skip_tokenizer_init=True
            )
        # One block is vLLM's own, for nothing; a share half a block above gives the stated number when rounded down.
        share = (case["watermark_blocks"] + 0.5) / (case["num_blocks"] + 1) if case["watermark_blocks"] else 0.0
        scheduler = SchedulerConfig(
            max_model_len=length,
            is_encoder_decoder=False,
            max_num_seqs=case["max_num_seqs"],
            max_num_batched_tokens=case["max_num_batched_tokens"],
            enable_chunked_prefill=case["is_chunked"],
            long_prefill_token_threshold=case["long_prefill"],
            async_scheduling=case["is_async"],
            scheduler_reserve_full_isl=case["reserve_full_isl"],
            watermark=share,
        )
        cache = CacheConfig(
            block_size=case["block_size"], gpu_memory_utilization=0.9, enable_prefix_caching=case["is_caching"]
        )
        os.environ.pop("VLLM_USE_V2_MODEL_RUNNER", None)
        config = VllmConfig(
            model_config=self._models[length],
            scheduler_config=scheduler,
            cache_config=cache,
            device_config=DeviceConfig(device="cpu"),
        )
        # The CPU platform puts some limits right for its own kernels, and its constructor refuses pipelines and the
        # second model runner, which needs Triton; the scheduler reads all of them only afterwards.
        config.cache_config.block_size = case["block_size"]
        config.cache_config.enable_prefix_caching = case["is_caching"]
        config.cache_config.num_gpu_blocks = case["num_blocks"] + 1
        config.scheduler_config.async_scheduling = case["is_async"]
        config.scheduler_config.max_num_seqs = case["max_num_seqs"]
        config.scheduler_config.max_num_batched_tokens = case["max_num_batched_tokens"]
        config.scheduler_config.max_num_scheduled_tokens = None
        config.scheduler_config.enable_chunked_prefill = case["is_chunked"]
        config.parallel_config.pipeline_parallel_size = case["stages"]
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1" if case["runner"] == "v2" else "0"
        return config

    def _core(self, case: dict[str, Any]) -> tuple[Any, Device]:
        """Return an engine core around a scheduler with the limits of a case, and its device."""
        import torch
        from vllm.v1.engine.core import EngineCore
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        config = self._config(case)
        block = case["block_size"]
        spec = FullAttentionSpec(block_size=block, num_kv_heads=1, head_size=64, dtype=torch.bfloat16)
        kv = KVCacheConfig(
            num_blocks=case["num_blocks"] + 1, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        kv.hash_block_size = block
        scheduler = config.scheduler_config.get_scheduler_cls()(
            vllm_config=config,
            kv_cache_config=kv,
            structured_output_manager=StructuredOutputManager(config),
            block_size=block,
            log_stats=False,
        )
        core = EngineCore.__new__(EngineCore)  # its constructor would start workers
        core.vllm_config, core.scheduler = config, scheduler
        core.log_stats = core.is_mm_encoder_only = core.is_pooling_model = core.check_for_draft_tokens = False
        core._weight_version = None
        core._process_aborts_queue = lambda: None
        core.async_scheduling = case["is_async"]
        core.batch_queue_size = config.max_concurrent_batches
        core.batch_queue = deque(maxlen=core.batch_queue_size) if core.batch_queue_size > 1 else None
        device = Device(case, scheduler, core.batch_queue is not None)
        core.model_executor = device
        return core, device

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        """Serve a case; returns its log."""
        core, device = self._core(case)
        client = Client(case)
        answers: dict[int, list[int]] = {}
        step = core.step if core.batch_queue is None else core.step_with_batch_queue
        idle = 0
        while True:
            while (due := client.next_ps()) is not None and due <= device.now_ps:
                number = client.send()
                if not self._add(core.scheduler, case, number, answers):
                    client.hear(due, number)
            if not core.scheduler.has_requests() and not core.batch_queue:
                if due is None:
                    return {"steps": device.steps, "requests": device.requests}
                device.now_ps = max(device.now_ps, due)
                continue
            before = (device.now_ps, len(device.steps), device.results)
            outputs, _ = step()
            for output in outputs[0].outputs if outputs and 0 in outputs else []:
                number = int(output.request_id)
                row = device.requests[number]
                answers.setdefault(number, []).extend(output.new_token_ids)
                if output.new_token_ids and row[1] == NEVER:
                    row[1] = device.result_ps
                if output.finish_reason is not None:
                    row[2] = device.result_ps
                    client.hear(device.result_ps, number)
            idle = idle + 1 if before == (device.now_ps, len(device.steps), device.results) else 0
            if idle > 50 or len(device.steps) > _MOST_STEPS:
                raise RuntimeError(f"{case['name']}: vLLM schedules nothing more, or without end")

    def _add(self, scheduler: Any, case: dict[str, Any], number: int, answers: dict[int, list[int]]) -> bool:
        """Hand a request to the scheduler; False if it exceeds the context, where the server refuses it."""
        from vllm.sampling_params import SamplingParams
        from vllm.v1.request import Request

        prompt, output, size = case["prompts"][number], case["outputs"][number], case["trace_block"]
        if prompt + output > case["max_model_len"]:
            return False
        if "after" in case:
            tokens = self._history(case, number, answers)
        else:
            tokens = [name * size + at for name in case["ids"][number] for at in range(size)]
        tokens += [_OWN_TOKENS + number * 10_000 + at for at in range(prompt - len(tokens))]
        sampling = SamplingParams(max_tokens=output, ignore_eos=True)
        sampling.update_from_generation_config({}, 2)
        scheduler.add_request(
            Request(
                request_id=str(number),
                prompt_token_ids=tokens,
                sampling_params=sampling,
                pooling_params=None,
                arrival_time=float(number),
                block_hasher=self._hasher(case["block_size"], self._hash) if case["is_caching"] else None,
            )
        )
        return True

    def _history(self, case: dict[str, Any], number: int, answers: dict[int, list[int]]) -> list[int]:
        """Return the prompt and the answer of the turn before a request, with which its own prompt begins."""
        before = case["after"][number] if "after" in case else -1
        if before < 0:
            return []
        ahead = self._history(case, before, answers)
        own = [_OWN_TOKENS + before * 10_000 + at for at in range(case["prompts"][before] - len(ahead))]
        return ahead + own + answers[before]


def main() -> None:
    """Answer the cases on stdin; the first line says which vLLM answers."""
    answers, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory() as folder:
        vllm = Vllm(Path(folder))
        from importlib.metadata import version

        import vllm as package

        print(json.dumps({"version": getattr(package, "__version__", version("vllm"))}), file=answers, flush=True)
        for line in sys.stdin:
            case = json.loads(line)
            try:
                log = vllm.run(case)
            except Exception as error:
                log = {"error": f"{type(error).__name__}: {error}"[:500]}
            print(json.dumps(log), file=answers, flush=True)


if __name__ == "__main__":
    main()
