# Triton's own conventions: compile-time constants in capitals, operands by position, no types inside a kernel.
# ruff: noqa: N803, PLR0917
# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"
"""Our own Triton scans: one kernel for a prompt, one for a decode step, of state-space layers and the gated delta rule.

A program has one head of one sequence and a block of its state's rows, which no other row needs: the state [rows,
state_dim] stays in registers from the first token to the last. A prompt is worked through in chunks of up to 32 tokens
by the products of `profiler.kernels.scan`. The inverse that the delta rule takes of 1 + A, A strictly lower triangular,
is (1 - A)(1 + A^2)(1 + A^4)..., as many factors as a chunk has doublings.
"""

from typing import Final

import torch
import triton
import triton.language as tl

from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import Buffers
from profiler.kernels.scan import VARIANTS, ScanInputs, prepare_with
from profiler.point import OpShape

FORMATS: Final = frozenset({"bf16", "fp16", "fp32"})
_CHUNK: Final = 32  # with 64 the triangles of a chunk no longer fit the registers beside the state
_WIDE_STATE: Final = 128  # beyond it keys and queries take the registers that longer chunks would
_LEAST_SIDE: Final = 16  # of an operand of the tensor core
_STATE_NUMEL: Final = 32 * 128  # of a program's block of the state, in registers
_MOST_STATE_DIM: Final = 512


@triton.jit
def _step_kernel(
    v_ptr, k_ptr, q_ptr, decay_ptr, strength_ptr, state_ptr, out_ptr, tokens, heads, groups,
    DELTA: tl.constexpr, WIDTH: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Tokens one after the other: decay, correct (the delta rule), add, read out."""
    sequence, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    row, column = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    group = head // (heads // groups)
    in_row, in_column = row < WIDTH, column < STATE
    place = state_ptr + ((sequence * heads + head) * WIDTH + row[:, None]) * STATE + column[None, :]
    inside = in_row[:, None] & in_column[None, :]
    state = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    for at in range(tokens):
        token = sequence * tokens + at
        v = tl.load(v_ptr + (token * heads + head) * WIDTH + row, mask=in_row, other=0.0).to(tl.float32)
        key_row = (token * groups + group) * STATE + column
        k = tl.load(k_ptr + key_row, mask=in_column, other=0.0).to(tl.float32)
        q = tl.load(q_ptr + key_row, mask=in_column, other=0.0).to(tl.float32)
        strength = tl.load(strength_ptr + token * heads + head)
        state *= tl.exp(tl.load(decay_ptr + token * heads + head))
        if DELTA:
            v -= tl.sum(state * k[None, :], axis=1)
        state += (strength * v)[:, None] * k[None, :]
        y = tl.sum(state * q[None, :], axis=1)
        tl.store(out_ptr + (token * heads + head) * WIDTH + row, y.to(out_ptr.dtype.element_ty), mask=in_row)
    tl.store(place, state.to(state_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _chunk_kernel(
    v_ptr, k_ptr, q_ptr, decay_ptr, strength_ptr, state_ptr, out_ptr, tokens, heads, groups,
    DELTA: tl.constexpr, WIDTH: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    CHUNK: tl.constexpr, DOUBLINGS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Chunks one after the other, each as matrix products; products of the operands in their own format."""
    sequence, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    row, column, at = tl.program_id(1) * ROWS + tl.arange(0, ROWS), tl.arange(0, COLUMNS), tl.arange(0, CHUNK)
    group = head // (heads // groups)
    in_row, in_column = row < WIDTH, column < STATE
    place = state_ptr + ((sequence * heads + head) * WIDTH + row[:, None]) * STATE + column[None, :]
    inside = in_row[:, None] & in_column[None, :]
    state = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    kind = v_ptr.dtype.element_ty
    for start in range(0, tokens, CHUNK):
        token = sequence * tokens + start + at
        here = start + at < tokens
        values = v_ptr + (token[:, None] * heads + head) * WIDTH + row[None, :]
        v = tl.load(values, mask=here[:, None] & in_row[None, :], other=0.0).to(tl.float32)
        key_rows = (token[:, None] * groups + group) * STATE + column[None, :]
        k = tl.load(k_ptr + key_rows, mask=here[:, None] & in_column[None, :], other=0.0)
        q = tl.load(q_ptr + key_rows, mask=here[:, None] & in_column[None, :], other=0.0)
        log_decay = tl.load(decay_ptr + token * heads + head, mask=here, other=0.0)
        strength = tl.load(strength_ptr + token * heads + head, mask=here, other=0.0)
        total = tl.cumsum(log_decay, axis=0)
        whole = tl.sum(log_decay, axis=0)
        lower = at[:, None] >= at[None, :]
        decay = tl.exp(tl.where(lower, total[:, None] - total[None, :], float("-inf")))
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * decay
        before = tl.trans(state).to(kind)
        into = v * strength[:, None]
        if DELTA:
            overlap = tl.dot(k, tl.trans(k), input_precision=PRECISION) * decay
            mixed = tl.where(at[:, None] > at[None, :], overlap * strength[:, None], 0.0)
            seen = tl.dot(k, before, input_precision=PRECISION) * tl.exp(total)[:, None]
            into -= seen * strength[:, None]
            into -= tl.dot(mixed, into, input_precision=PRECISION)
            for _ in range(DOUBLINGS - 1):
                mixed = tl.dot(mixed, mixed, input_precision=PRECISION)
                into += tl.dot(mixed, into, input_precision=PRECISION)
        y = tl.dot(q, before, input_precision=PRECISION) * tl.exp(total)[:, None]
        y += tl.dot(scores.to(kind), into.to(kind), input_precision=PRECISION)
        result = out_ptr + (token[:, None] * heads + head) * WIDTH + row[None, :]
        tl.store(result, y.to(out_ptr.dtype.element_ty), mask=here[:, None] & in_row[None, :])
        left = into * tl.exp(whole - total)[:, None]
        state = state * tl.exp(whole) + tl.dot(tl.trans(left.to(kind)), k, input_precision=PRECISION)
    tl.store(place, state.to(state_ptr.dtype.element_ty), mask=inside)


def scan_steps(variant: str, inputs: ScanInputs, state: torch.Tensor) -> torch.Tensor:
    """Work through the tokens one by one; updates ``state``, returns y [s, q, heads, head_dim]."""
    grid, operands, sizes, out = _call(variant, inputs, state)
    _step_kernel[grid](*operands, **sizes, num_warps=4, enable_fp_fusion=True)
    return out


def scan_chunks(variant: str, inputs: ScanInputs, state: torch.Tensor, chunk: int) -> torch.Tensor:
    """Work through the tokens in chunks of up to ``chunk`` and 32; updates ``state``, returns y."""
    grid, operands, sizes, out = _call(variant, inputs, state)
    most = _CHUNK if state.shape[-1] <= _WIDE_STATE else _LEAST_SIDE
    size = max(min(1 << (chunk.bit_length() - 1), most), _LEAST_SIDE)
    precision = "ieee" if inputs.values.dtype == torch.float32 else "tf32"
    _chunk_kernel[grid](
        *operands, **sizes, CHUNK=size, DOUBLINGS=size.bit_length() - 1, PRECISION=precision,
        num_warps=4, num_stages=1, enable_fp_fusion=True,
    )  # fmt: skip
    return out


def prepare_scan(op: OpShape, buffers: Buffers) -> Prepared:
    """Return the launch of one call; raises ``Unsupported`` for what no program can hold."""
    if op.shape["state_dim"] > _MOST_STATE_DIM:
        raise Unsupported(f"state_dim {op.shape['state_dim']} is more than the {_MOST_STATE_DIM} one program holds")
    return prepare_with(op, buffers, chunks=scan_chunks, steps=scan_steps)


def _call(
    variant: str, inputs: ScanInputs, state: torch.Tensor
) -> tuple[tuple[int, int], tuple[object, ...], dict[str, object], torch.Tensor]:
    """Return grid, operands, compile-time sizes and the result of a launch."""
    assert variant in VARIANTS
    sequences, heads, width, state_dim = state.shape
    columns = max(triton.next_power_of_2(state_dim), _LEAST_SIDE)
    rows = max(min(triton.next_power_of_2(width), _STATE_NUMEL // columns), _LEAST_SIDE)
    out = torch.empty_like(inputs.values)
    tokens, groups = inputs.values.shape[1], inputs.keys.shape[2]
    operands = (inputs.values, inputs.keys, inputs.queries, inputs.log_decay, inputs.strength, state, out)
    sizes = {"DELTA": variant == "gated_delta", "WIDTH": width, "STATE": state_dim, "ROWS": rows, "COLUMNS": columns}
    return (sequences * heads, triton.cdiv(width, rows)), (*operands, tokens, heads, groups), sizes, out
