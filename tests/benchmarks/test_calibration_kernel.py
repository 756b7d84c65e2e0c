"""The kernel of factors by load, learnt from servers other than the one that is scored."""

import numpy as np

from benchmarks.calibration.kernel import KERNELS, LinearServer, learn
from simulator.calibration.load_points import LoadKernel

_REACH = {"tokens_octaves": 1.2, "ranks_octaves": 1.2}


def _server(*, sd: float, seed: int) -> LinearServer:
    """Return a server whose decoding steps are off by a smooth function of their tokens, and nothing else."""
    random = np.random.default_rng(seed)
    tokens = np.stack([np.tile(np.arange(2.0, 8.0), 3), np.full(18, 10.0)], axis=1)
    joined = np.exp(-0.5 * ((tokens[:, None, 0] - tokens[None, :, 0]) / 1.2) ** 2)
    off = sd * np.linalg.cholesky(joined + 1e-6 * np.eye(18)) @ random.standard_normal(18)
    loads = np.zeros((18, 2, 2))
    loads[:, 1, 0] = 1.0
    middle = np.zeros((18, 2))
    middle[:, 1] = off + 0.005 * random.standard_normal(18)
    return LinearServer(
        name=str(seed),
        plans=("tp8",) * 18,
        middle=middle,
        log_measured=tuple(np.zeros((18, 1, 2))),
        slopes=np.zeros((18, 2, 1)),
        loads=loads,
        log2_tokens=tokens,
        log2_ranks=np.full(18, 3.0),
        draws=tuple(tuple(random.choice(18, 4, replace=False).tolist()) for _ in range(20)),
    )


def test_a_shape_over_loads_is_predicted_by_a_kernel_that_allows_it() -> None:
    """Where loads are off smoothly, a wide factor predicts the others better than none; elsewhere not."""
    narrow, wide = (LoadKernel(sd=sd, **_REACH) for sd in (0.001, 0.08))
    shaped, flat = _server(sd=0.1, seed=1), _server(sd=0.0, seed=2)
    assert shaped.error(wide) < 0.9 * shaped.error(narrow)
    assert flat.error(wide) > 0.95 * flat.error(narrow)


def test_the_server_left_out_has_no_say() -> None:
    """The kernel is the one that the other servers want, each counted once whatever the size of its errors."""
    errors = np.ones((3, len(KERNELS)))
    errors[0, 5], errors[1, 5] = 0.5, 0.5
    errors[2] *= 100.0
    errors[2, 7] = 1.0
    assert learn(errors, without=2) == KERNELS[5]
    assert learn(errors[1:], without=0) == KERNELS[7]
