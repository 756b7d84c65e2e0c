"""Scans in torch: state-space duality and the gated delta rule, a prompt chunk by chunk, a decode step token by token.

Both keep a state S [head_dim, state_dim] per head; keys k and queries q [state_dim] come per group of heads, values v
[head_dim] and two scalars per head. With a = exp(log_decay) and the strength b of a token

    state space (arXiv 2405.21060):   S = a S + b v k^T                        y = S q
    delta rule (arXiv 2412.06464):    S = a S;  S = S + b (v - S k) k^T        y = S q

Inside a chunk of tokens, with c the running sum of log decays, state space is the masked product
(q k^T exp(c_i - c_j)) (b v) and the delta rule the same over the corrected values u = T (b v - b exp(c) S k) with
T = (1 + strict lower triangle of b k k^T exp(c_i - c_j))^-1. What torch lacks as one kernel runs as several: this is
the reference of our own, and what a CPU measures.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch

from cluster_specs.lazy_dataclass import dataclass
from profiler.backend import Prepared, Unsupported
from profiler.kernels.buffers import TORCH_DTYPES, Buffers
from profiler.point import OpShape

VARIANTS: Final = ("mamba2", "gated_delta")
_FLOATS: Final = frozenset({"bf16", "fp16", "fp32"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanInputs:
    """Equal sequences: values [s, q, heads, head_dim], keys and queries [s, q, groups, state_dim], and two scalars.

    ``log_decay`` (below zero) and ``strength`` are fp32 [s, q, heads].
    """

    values: torch.Tensor
    keys: torch.Tensor
    queries: torch.Tensor
    log_decay: torch.Tensor
    strength: torch.Tensor

    @property
    def heads_per_group(self) -> int:
        """Heads that share keys and queries."""
        return self.values.shape[2] // self.keys.shape[2]

    def tokens(self, start: int, end: int) -> "ScanInputs":
        """Return tokens [start, end) of every sequence."""
        return ScanInputs(**{name: getattr(self, name)[:, start:end] for name in self.__slots__})


def scan_kernels(op: OpShape, device: torch.device) -> Sequence[str]:
    """Return the label of torch's scan: on a CPU alone, for no engine runs it where there are fused kernels."""
    is_known = op.dtype in _FLOATS and op.shape["state_dtype"] in _FLOATS and op.shape["variant"] in VARIANTS
    return ("torch.scan",) if is_known and device.type == "cpu" else ()


def prepare_scan(op: OpShape, buffers: Buffers) -> Prepared:
    """Return the launch of one call; raises ``Unsupported`` for shapes that are none."""
    return prepare_with(op, buffers, chunks=scan_chunks, steps=scan_steps)


def prepare_with(
    op: OpShape,
    buffers: Buffers,
    *,
    chunks: Callable[[str, ScanInputs, torch.Tensor, int], torch.Tensor],
    steps: Callable[[str, ScanInputs, torch.Tensor], torch.Tensor],
) -> Prepared:
    """Return the launch of one call through the kernels of a prompt's chunks and of decode steps."""
    inputs, states = scan_operands(op, buffers)
    variant, chunk, is_prefill = op.shape["variant"], op.shape["chunk"], op.shape["phase"] == "prefill"

    def launch(i: int) -> torch.Tensor:
        state = states[i % len(states)]
        return chunks(variant, inputs, state, chunk) if is_prefill else steps(variant, inputs, state)

    return Prepared(launch, len(states))


def scan_operands(op: OpShape, buffers: Buffers) -> tuple[ScanInputs, list[torch.Tensor]]:
    """Hot inputs and cold states [sequences, heads, head_dim, state_dim] of a call; raises ``Unsupported``."""
    shape = op.shape
    heads, groups = shape["num_heads"], shape["num_groups"]
    is_prefill = shape["phase"] == "prefill"
    count, q = (shape["num_prefill"], shape["prefill_q"]) if is_prefill else (shape["num_decode"], shape["decode_q"])
    if heads % groups:
        raise Unsupported(f"{heads} heads are no multiple of {groups} groups")
    if shape["num_prefill"] and shape["num_decode"]:
        raise Unsupported("prompts and decode steps are two calls")
    if min(count, q, shape["chunk"]) < 1:
        raise Unsupported(f"{count} sequences of {q} tokens in chunks of {shape['chunk']}: nothing to scan")
    row = (count, q)
    keys = buffers.random((*row, groups, shape["state_dim"]), "fp32")
    inputs = ScanInputs(
        values=buffers.random((*row, heads, shape["head_dim"]), op.dtype),
        # Keys of length one, as both kinds of layer normalise or keep them: a state then stays bounded.
        keys=torch.nn.functional.normalize(keys, dim=-1).to(TORCH_DTYPES[op.dtype]),
        queries=buffers.random((*row, groups, shape["state_dim"]), op.dtype),
        log_decay=-torch.rand((*row, heads), device=buffers.device) * 0.1,
        strength=torch.rand((*row, heads), device=buffers.device),
    )
    return inputs, buffers.rotating((count, heads, shape["head_dim"], shape["state_dim"]), shape["state_dtype"])


def scan_steps(variant: str, inputs: ScanInputs, state: torch.Tensor) -> torch.Tensor:
    """Work through the tokens one after the other; updates ``state``, returns y [s, q, heads, head_dim]."""
    results = [_step(variant, inputs.tokens(at, at + 1), state) for at in range(inputs.values.shape[1])]
    return torch.cat(results, dim=1)


def _step(variant: str, token: ScanInputs, state: torch.Tensor) -> torch.Tensor:
    repeat, kind = token.heads_per_group, state.dtype
    keys = token.keys[:, 0].repeat_interleave(repeat, 1).to(kind)[..., None]
    queries = token.queries[:, 0].repeat_interleave(repeat, 1).to(kind)[..., None]
    values = token.values[:, 0].to(kind)[..., None]
    strength = token.strength[:, 0, :, None, None].to(kind)
    state.mul_(token.log_decay[:, 0].exp()[..., None, None].to(kind))
    change = values - state @ keys if variant == "gated_delta" else values
    state.add_((strength * change) @ keys.transpose(-1, -2))
    return (state @ queries)[..., 0][:, None].to(token.values.dtype)


def scan_chunks(variant: str, inputs: ScanInputs, state: torch.Tensor, chunk: int) -> torch.Tensor:
    """Work through the tokens ``chunk`` at a time; updates ``state``, returns y [s, q, heads, head_dim]."""
    tokens = inputs.values.shape[1]
    carried = state.float()
    results = []
    for start in range(0, tokens, chunk):
        part = inputs.tokens(start, min(start + chunk, tokens))
        result, carried = _chunk(variant, part, carried)
        results.append(result)
    state.copy_(carried)
    return torch.cat(results, dim=1)


def _chunk(variant: str, part: ScanInputs, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One chunk as matrix products; ``state`` fp32 [s, heads, head_dim, state_dim] before and after it."""
    repeat = part.heads_per_group
    keys, queries = (x.transpose(1, 2).float() for x in (part.keys, part.queries))  # [s, groups, q, state_dim]
    values = part.values.transpose(1, 2).float()  # [s, heads, q, head_dim]
    strength = part.strength.transpose(1, 2)[..., None]
    total = part.log_decay.transpose(1, 2).cumsum(-1)  # [s, heads, q]
    decay = (total[..., :, None] - total[..., None, :]).tril().exp().tril()
    scores = (queries @ keys.transpose(-1, -2)).repeat_interleave(repeat, 1) * decay
    own_keys, own_queries = keys.repeat_interleave(repeat, 1), queries.repeat_interleave(repeat, 1)
    into = strength * values
    if variant == "gated_delta":
        overlap = (keys @ keys.transpose(-1, -2)).repeat_interleave(repeat, 1)
        mixed = (strength * overlap * decay).tril(-1)
        seen = (own_keys * total.exp()[..., None]) @ state.transpose(-1, -2)
        into = torch.linalg.solve_triangular(
            mixed + torch.eye(mixed.shape[-1], device=mixed.device),
            into - strength * seen,
            upper=False,
            unitriangular=True,
        )
    result = scores @ into + (own_queries * total.exp()[..., None]) @ state.transpose(-1, -2)
    left = (total[..., -1:] - total).exp()[..., None]
    after = state * total[..., -1].exp()[..., None, None] + (into * left).transpose(-1, -2) @ own_keys
    return result.transpose(1, 2).to(part.values.dtype), after
