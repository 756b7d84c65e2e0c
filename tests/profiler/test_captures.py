"""When a kind of kernels counts as one that no CUDA graph can record."""

from profiler.captures import CaptureRecord
from profiler.point import OpShape, Point


def product(m, dtype="bf16"):
    op = OpShape.of("gemm", dtype=dtype, m=m, n=64, k=64, scaling="none", quantise=False)
    return Point(op=op, device="gpu", backend="torch.cublas", launch="graph", cache="cold")


def test_one_failure_asks_for_a_fresh_process_and_gives_nothing_up():
    """The same shape again is no second one."""
    record = CaptureRecord()
    record.failed(product(1))
    record.failed(product(1))
    assert record.wants_fresh_process(product(8))
    assert not record.is_given_up(product(8))


def test_failures_at_two_shapes_give_the_kind_up_and_no_other():
    """Other sizes of the kind run eagerly, other formats are tried."""
    record = CaptureRecord()
    record.failed(product(1))
    record.failed(product(2))
    assert record.is_given_up(product(8))
    assert not record.wants_fresh_process(product(8))
    assert not record.is_given_up(product(8, "fp16"))


def test_a_kind_that_was_captured_once_is_never_given_up():
    """Shapes that fail are theirs alone, before and after."""
    record = CaptureRecord()
    record.failed(product(1))
    record.succeeded(product(4))
    record.failed(product(2))
    assert not record.is_given_up(product(8))
    assert not record.wants_fresh_process(product(8))
