"""What vLLM makes of `vllm serve` commands on a device that is not there; run by an interpreter that has vLLM.

Reads [{"device": {...}, "words": [word, ...]}, ...] from stdin, all of one platform (NVIDIA, an AMD architecture, CPU),
and prints the effective settings of each command, or {"error": text}. The parser, the engine arguments and the
configuration are vLLM's own. Replaced are its platform object's answers about the device (name, memory, compute
capability, count), and, because nothing here can load them, its compiled kernels, of which the configuration asks only
whether they exist.
"""

import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

_KERNELS = re.compile(r"vllm\.(\w+\.)*_\w*C\w*")
_ASKED_AT_IMPORT = (
    "cutlass_scaled_mm_supports_block_fp8",
    "cutlass_scaled_mm_supports_fp8",
    "cutlass_scaled_mm_supports_fp4",
    "cutlass_group_gemm_supported",
)
_GFX = {"cdna3": "gfx942", "cdna4": "gfx950"}


class _EmptyKernels(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stand in for compiled modules, which need the driver of the device."""

    def find_spec(self, fullname: str, *_: Any) -> Any:
        """Answer for vLLM's compiled modules alone."""
        return importlib.machinery.ModuleSpec(fullname, self) if _KERNELS.fullmatch(fullname) else None

    def create_module(self, spec: Any) -> types.ModuleType:
        """Return an empty module."""
        return types.ModuleType(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: there is no code."""


def _platform(device: dict[str, Any]) -> Any:
    """Return the vendor's own platform object, with the facts in ``device`` for answers."""
    import torch
    from vllm.platforms.interface import DeviceCapability

    if device["kind"] == "cpu":
        from vllm.platforms.cpu import CpuPlatform as Platform
    elif device["vendor"] == "amd":
        found = types.SimpleNamespace(gcnArchName=_GFX[device["architecture"]])
        torch.cuda.get_device_properties = lambda *_: found  # type: ignore[assignment,return-value]
        from vllm.platforms.rocm import RocmPlatform as Platform
    else:
        from vllm.platforms.cuda import CudaPlatformBase as Platform

    class Described(Platform):  # type: ignore[misc,valid-type]
        @classmethod
        def get_device_name(cls, *_: Any) -> str:
            return str(device["name"])

        @classmethod
        def get_device_total_memory(cls, *_: Any) -> int:
            return int(device["memory_bytes"])

        @classmethod
        def device_count(cls) -> int:
            return int(device["count"])

        @classmethod
        def is_fully_connected(cls, *_: Any) -> bool:
            return True

    def capability(*_: Any, **__: Any) -> Any:
        return DeviceCapability(*device["capability"])

    if device["vendor"] == "nvidia":
        Described.get_device_capability = classmethod(capability)
    return Described()


def _settings(config: Any) -> dict[str, Any]:
    scheduler, cache, parallel = config.scheduler_config, config.cache_config, config.parallel_config
    speculative = config.speculative_config
    return {
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "max_model_len": config.model_config.max_model_len,
        "gpu_memory_utilization": cache.gpu_memory_utilization,
        "block_size": cache.block_size,
        "num_gpu_blocks": cache.num_gpu_blocks_override,
        "enable_prefix_caching": cache.enable_prefix_caching,
        "enable_chunked_prefill": scheduler.enable_chunked_prefill,
        "async_scheduling": scheduler.async_scheduling,
        "reserve_full_isl": scheduler.scheduler_reserve_full_isl,
        "kv_cache_dtype": cache.cache_dtype,
        "dtype": str(config.model_config.dtype).removeprefix("torch."),
        "quantization": config.model_config.quantization,
        "tp": parallel.tensor_parallel_size,
        "pp": parallel.pipeline_parallel_size,
        "dp": parallel.data_parallel_size,
        "expert_parallel": parallel.enable_expert_parallel,
        "nodes": parallel.nnodes,
        "drafts": speculative.num_speculative_tokens if speculative is not None else 0,
        "capture_sizes": sorted(config.compilation_config.cudagraph_capture_sizes or []),
        "graph_mode": config.compilation_config.cudagraph_mode.name,
        "kv_connector": config.kv_transfer_config.kv_connector if config.kv_transfer_config is not None else None,
    }


def _architecture(checkpoint: str) -> str:
    """Name the class of a checkpoint's model."""
    config = json.loads(Path(checkpoint, "config.json").read_text(encoding="utf-8"))
    return str(config["architectures"][0])


def _in_a_child(work: Any) -> Any:
    """Return what ``work`` returns in a process of its own: configurations leave caches and environment behind."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            answer = work()
        except (Exception, SystemExit) as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:2000]}
        with os.fdopen(write, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"error": "the process died"}


def main() -> None:
    """Answer the commands on stdin."""
    asked = json.load(sys.stdin)
    device = dict(asked[0]["device"])
    answers, sys.stdout = sys.stdout, sys.stderr
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    sys.meta_path.insert(0, _EmptyKernels())
    import torch

    kernels = torch.library.Library("_C", "FRAGMENT")
    for name in _ASKED_AT_IMPORT:
        kernels.define(f"{name}(int capability) -> bool")
        kernels.impl(name, lambda _: True, "CompositeExplicitAutograd")

    import vllm.platforms

    vllm.platforms._current_platform = _platform(device)
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.model_executor.models import registry
    from vllm.usage.usage_lib import UsageContext
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    registry._run_in_subprocess = lambda look: look()  # a child is one already
    for architecture in sorted({_architecture(case["words"][0]) for case in asked}):
        with contextlib.suppress(Exception):  # what cannot be loaded is that command's own error
            registry.ModelRegistry.models[architecture].load_model_cls()  # imported once, for all children
    parser = make_arg_parser(FlexibleArgumentParser())

    def configure(case: dict[str, Any]) -> dict[str, Any]:
        device.update(case["device"])
        options = parser.parse_args(case["words"])
        options.model = options.model_tag
        engine = AsyncEngineArgs.from_cli_args(options)
        headless = bool(options.headless)
        return _settings(engine.create_engine_config(UsageContext.OPENAI_API_SERVER, headless=headless))

    json.dump([_in_a_child(lambda case=case: configure(case)) for case in asked], answers)


if __name__ == "__main__":
    main()
