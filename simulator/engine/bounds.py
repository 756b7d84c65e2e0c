"""What the engine's int64 hold: units of its integers, the end of its clock, and the most of everything it counts."""

from typing import Final

FRACTION_BITS: Final = 12  # clocks carry 2^-12 ps, so that a slope per KV token is an integer
FRACTION_MASK: Final = (1 << FRACTION_BITS) - 1
OCCUPANCY_BITS: Final = 30  # integrals of blocks and sequences over time carry 2^-30 of their unit
OCCUPANCY_MASK: Final = (1 << OCCUPANCY_BITS) - 1
ADMISSION_BITS: Final = 30  # low bits of a heap key: place in the running list; the epoch takes the other 33
LAST_ADMISSION: Final = (1 << ADMISSION_BITS) - 1
LONGEST_SEQUENCE: Final = 1 << 31  # tokens
MOST_BLOCKS: Final = 1 << 28  # of KV, in one replica
LAST_EPOCH: Final = (1 << 63 - ADMISSION_BITS) - LONGEST_SEQUENCE - 1
NONE: Final = -1  # no row, no time, no unit

# Times are ps from the first arrival. No decision is taken and nothing arrives at CLOCK_END or later, so what follows
# from the last decision, sums of a few steps of at most LONGEST_STEP and a front end no slower, stays far below NEVER.
CLOCK_END: Final = 101 * 86_400 * 10**12
NEVER: Final = (1 << 63) - 1
LONGEST_STEP: Final = 1000 * 10**12  # ps, through all stages; 2^-12 ps of it fit into 62 bits
LONGEST_LEAP: Final = 1 << 62  # 2^-12 ps

# What an entry of the engine returns.
DONE: Final = -1  # nothing is left before the horizon
STUCK: Final = -2  # a replica can never go on
PAUSED: Final = -3  # the budget of turns is used up

# Counters that end a run when they are full (``State.full``).
STAGE_TIME_FULL: Final = 1  # time summed over pipeline stages
EPOCHS_FULL: Final = 2
ADMISSIONS_FULL: Final = 3
NODES_FULL: Final = 4  # of a radix cache
