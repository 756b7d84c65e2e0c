"""The requests of recorded open-loop runs are rebuilt as their clients sent them."""

import numpy as np

from benchmarks.fidelity.open_loop import open_loop_workload

_ROW = {
    "id": "9",
    "arrivals": "8/s for 600 s then 20/s for 600 s",
    "shared_prefix_tokens": "100",
    "prompt_tokens": "575",
    "output_tokens": "248",
}


def test_groups_share_a_prefix_and_prompts_come_back() -> None:
    """Request n is prompt (n div 10) mod 10 of group n mod 10; groups share six whole blocks and nothing else."""
    workload, stages = open_loop_workload(_ROW)
    assert (len(workload), int((stages == 1).sum())) == (16_800, 12_000)
    assert workload.arrival_s[[1, 4800, 4801]].tolist() == [0.125, 600.0, 600.05]
    assert workload.prefix is not None
    ids = workload.prefix.ids.reshape(len(workload), 575 // 16)
    assert np.array_equal(ids[0], ids[100])
    same = [(ids[0] == ids[other]).sum() for other in (1, 9, 10, 90)]
    assert same == [0, 0, 6, 6]
    assert len(np.unique(ids)) == 10 * 6 + 100 * 29
