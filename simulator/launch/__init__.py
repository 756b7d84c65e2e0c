"""The shell lines that start a plan on the engine whose rules it was simulated under.

A command states every limit that was simulated, in the flags of that version of the engine, so that what starts is
what was simulated whatever the engine's own defaults are on the machine it starts on (decision 59).
"""

from simulator.launch.commands import decode_command, launch_lines, pool_launch_lines, prefill_command

__all__ = ["decode_command", "launch_lines", "pool_launch_lines", "prefill_command"]
