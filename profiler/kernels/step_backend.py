"""Whole steps: the kernels of every layer run one after the other on the operands of their turn, as one captured graph.

Each part is the kernel that is measured alone for that op; layer l of step i takes buffer set i L + l, so weights and
KV are as cold as in the engine. The buffer sets of all parts are walked together: together they overflow the cache.
"""

import math
from collections.abc import Sequence
from typing import Final

from profiler.backend import KernelBackend, Prepared, Unsupported
from profiler.kernels.buffers import Buffers
from profiler.kernels.step_ops import layer_ops
from profiler.point import OpShape

LABEL: Final = "apex.layer_stack"


class StepBackend:
    """Builds steps from the kernels of the other backends, the last one that has an op first (fused before eager)."""

    name = "step"

    def __init__(self, backends: Sequence[KernelBackend]) -> None:
        self._backends = backends

    def kernels_for(self, op: OpShape) -> Sequence[str]:
        """Return the stack's label for steps."""
        return (LABEL,) if op.family == "step" else ()

    def prepare(self, op: OpShape, kernel: str, buffers: Buffers) -> Prepared:  # noqa: ARG002 - one kernel
        """Prepare every part; raises ``Unsupported`` where a part has no kernel here."""
        ops = layer_ops(op)
        if buffers.is_cold:
            buffers.begin(is_cold=False)
            for part in ops:
                self._part(part, buffers)
            buffers.begin(is_cold=True, copies=math.ceil(buffers.cold_bytes / max(1, buffers.taken_bytes)))
        parts = [self._part(part, buffers) for part in ops]
        layers = op.shape["layers"]

        def launch(i: int) -> None:
            for layer in range(i * layers, (i + 1) * layers):
                for part in parts:
                    part.launch(layer)

        return Prepared(launch, max(1, -(-max(part.copies for part in parts) // layers)))

    def kernel_of(self, part: OpShape) -> tuple[KernelBackend, str]:
        """Return the backend and kernel a part of a step runs on."""
        for backend in reversed(self._backends):
            for label in backend.kernels_for(part)[:1]:
                return backend, label
        raise Unsupported(f"no kernel here runs {part}")

    def _part(self, part: OpShape, buffers: Buffers) -> Prepared:
        backend, label = self.kernel_of(part)
        return backend.prepare(part, label, buffers)
