"""All measured servers of `serving_points.csv`."""

from typing import Final

from benchmarks.fidelity.servers.server import ServingGroup
from benchmarks.fidelity.servers.sglang import SGLANG
from benchmarks.fidelity.servers.tensorrt_llm import TENSORRT_LLM
from benchmarks.fidelity.servers.vllm import VLLM

GROUPS: Final[tuple[ServingGroup, ...]] = (*VLLM, *SGLANG, *TENSORRT_LLM)
ENGINES: Final = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
