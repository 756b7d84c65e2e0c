"""What a failure of a kernel becomes: a row with the right status, and a bench that goes on."""

import pytest

torch = pytest.importorskip("torch", reason="the bench measures with torch")

from profiler.backend import Prepared, Unsupported  # noqa: E402 - torch first
from profiler.bench import Bench, verdict_of  # noqa: E402
from profiler.instruments.throttle import ThrottleCounters  # noqa: E402
from profiler.kernels.buffers import Buffers  # noqa: E402
from profiler.point import OpShape  # noqa: E402
from profiler.timing import TimingPolicy  # noqa: E402

QUICK = TimingPolicy(warmup_s=0.0, min_s=0.0, max_s=0.01, min_samples=2)


class Faulty:
    """A backend whose kernel fails as it is told to, or runs."""

    name = "faulty"

    def __init__(self):
        self.error = None

    def kernels_for(self, op):  # noqa: ARG002 - the protocol's signature
        """One kernel for everything."""
        return ("faulty",)

    def prepare(self, op, kernel, buffers):  # noqa: ARG002 - the protocol's signature
        """Fail at the launch, where most kernels do."""
        return Prepared(self._launch, 1)

    def _launch(self, i):  # noqa: ARG002 - the kernel's signature
        if self.error is not None:
            raise self.error


class OutOfResources(Exception):  # noqa: N818 - as Triton names it, whose errors share no base with torch's
    """A compiler's own error."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unsupported("k must be a multiple of 16"), "unsupported"),
        (RuntimeError("expected m % 16 == 0"), "unsupported"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`"), "unsupported"),
        (RuntimeError("CUDA error: invalid argument"), "error"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "error"),
        (RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"), "oom"),
        (MemoryError(), "oom"),
        (OutOfResources("out of resource: shared memory, Required: 300000"), "error"),
        (KeyError("tile"), "error"),
    ],
)
def test_every_failure_is_a_row_and_the_next_point_is_measured(error, status):
    """A kernel's error of any class gives a status with a note, and leaves the bench fit for the next point."""
    device, backend = torch.device("cpu"), Faulty()
    buffers = Buffers(device, cold_bytes=1 << 20, seed=0)
    bench = Bench(device, [backend], buffers, policy=QUICK, throttle=ThrottleCounters(None))
    op = OpShape.of("gemm", dtype="bf16", m=1, n=16, k=16, scaling="none", quantise=False)
    (point,) = bench.place(op, device_name="cpu", cache="hot")
    backend.error = error
    (row,) = bench.measure(point)
    assert row["status"] == status
    assert row["note"]
    assert "latency_s" not in row
    backend.error = None
    assert bench.measure(point)[0]["status"] == "ok"
    assert bench.is_usable


def test_a_note_is_one_short_line():
    """Only the first line of a long report enters the row."""
    note = verdict_of(RuntimeError("\nfirst " + "x" * 1000 + "\nsecond"))["note"]
    assert note.startswith("RuntimeError: first")
    assert "\n" not in note
    assert len(note) < 400
