"""The process in closed form against what it stands for."""

import numpy as np
import pytest

from costmodel.fitting.gaussian_process import GaussianProcess


def test_leave_one_out_equals_refitting_without_the_point() -> None:
    """The closed form equals the residual of a process fitted to all other points with the same kernel."""
    draw = np.random.default_rng(0)
    x = draw.uniform(0, 8, (12, 2))
    y = np.sin(x[:, 0]) + 0.1 * x[:, 1]
    full = GaussianProcess(x, y)
    kernel = full._kernel(x, x) + full.noise_ratio * np.eye(12)
    residual = y - y.mean()
    for i, closed in enumerate(full.leave_one_out()):
        rest = np.delete(np.arange(12), i)
        refit = kernel[i, rest] @ np.linalg.solve(kernel[np.ix_(rest, rest)], residual[rest])
        assert closed == pytest.approx(residual[i] - refit, abs=1e-8)


def test_most_informative_points_spread_out() -> None:
    """The points chosen together are not neighbours: each choice counts as known for the next."""
    x = np.arange(4.0)[:, None]
    process = GaussianProcess(x, np.sin(x[:, 0]))
    candidates = np.array([[10.0], [10.01], [10.02], [30.0]])
    assert 3 in process.most_informative(candidates, 2)


def test_choosing_lowers_the_mean_variance_more_than_the_boundary_does() -> None:
    """The first choice lowers the mean variance over the candidates at least as much as any other candidate."""
    draw = np.random.default_rng(1)
    x = draw.uniform(0, 4, (6, 2))
    process = GaussianProcess(x, np.sin(x[:, 0]))
    candidates = draw.uniform(0, 10, (30, 2))
    covariance = process._posterior(candidates, candidates)
    left = [
        np.mean(np.diag(covariance) - covariance[:, j] ** 2 / (covariance[j, j] + process.noise_ratio))
        for j in range(30)
    ]
    assert process.most_informative(candidates, 1) == [int(np.argmin(left))]


def test_points_left_out_together_equal_refitting_without_them() -> None:
    """The closed form for a group equals a process fitted to the rest with the same kernel."""
    draw = np.random.default_rng(2)
    x = draw.uniform(0, 8, (15, 2))
    y = np.cos(x[:, 0]) - 0.2 * x[:, 1]
    full = GaussianProcess(x, y)
    kernel = full._kernel(x, x) + full.noise_ratio * np.eye(15)
    residual = y - y.mean()
    out, rest = np.array([1, 4, 9]), np.setdiff1d(np.arange(15), [1, 4, 9])
    refit = kernel[np.ix_(out, rest)] @ np.linalg.solve(kernel[np.ix_(rest, rest)], residual[rest])
    assert full.leave_out(out) == pytest.approx(residual[out] - refit, abs=1e-8)


def test_the_true_law_makes_the_values_likelier() -> None:
    """Of two processes over the same points, the one whose values lost their law has the higher likelihood."""
    x = np.linspace(0, 12, 40)[:, None]
    noise = np.random.default_rng(3).normal(0, 0.01, 40)
    law = 0.3 * np.sign(np.sin(5 * x[:, 0]))
    assert GaussianProcess(x, noise).log_likelihood > GaussianProcess(x, noise + law).log_likelihood
