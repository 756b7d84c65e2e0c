"""SGLang's own scheduler, radix cache and event loop on a simulated clock: one workload per line in, its log out.

Run by an interpreter that has SGLang (``docs/reference/conformance.md``); reads cases as JSON lines, writes ``@`` and a
result for each. What runs is the real ``Scheduler`` of that version: its ``event_loop_normal`` or
``event_loop_overlap``, ``get_next_batch_to_run``, ``PrefillAdder``, ``ScheduleBatch`` with retraction,
``SchedulerRecvSkipper``, ``RadixCache`` or ``ChunkCache``, and the pools of tokens and requests. Stand-ins: compiled
kernels that are never called, the model, which makes up tokens and takes the clock to the end of its batch, the streams
of the device, the sockets. Times are whole picoseconds.
"""

import contextlib
import dataclasses
import importlib.abc
import importlib.machinery
import json
import os
import sys
import traceback
import types
from types import SimpleNamespace
from typing import ClassVar
from unittest.mock import MagicMock

# Packages whose compiled parts a machine without a GPU cannot load, or that only other features of SGLang need.
STAND_INS = {"torchvision", "torchaudio", "torchcodec", "sgl_kernel", "flashinfer", "decord", "soundfile", "gguf"}
CONTEXT = 1 << 20


class _StandIn(types.ModuleType):
    """A module of which every name exists and nothing does anything."""

    __path__: ClassVar[list[str]] = []
    __version__ = "99.0"

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        value = MagicMock(name=f"{self.__name__}.{name}")
        setattr(self, name, value)
        return value


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):  # noqa: ARG002 - as the machinery calls it
        if name.split(".")[0] in STAND_INS:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _StandIn(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, _StandIns())
os.environ.setdefault("SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY", "0")

import sglang  # noqa: E402
import torch  # noqa: E402
import zmq  # noqa: E402
from sglang.srt.managers import scheduler as scheduler_module  # noqa: E402
from sglang.srt.managers.schedule_batch import Req  # noqa: E402
from sglang.srt.managers.scheduler import Scheduler  # noqa: E402
from sglang.srt.managers.scheduler_recv_skipper import SchedulerRecvSkipper  # noqa: E402
from sglang.srt.managers.utils import GenerationBatchResult  # noqa: E402
from sglang.srt.mem_cache import radix_cache as radix_module  # noqa: E402
from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator  # noqa: E402
from sglang.srt.mem_cache.cache_init_params import CacheInitParams  # noqa: E402
from sglang.srt.mem_cache.chunk_cache import ChunkCache  # noqa: E402
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool  # noqa: E402
from sglang.srt.mem_cache.radix_cache import RadixCache  # noqa: E402
from sglang.srt.sampling.sampling_params import SamplingParams  # noqa: E402
from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler  # noqa: E402
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm  # noqa: E402


class _ServedError(Exception):
    """The workload is served, or can never be."""


class _Ticks:
    """A clock whose every reading is later than the one before, so that the cache's order of use has no ties."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    perf_counter = time = monotonic


class _Device:
    """The model and its device: knows durations, makes up tokens, writes one row per batch."""

    def __init__(self, case: dict, scheduler: "Driven") -> None:
        self.case = case
        self.scheduler = scheduler
        self.now = 0
        self.free_at = 0
        self.token = 10**15
        self.steps: list[list[int]] = []

    def forward_batch_generation(self, batch, **_kwargs) -> GenerationBatchResult:
        """Log a batch and put it on the device."""
        case, scheduler = self.case, self.scheduler
        rows = len(batch.reqs)
        prefill = prefills = decodes = pairs = reads = 0
        if batch.forward_mode.is_extend():
            prefills = rows
            for req, length, before in zip(batch.reqs, batch.extend_seq_lens, batch.extend_prefix_lens, strict=True):
                prefill += length
                pairs += length * before + length * (length + 1) // 2
                seen = scheduler.seen[int(req.rid)]
                if seen[0] < 0:
                    seen[0] = self.now
                    seen[4] = before
        else:
            decodes = rows
            reads = int(batch.seq_lens.sum())
        duration = case["step_ps"] + (prefill + decodes) * case["token_ps"] + rows * case["seq_ps"]
        start = max(self.now, self.free_at)
        self.free_at = start + duration
        # Those that are over keep a seat until the next decode; the engine counts them apart.
        holders = prefills + sum(not req.finished() for req in scheduler.running_batch.reqs)
        free = scheduler.token_to_kv_pool_allocator.available_size() + scheduler.tree_cache.evictable_size()
        self.steps.append(
            [
                *(self.now, start, self.free_at, prefill, prefills, decodes, pairs, reads, holders),
                *(len(scheduler.waiting_queue), free),
            ]
        )
        if not scheduler.enable_overlap:
            self.now = self.free_at
        tokens = torch.arange(self.token, self.token + rows, dtype=torch.int64)
        self.token += rows
        # Logits nobody asked for.
        logits = SimpleNamespace(hidden_states=None, next_token_logits=None, customized_info=None)
        return GenerationBatchResult(next_token_ids=tokens, logits_output=logits)

    def event(self) -> SimpleNamespace:
        """Make the event behind the batch just launched: waiting for it takes the clock to its end."""
        end = self.free_at

        def synchronize() -> None:
            self.now = max(self.now, end)

        return SimpleNamespace(record=lambda: None, synchronize=synchronize)


class _Client:
    """The socket the scheduler reads: gives it what has been sent by now, and moves the clock while it idles."""

    def __init__(self, case: dict, device: _Device) -> None:
        self.case = case
        self.device = device
        self.unsent = [(r["arrival"], i) for i, r in enumerate(case["requests"])]
        self.free_slots: list[int] = []
        if case["concurrency"]:
            self.free_slots = [0] * case["concurrency"]
        self.idle = 0

    def _next(self) -> int | None:
        if not self.unsent:
            return None
        if self.case["concurrency"]:
            return min(self.free_slots) if self.free_slots else None
        return self.unsent[0][0]

    def recv_pyobj(self, _flags: int) -> int:
        """Return the next request that has arrived; raises ``ZMQError`` if there is none."""
        device, scheduler = self.device, self.device.scheduler
        time = self._next()
        is_idle = scheduler.cur_batch is None and scheduler.last_batch is None
        self.idle = self.idle + 1 if is_idle else 0
        if time is not None and time > device.now and self.idle > 1:
            device.now = time
        if time is None or time > device.now:
            if self.idle > 100:
                raise _ServedError
            raise zmq.ZMQError
        if self.case["concurrency"]:
            self.free_slots.remove(time)
        self.idle = 0
        return self.unsent.pop(0)[1]


def _input_ids(case: dict, index: int) -> list[int]:
    """Tokens of a prompt: those inside a shared unit are the same for all who share it, others are its own."""
    request = case["requests"][index]
    size = case["unit"]
    ids = []
    for position in range(request["prompt"]):
        k = position // size
        if k < request["shared"]:
            ids.append(1 + (request["family"] * 10_000 + k) * size + position % size)
        else:
            ids.append(10**12 + index * 10**6 + position)
    return ids


class Driven(Scheduler):
    """The scheduler without its processes: attributes ``__init__`` would set, and no reports to others."""

    def __init__(self, case: dict) -> None:
        args = object.__new__(ServerArgs)
        for field in dataclasses.fields(ServerArgs):
            value = field.default
            if value is dataclasses.MISSING:
                value = None if field.default_factory is dataclasses.MISSING else field.default_factory()
            setattr(args, field.name, value)
        args.page_size = 1
        args.attention_backend = "torch_native"
        args.device = "cpu"
        args.chunked_prefill_size = case["max_tokens"]
        args.max_prefill_tokens = max(16_384, case["max_tokens"])
        args.max_running_requests = case["max_seqs"]
        args.pp_max_micro_batch_size = case["max_seqs"]
        args.disable_overlap_schedule = not case["async"]
        args.disable_radix_cache = not case["caching"]
        args.scheduler_recv_interval = case["recv_interval"]
        args.skip_tokenizer_init = True
        args.model_impl = "sglang"
        args.enable_metrics = False
        set_global_server_args_for_scheduler(args)
        self.server_args = args
        self.case = case
        self.seen = [[-1, -1, -1, 0, 0] for _ in case["requests"]]
        self._set_plain_attributes(args, case)
        self.worker = _Device(case, self)
        self.model_worker = self.tp_worker = self.worker
        self.client = _Client(case, self.worker)
        self.recv_from_tokenizer = self.client
        self.recv_from_rpc = SimpleNamespace(recv_pyobj=self._no_rpc)
        self._make_pools(case)
        self.init_running_status()
        scheduler_module.get_resolved_model_impl = lambda _config: None
        self.init_chunked_prefill()
        self.init_schedule_policy()
        self.device_module = SimpleNamespace(
            Event=self.worker.event,
            stream=lambda _stream: contextlib.nullcontext(),
            Stream=lambda **_: MagicMock(),
        )
        real = torch.get_device_module
        torch.get_device_module = lambda _device=None: self.device_module
        try:
            self.init_overlap()
        finally:
            torch.get_device_module = real

    @staticmethod
    def _no_rpc(_flags: int) -> None:
        raise zmq.ZMQError

    def _set_plain_attributes(self, args: ServerArgs, case: dict) -> None:
        self.model_config = SimpleNamespace(
            quantization=None,
            vocab_size=1 << 60,
            is_encoder_decoder=False,
            is_matryoshka=False,
            is_multimodal=False,
            is_generation=True,
            context_len=CONTEXT,
            hf_config=SimpleNamespace(architectures=["LlamaForCausalLM"]),
            hf_eos_token_id=None,
            model_impl="sglang",
        )
        plain = {
            "tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1, "dp_size": 1, "dp_rank": None, "moe_ep_size": 1,
            "attn_tp_rank": 0, "attn_tp_size": 1, "attn_cp_rank": 0, "attn_cp_size": 1, "attn_dp_rank": 0,
            "moe_ep_rank": 0, "gpu_id": 0, "page_size": 1, "device": "cpu", "is_generation": True,
            "enable_overlap": case["async"], "enable_lora": False, "enable_hierarchical_cache": False,
            "enable_hicache_storage": False, "enable_priority_scheduling": False, "enable_priority_preemption": False,
            "schedule_low_priority_values_first": False, "priority_scheduling_preemption_threshold": 0,
            "enable_metrics": False, "enable_kv_cache_events": False, "enable_hisparse": False, "enable_pdmux": False,
            "enable_trace": False, "enable_metrics_for_all_schedulers": False, "is_hybrid_swa": False,
            "current_scheduler_metrics_enabled": False, "is_hybrid_ssm": False, "require_mlp_sync": False,
            "enable_lora_overlap_loading": False,
            "dllm_config": None, "dllm_manager": None, "truncation_align_size": None, "input_blocker": None,
            "max_prefill_tokens": args.max_prefill_tokens, "max_running_requests": case["max_seqs"],
            "max_total_num_tokens": case["tokens"], "max_req_len": CONTEXT, "max_req_input_len": CONTEXT,
            "max_queued_requests": None, "max_recv_per_poll": -1, "schedule_policy": args.schedule_policy,
            "disaggregation_mode": scheduler_module.DisaggregationMode.NULL,
            "spec_algorithm": SpeculativeAlgorithm.NONE,
            "draft_worker": None, "forward_ct_decode": 0, "num_generated_tokens": 0, "max_prefill_bs": 0,
            "grammar_manager": SimpleNamespace(has_waiting_grammars=lambda: False),
            "recv_skipper": SchedulerRecvSkipper.maybe_create(args), "_engine_paused": False, "cur_batch": None,
            "forward_stream": MagicMock(), "schedule_stream": MagicMock(), "sessions": {}, "chunked_req": None,
            "offload_tags": set(), "idle_sleeper": None, "lora_overlap_loader": None, "stream_interval": 1,
            "tokenizer": None, "metrics_collector": None, "use_ngram_embedding": False,
            "enable_dynamic_chunking": False,
        }  # fmt: skip
        for name, value in plain.items():
            setattr(self, name, value)

    def _make_pools(self, case: dict) -> None:
        longest = max(r["prompt"] + r["output"] for r in case["requests"]) + 8
        self.req_to_token_pool = ReqToTokenPool(
            size=case["max_seqs"] + 1, max_context_len=longest, device="cpu", enable_memory_saver=False
        )
        self.token_to_kv_pool_allocator = TokenToKVPoolAllocator(
            case["tokens"], dtype=torch.bfloat16, device="cpu", kvcache=MagicMock(), need_sort=False
        )
        params = CacheInitParams(
            disable=not case["caching"],
            req_to_token_pool=self.req_to_token_pool,
            token_to_kv_pool_allocator=self.token_to_kv_pool_allocator,
            page_size=1,
            chunked_prefill_size=case["max_tokens"],
        )
        # The choice of Scheduler.init_cache_with_memory_pool.
        self.tree_cache = RadixCache(params) if case["caching"] else ChunkCache(params)

    def process_input_requests(self, recv_reqs) -> None:
        """Queue what the socket gave, as ``handle_generate_request`` would."""
        for index in recv_reqs:
            request = self.case["requests"][index]
            params = SamplingParams(max_new_tokens=request["output"], ignore_eos=self.case.get("ignore_eos", False))
            params.normalize(None)
            req = Req(str(index), "", _input_ids(self.case, index), params, vocab_size=1 << 60)
            req.tokenizer = None
            self._add_request_to_queue(req)

    def _add_request_to_queue(self, req, is_retracted: bool = False) -> None:
        if is_retracted:
            self.seen[int(req.rid)][3] += 1
        self.waiting_queue.append(req)

    def stream_output(self, reqs, *_args, **_kwargs) -> None:
        """Note what the client sees."""
        for req in reqs:
            seen = self.seen[int(req.rid)]
            if seen[1] < 0 and req.output_ids:
                seen[1] = self.worker.now
            if seen[2] < 0 and req.finished():
                seen[2] = self.worker.now
                if self.case["concurrency"]:
                    self.client.free_slots.append(self.worker.now + 1)

    def self_check_during_idle(self) -> None:
        """Do what the check does to the schedule."""
        self.new_token_ratio = self.init_new_token_ratio

    def _nothing(self, *_args, **_kwargs) -> None:
        """Stand for a report to a process that is not there, or a feature that is off."""

    _abort_on_waiting_timeout = _abort_on_running_timeout = _profile_batch_predicate = log_batch_result_stats = _nothing
    report_prefill_stats = report_decode_stats = maybe_send_health_check_signal = cancel_bubble_timer = _nothing
    update_cache_from_scheduler = self_check_during_busy = maybe_sleep_on_idle = _nothing

    def record_forward_metrics(self, _batch):
        """Measure nothing."""
        return contextlib.nullcontext()

    def record_bubble_metrics(self, _batch):
        """Measure nothing."""
        return contextlib.nullcontext()

    def maybe_prepare_mlp_sync_batch(self, batch, **_kwargs):
        """Return the batch of the only rank."""
        return batch

    def _maybe_prepare_ngram_embedding(self, batch):
        return batch


def run(case: dict) -> dict:
    """Serve one case; the log of its batches and what each request saw."""
    radix_module.time = _Ticks()
    scheduler = Driven(case)
    try:
        with torch.no_grad():
            if case["async"]:
                scheduler.event_loop_overlap()
            else:
                scheduler.event_loop_normal()
    except _ServedError:
        pass
    left = sum(seen[2] < 0 for seen in scheduler.seen)
    result = {"steps": scheduler.worker.steps, "requests": scheduler.seen}
    if left:
        result["stuck"] = left
    return result


def main() -> None:
    torch.set_num_threads(1)
    print("@" + json.dumps({"version": sglang.__version__}), flush=True)
    for line in sys.stdin:
        try:
            result = run(json.loads(line))
        except Exception as error:
            if os.environ.get("APEX_CONFORMANCE_TRACE"):
                traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {str(error)[:200]}", "steps": [], "requests": []}
        print("@" + json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
