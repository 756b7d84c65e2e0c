"""Where a difference sits is found on servers whose truth is known: simulated with one thing changed."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from simulator.engine_profiles.engine_profile import EngineProfile, load_profile
from simulator.results.metrics import request_latencies_s
from simulator.validation.deployment import Deployment
from simulator.validation.difference import Difference, where_it_sits
from simulator.validation.distributions import distributions
from simulator.validation.measured_run import MeasuredRun, UnusableRun
from simulator.validation.predict import Predictor, ValidatedRun
from simulator.workload.parse import parse_workload
from simulator.workload.traces.recorded import MeasuredRequests

_SERVER = Deployment(
    model="llama-3.1-8b",
    cluster="h100-sxm-8",
    plan="tp2",
    engine="vllm-0.19",
    settings={"max_model_len": 10240, "num_gpu_blocks": 5000},
)
_WORKLOADS = (
    "closed:isl=1024,osl=64,concurrency=1,prompts_per_slot=20",
    "closed:isl=512,osl=256,concurrency=192,prompts_per_slot=3",
    "closed:isl=8192,osl=64,concurrency=4,prompts_per_slot=8",
    "synthetic:isl=1500,osl=100,isl_cv=1.0,rate=4,n=150,seed=2",
)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


def _with(section: str, values: Mapping[str, float]) -> EngineProfile:
    profile = load_profile(_SERVER.engine)
    return profile.model_copy(update={section: getattr(profile, section).model_copy(update=values)})


def _found(
    predictor: Predictor, *, profile: EngineProfile | None = None, blocks: int = 5000, has_requests: bool = False
) -> Difference:
    """Simulate the server as it really is, take that for measurements, and look where the difference sits."""
    runs = [_run(predictor, text, profile, blocks, has_requests=has_requests) for text in _WORKLOADS]
    found = where_it_sits(runs, "ours")
    assert found is not None
    return found


def _run(
    predictor: Predictor, text: str, profile: EngineProfile | None, blocks: int, *, has_requests: bool
) -> ValidatedRun:
    workload = parse_workload(text)
    run = MeasuredRun(name=text, place=text, tool="", deployment=_SERVER, workload=workload, measured={})
    real = predictor.predict(
        replace(run, deployment=replace(_SERVER, settings={**_SERVER.settings, "num_gpu_blocks": blocks})),
        profile,
        with_interval=False,
    )
    assert not isinstance(real, UnusableRun)
    requests = _requests(real.outcome.run) if has_requests else None
    known = predictor.predict(replace(run, measured=real.predicted, requests=requests), with_interval=False)
    assert not isinstance(known, UnusableRun)
    return known


def _requests(run: Any) -> MeasuredRequests:
    latencies = request_latencies_s(run)
    return MeasuredRequests(
        sent_s=run.arrival_ps * 1e-12,
        ttft_s=latencies["ttft_s"],
        e2e_s=latencies["e2e_s"],
        output_tokens=run.output_tokens,
    )


def test_a_server_as_predicted_has_nothing_to_explain(predictor: Predictor) -> None:
    """No part is named, and the sentence says so."""
    found = _found(predictor)
    assert found.explanation.is_within_noise
    assert "nothing to explain" in found.sentences()[0]


@pytest.mark.parametrize(
    ("section", "values", "part", "size"),
    [
        ("price_factors", {"gemm": 1.3}, "products", 0.262),
        ("host", {"serial_step_s": 2e-3}, "host per step", 2e-3),
        ("host", {"frontend_s": 40e-3}, "frontend", 34e-3),
    ],
)
def test_the_part_that_differs_is_named_with_its_size(
    predictor: Predictor, section: str, values: Mapping[str, float], part: str, size: float
) -> None:
    """From the means of four runs: a family of kernels, the host, the frontend."""
    before = getattr(load_profile(_SERVER.engine), section)
    found = _found(predictor, profile=_with(section, values))
    first = found.explanation.parts[0]
    assert first.name == part
    if section == "host":
        key = next(iter(values))
        size = values[key] - getattr(before, key)
    assert first.size == pytest.approx(size, rel=0.25)
    assert max(map(abs, found.left_frac.values())) < 0.05


@pytest.mark.parametrize("has_requests", [False, True])
def test_half_the_kv_blocks_are_a_queue(predictor: Predictor, *, has_requests: bool) -> None:
    """Requests that wait for memory point to the queue, from means as from every request."""
    found = _found(predictor, blocks=2500, has_requests=has_requests)
    assert found.explanation.parts[0].name == "KV blocks"
    assert found.has_requests is has_requests
    assert "KV blocks" in found.sentences()[0]
    assert "queue" in found.sentences()[0]


def test_one_run_names_what_its_means_cannot_tell_apart(predictor: Predictor) -> None:
    """A single pair of means: whatever is named, the truth is named with it."""
    run = _run(predictor, _WORKLOADS[1], _with("price_factors", {"gemm": 1.5}), 5000, has_requests=False)
    found = where_it_sits([run], "ours")
    assert found is not None
    first = found.explanation.parts[0]
    assert "products" in {first.name, *first.rivals}
    assert first.rivals
    assert "cannot tell it from" in found.sentences()[0]


def test_distributions_are_those_of_the_requests(predictor: Predictor) -> None:
    """The same server lies at distance 0; one with a slow frontend at 1 where nothing else takes time."""
    same = _run(predictor, _WORKLOADS[0], None, 5000, has_requests=True)
    slow = _run(predictor, _WORKLOADS[0], _with("host", {"frontend_s": 0.5}), 5000, has_requests=True)
    assert [(one.metric, one.ks_distance) for one in distributions(same)] == [
        ("ttft_s", 0.0),
        ("tpot_s", 0.0),
        ("e2e_s", 0.0),
    ]
    by_metric = {one.metric: one for one in distributions(slow)}
    assert by_metric["ttft_s"].ks_distance == 1.0
    assert by_metric["ttft_s"].ks_by_chance < 0.5
    quantiles = by_metric["ttft_s"].quantiles()
    assert all(measured > predicted + 0.4 for _, measured, predicted in quantiles)
    assert distributions(_run(predictor, _WORKLOADS[0], None, 5000, has_requests=False)) == []
