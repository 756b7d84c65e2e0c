"""Whether a process can still use its device after a point failed.

A kernel that faults (an illegal address, a failed assertion) leaves every later call of the process failing with the
same error. torch before 2.12 does not notice that a capture was invalidated: from then on emptying its cache, which
every capture does first, and drawing random numbers fail. Neither can be mended within the process.
"""

from typing import TYPE_CHECKING

from profiler.errors import DeviceLost

if TYPE_CHECKING:
    import torch


def is_usable(device: "torch.device") -> bool:
    """Use the device in the ways that break: wait for it, empty its cache, draw a number."""
    if device.type != "cuda":
        return True
    import torch

    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.rand(1, device=device).item()
    except RuntimeError:
        return False
    return True


def device_lost(point: object) -> DeviceLost:
    """Return the error that ends a process whose device ``point`` has spoilt."""
    return DeviceLost(
        f"{point} left this process without a usable device; its row is kept",
        hint="the same command goes on with a fresh process",
    )
