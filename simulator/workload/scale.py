"""Scales the arrival rate and the lengths of a workload."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cluster_specs.errors import UserError
from simulator.workload.workload import Workload


def scale_workload(
    workload: Workload, rate_scale: float = 1.0, length_scale: float | tuple[float, float] = 1.0
) -> Workload:
    """Return the workload at ``rate_scale`` x its rate and ``length_scale`` x its (prompt, output) lengths, >= 1 token.

    Lengths round to the nearest token; a request of 0 output tokens stays one. Think times stay: a higher rate means
    more users, not faster ones. Raises UserError for a factor that is
    not positive, and for prompts that carry prefix-block ids (scaled, they would no longer share what they share).
    """
    prompt_scale, output_scale = length_scale if isinstance(length_scale, tuple) else (length_scale, length_scale)
    for name, factor in (("rate_scale", rate_scale), ("length_scale", prompt_scale), ("length_scale", output_scale)):
        if not (math.isfinite(factor) and factor > 0):
            raise UserError(f"{name} is {factor}, must be a positive number")
    if prompt_scale != 1.0 and workload.prefix is not None:
        raise UserError(
            f"{workload.name}: prompts with prefix-block ids cannot be scaled by {prompt_scale:g}",
            hint="scale the output alone: --length-scale 1,0.5",
        )
    if rate_scale == prompt_scale == output_scale == 1.0:
        return workload
    return replace(
        workload,
        arrival_s=workload.arrival_s / rate_scale,
        prompt_tokens=_scaled(workload.prompt_tokens, prompt_scale),
        output_tokens=_scaled(workload.output_tokens, output_scale),
    )


def _scaled(tokens: NDArray[np.int64], factor: float) -> NDArray[np.int64]:
    return np.where(tokens == 0, 0, np.maximum(np.rint(tokens * factor).astype(np.int64), 1))
