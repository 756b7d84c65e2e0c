"""The collectives an engine calls, on NCCL, gloo, vLLM's custom all-reduce and torch's symmetric memory.

Sizes are those of nccl-tests.

``message_bytes`` is nccl-tests' S: the tensor of an all-reduce, the gathered result of an all-gather, the whole input
of a reduce-scatter or all-to-all on one rank, the message of a send/recv (a ring: every rank sends to the next and
receives from the one before). ``algbw = S / t`` and ``busbw = algbw * f``, f as in `costmodel.ops.op_types.bus_factor`.
Source: nccl-tests, PERFORMANCE.md.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import field
from importlib.util import find_spec
from itertools import cycle
from typing import Any, Final, Protocol

import torch
import torch.distributed as dist

from cluster_specs.lazy_dataclass import dataclass
from costmodel.families.collective import CUSTOM_ALL_REDUCE, CUSTOM_LIMIT_BYTES
from costmodel.ops.op_types import bus_factor
from profiler.backend import Unsupported
from profiles_db.collective_kinds import COLLECTIVE_KINDS

KINDS: Final = tuple(COLLECTIVE_KINDS)
# torch 2.13 renamed these two and warns at the old names.
_ALL_GATHER: Final[Callable[..., Any]] = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_REDUCE_SCATTER: Final[Callable[..., Any]] = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)
Launch = Callable[[], object]

# Launches between two restorations of the operands: those of a sample.
MOST_CALLS: Final = 50
# Engines sum. NCCL's average is another kernel: it multiplies before it sums, which the switches' own reduction (NVLS)
# cannot do, so that it never runs where an average is asked for (ncclNvlsSupported admits sum, minimum and maximum).
REDUCTION: Final = dist.ReduceOp.SUM
# Binary orders of magnitude that operands begin below one, and that their sums can then grow by and stay finite.
ROOM: Final = {torch.bfloat16: (110, 230), torch.float32: (110, 230), torch.float16: (10, 20)}
_MOST_COPIES_BYTES: Final = 64 << 20

_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "int8": torch.int8}


def algbw_bytes_per_s(message_bytes: int, latency_s: float) -> float:
    """Payload over time."""
    return message_bytes / latency_s


def busbw_bytes_per_s(kind: str, ranks: int, message_bytes: int, latency_s: float) -> float:
    """Rate each rank's link must carry: comparable with the link's peak whatever the kind and the number of ranks."""
    return algbw_bytes_per_s(message_bytes, latency_s) * bus_factor(kind, ranks)


@dataclass(frozen=True, slots=True)
class PreparedCollective:
    """A collective ready to run: ``launch`` enqueues it once; ``capture`` surrounds the recording of a CUDA graph.

    ``restore`` makes the operands what they were at first, and is called where nothing is timed: at the latest after
    ``MOST_CALLS`` launches.
    """

    launch: Callable[[], object]
    restore: Callable[[], object] = lambda: None
    capture: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext)


@dataclass(frozen=True, slots=True, kw_only=True)
class Communicator:
    """The process groups of one sibling group: ``data`` carries the collective, ``host`` is gloo over equal ranks."""

    ranks: tuple[int, ...]
    data: dist.ProcessGroup
    host: dist.ProcessGroup
    device: torch.device


class CollectiveKernel(Protocol):
    """One path a collective can take, named as the ``backend`` column names it."""

    @property
    def name(self) -> str:
        """Label of the path: ``nccl``, ``gloo``, ``vllm.custom_all_reduce``."""

    def kinds(self) -> Sequence[str]:
        """Return the collectives this path has."""

    def prepare(self, kind: str, message_bytes: int, dtype: str, communicator: Communicator) -> PreparedCollective:
        """Allocate operands; every rank of the group calls it. Raises ``Unsupported`` on all of them or on none."""


class TorchCollectives:
    """torch.distributed on the group's own backend: NCCL on GPUs, gloo on CPUs."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """``nccl`` or ``gloo``."""
        return self._name

    def kinds(self) -> Sequence[str]:
        """Every kind."""
        return KINDS

    def prepare(self, kind: str, message_bytes: int, dtype: str, communicator: Communicator) -> PreparedCollective:
        """Allocate random operands of nccl-tests' sizes."""
        if kind not in TORCH_CALLS:
            raise Unsupported(f"unknown collective {kind!r}; known: {', '.join(KINDS)}")
        called = TORCH_CALLS[kind](operand_of(message_bytes, dtype, communicator.device), communicator)
        return called if isinstance(called, PreparedCollective) else PreparedCollective(called)


class VllmCustomAllReduce:
    """vLLM's one- and two-shot all-reduce over peer memory, the path of small messages inside a node."""

    __slots__ = ("_instances", "_max_bytes")

    def __init__(self, *, max_bytes: int = CUSTOM_LIMIT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._instances: dict[tuple[int, ...], Any] = {}

    @property
    def name(self) -> str:
        """``vllm.custom_all_reduce``."""
        return CUSTOM_ALL_REDUCE

    def kinds(self) -> Sequence[str]:
        """All-reduce alone."""
        return ("all_reduce",)

    def prepare(self, kind: str, message_bytes: int, dtype: str, communicator: Communicator) -> PreparedCollective:
        """Build vLLM's communicator for the group once; unsupported where vLLM itself would fall back to NCCL."""
        if kind != "all_reduce":
            raise Unsupported(f"{self.name} has no {kind}")
        custom = self._instance(communicator)
        operand = operand_of(message_bytes, dtype, communicator.device)
        if custom.disabled or not custom.should_custom_ar(operand):
            raise Unsupported(
                f"{self.name} declines {message_bytes} bytes over {len(communicator.ranks)} ranks (vLLM would use NCCL)"
            )
        return PreparedCollective(lambda: custom.custom_all_reduce(operand), capture=custom.capture)

    def _instance(self, communicator: Communicator) -> Any:
        if communicator.ranks not in self._instances:
            from vllm.distributed.device_communicators.custom_all_reduce import CustomAllreduce

            custom = CustomAllreduce(communicator.host, communicator.device, max_size=self._max_bytes)
            if hasattr(custom, "finalize_p2p"):  # newer releases check peer access in a second, collective step
                custom.finalize_p2p()
            self._instances[communicator.ranks] = custom
        return self._instances[communicator.ranks]


def collective_kernels(device: torch.device) -> tuple[CollectiveKernel, ...]:
    """Return every path collectives can take on this device, the generic one first."""
    if device.type != "cuda":
        return (TorchCollectives("gloo"),)
    from profiler.collectives.symmetric_memory import SymmetricMemoryAllReduce

    kernels: list[CollectiveKernel] = [TorchCollectives("nccl")]
    kernels.append(SymmetricMemoryAllReduce() if find_spec("vllm") is None else VllmCustomAllReduce())
    return tuple(kernels)


def operand_of(message_bytes: int, dtype: str, device: torch.device) -> torch.Tensor:
    """Return a random message; raises ``Unsupported`` for a format or size it cannot have."""
    if dtype not in _DTYPES:
        raise Unsupported(f"collectives of {dtype} are not measured; known: {', '.join(_DTYPES)}")
    kind = _DTYPES[dtype]
    numel, rest = divmod(message_bytes, kind.itemsize)
    if rest or numel < 1:
        raise Unsupported(f"{message_bytes} bytes is no whole number of {dtype} elements")
    if kind is torch.int8:
        return torch.randint(-127, 128, (numel,), dtype=kind, device=device)
    return torch.randn(numel, dtype=torch.float32, device=device).to(kind)


def _reduced(whole: torch.Tensor, communicator: Communicator) -> PreparedCollective:
    """Sum in place, as engines do; every call makes the values larger by the number of ranks.

    So operands begin far below one, small messages, whose samples have many calls, take turns, and all of them are
    restored between samples. Integers wrap around.
    """
    group = communicator.data
    below, room = ROOM.get(whole.dtype, (0, math.inf))
    if below:
        whole *= 2.0**-below
    growth = MOST_CALLS * math.log2(len(communicator.ranks))
    copies = max(1, min(math.ceil(growth / room), _MOST_COPIES_BYTES // whole.nbytes))
    operands = [whole.clone() for _ in range(copies)]
    turns = cycle(operands)

    def restore() -> None:
        for operand in operands:
            operand.copy_(whole)

    return PreparedCollective(lambda: dist.all_reduce(next(turns), op=REDUCTION, group=group), restore)


def _gathered(whole: torch.Tensor, communicator: Communicator) -> Launch:
    part = _own_part(whole, communicator)
    return lambda: _ALL_GATHER(whole, part, group=communicator.data)


def _scattered(whole: torch.Tensor, communicator: Communicator) -> Launch:
    part = _own_part(whole, communicator)
    return lambda: _REDUCE_SCATTER(part, whole, group=communicator.data)


def _exchanged(whole: torch.Tensor, communicator: Communicator) -> Launch:
    _own_part(whole, communicator)
    received = torch.empty_like(whole)
    return lambda: dist.all_to_all_single(received, whole, group=communicator.data)


def _own_part(whole: torch.Tensor, communicator: Communicator) -> torch.Tensor:
    """Return a copy of what one rank has of ``whole``; raises ``Unsupported`` where it does not split evenly."""
    ranks = len(communicator.ranks)
    if whole.numel() % ranks:
        raise Unsupported(f"{whole.nbytes} bytes of {whole.dtype} do not split over {ranks} ranks")
    return whole[: whole.numel() // ranks].clone()


def _ring(message: torch.Tensor, communicator: Communicator) -> Launch:
    """Every rank sends to the next and receives from the one before, in one batch."""
    ranks, group = communicator.ranks, communicator.data
    place = ranks.index(dist.get_rank())
    after, before = ranks[(place + 1) % len(ranks)], ranks[place - 1]
    received = torch.empty_like(message)

    def launch() -> None:
        works = dist.batch_isend_irecv(
            [
                dist.P2POp(dist.isend, message, after, group),
                dist.P2POp(dist.irecv, received, before, group),
            ]
        )
        for work in works:
            work.wait()

    return launch


# How torch runs each kind on operands of nccl-tests' sizes: every rank of the group calls it.
TORCH_CALLS: Final[dict[str, Callable[[torch.Tensor, Communicator], Launch | PreparedCollective]]] = {
    "all_reduce": _reduced,
    "all_gather": _gathered,
    "reduce_scatter": _scattered,
    "all_to_all": _exchanged,
    "send_recv": _ring,
}
