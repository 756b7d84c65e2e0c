"""What every engine's command is preceded by: clock and power cap, the checkpoint, how many servers, and more."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from cluster_specs.device import DeviceSpec
from simulator.feasible.context import context_of
from simulator.feasible.engine_support import converted_checkpoint
from simulator.feasible.kv_format import kv_format
from simulator.model.linear import UNQUANTISED
from simulator.model.placement import device_order
from simulator.plan.plan import Plan
from simulator.serving import Serving, StartedPlan

CHECKPOINT: Final = "MODEL"  # bundled models are shapes, and several checkpoints have the same one
DTYPE_NAMES: Final = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def remarks(serving: Serving, start: StartedPlan, *, servers: int, devices: int, is_text_only: bool) -> Iterator[str]:
    """Say what to do before the command, and how often to run it."""
    plan = start.plan
    if plan.clock_mhz is not None:
        yield clock_line(serving.cluster.device, plan.clock_mhz)
    if plan.power_cap_w is not None:
        yield cap_line(serving.cluster.device, plan.power_cap_w)
    converted = converted_checkpoint(serving.model, plan)
    if converted is not None:
        yield f"# {CHECKPOINT} is a checkpoint converted to {converted}"
    if plan.near != "tp":
        own, places = device_order(plan), range(0, devices, plan.replica_devices)
        order = [place + index for place in places for index in own]
        yield (
            f"export CUDA_VISIBLE_DEVICES={','.join(map(str, order))}  # by rank, from a server's first device on: "
            f"{plan.near} has the nearest links"
        )
    variable = serving.profile.layouts.layers_variable
    if plan.stage_layers is not None and variable is not None:
        yield f"export {variable}={','.join(map(str, plan.stage_layers))}  # layers of each pipeline stage"
    experts = serving.profile.mxfp4_experts
    if experts.mxfp8_switch and "mxfp4" in serving.model.schemes and experts.rounds_inputs_on(serving.cluster.device):
        yield f"export {experts.mxfp8_switch}  # experts round their inputs to MXFP8"
    if not is_text_only:
        yield from (f"# the {part} is not in the simulated memory" for part in serving.model.left_out)
    if serving.overrides.max_model_len is None:
        yield (
            f"# the longest sequence, {start.limits.max_model_len} tokens, is the trace's: the model takes "
            f"{context_of(serving.model, serving.profile).limit}; longer requests are refused"
        )
    if servers > 1:
        yield (
            f"# {servers} servers of {devices} devices each (CUDA_VISIBLE_DEVICES, --port), behind a load balancer: "
            f"{start.router}"
        )


def checkpoint(serving: Serving, plan: Plan) -> str:
    """Return the Hugging Face id to serve; MODEL where none was given, or what it names has to be converted first."""
    return (converted_checkpoint(serving.model, plan) is None and serving.model.checkpoint) or CHECKPOINT


def clock_line(device: DeviceSpec, clock_mhz: float) -> str:
    """Return the command that holds a device at a clock; a remark where there is none."""
    match device.vendor:
        case "nvidia":
            return f"nvidia-smi --lock-gpu-clocks={clock_mhz:g},{clock_mhz:g}  # as root, for these devices (--id)"
        case "amd":
            # Sets the highest clock, which the firmware then keeps to: AMD SMI has no lock from below.
            return f"amd-smi set --gpu all --perf-determinism {clock_mhz:.0f}  # as root, for these devices (--gpu)"
        case _:
            return f"# hold the devices at {clock_mhz:g} MHz: no command is known for {device.title}"


def cap_line(device: DeviceSpec, power_cap_w: float) -> str:
    """Return the command that limits the power of a device; a remark where there is none, or none is needed."""
    own_w = device.power_cap_w
    if own_w is not None and own_w <= power_cap_w:
        return f"# the power cap of {power_cap_w:g} W is above the {own_w:g} W that the cluster file states: left alone"
    match device.vendor:
        case "nvidia":
            return f"nvidia-smi -pl {power_cap_w:g}  # watts; as root, for these devices (--id)"
        case "amd":
            return f"amd-smi set --gpu all --power-cap {power_cap_w:.0f}  # watts; as root, for these devices (--gpu)"
        case _:
            return f"# cap the devices at {power_cap_w:g} W: no command is known for {device.title}"


def kv_format_name(serving: Serving, start: StartedPlan, *, fp8: str) -> str:
    """Name the KV cache's format; ``auto`` where the engine's own choice is the one simulated."""
    if start.kv.dtype == "fp8":
        return fp8
    own = kv_format(serving.model, replace(start.plan, kv_dtype=None), serving.profile)
    return "auto" if start.kv.dtype == own.dtype else DTYPE_NAMES.get(start.kv.dtype, start.kv.dtype)


def is_cast_while_loading(serving: Serving, plan: Plan) -> bool:
    """Whether the engine makes the plan's format from the checkpoint's own while it loads."""
    return plan.weight_dtype == "fp8" and serving.model.quantisation in {None, *UNQUANTISED}


def replicas_per_server(plan: Plan, devices_per_host: int) -> int:
    """Replicas one server can hold: a divisor of their number, on the devices of one node."""
    most = max(1, devices_per_host // plan.replica_devices)
    return max(count for count in range(1, min(most, plan.dp) + 1) if plan.dp % count == 0)
