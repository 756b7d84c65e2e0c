"""A difference is explained by as few parts as do, and parts that look alike are never told apart."""

import numpy as np
import pytest

from simulator.validation.explain import Explanation, Response
from simulator.validation.explain import explain as explain_whitened

_GROWS = np.array([0.5, 1.0, 2.0, 4.0])  # with the prompt, say
_SAME = np.array([3.0, 3.0, 3.0, 3.0])
_ODD = np.array([3.0, -3.0, 3.0, -3.0])


def explain(y: np.ndarray, responses: dict[str, Response]) -> Explanation:
    return explain_whitened(y, np.eye(len(y)), responses)


def _response(slopes: np.ndarray, **limits: float) -> Response:
    return Response(down=slopes, up=slopes, is_factor=True, prior=10.0, **limits)


def test_the_part_that_moves_as_the_difference_does_is_named() -> None:
    """Its size is found, and one that moves otherwise is no rival."""
    found = explain(2.0 * _GROWS, {"grows": _response(_GROWS), "same": _response(_SAME)})
    assert [(one.name, one.rivals) for one in found.parts] == [("grows", ())]
    assert found.parts[0].size == pytest.approx(2.0, rel=0.01)
    assert found.share > 0.99
    assert found.alone["grows"] > found.alone["same"]


def test_two_parts_are_taken_where_one_does_not_do() -> None:
    """Each gets its own size."""
    y = 2.0 * _GROWS - 1.5 * _ODD
    found = explain(y, {"grows": _response(_GROWS), "odd": _response(_ODD), "same": _response(_SAME)})
    sizes = {one.name: one.size for one in found.parts}
    assert sizes == {"grows": pytest.approx(2.0, rel=0.02), "odd": pytest.approx(-1.5, rel=0.02)}


def test_parts_that_move_alike_cannot_be_told_apart() -> None:
    """A twin stands among the rivals, however large the difference."""
    twin = _GROWS + np.array([0.01, -0.01, 0.01, 0.0])
    found = explain(3.0 * _GROWS, {"grows": _response(_GROWS), "twin": _response(twin), "odd": _response(_ODD)})
    assert {found.parts[0].name, *found.parts[0].rivals} == {"grows", "twin"}


def test_noise_is_explained_by_nothing() -> None:
    """Differences of about one standard deviation name no part."""
    draw = np.random.default_rng(3)
    for _ in range(50):
        y = np.clip(draw.normal(size=4), -2.0, 2.0)
        assert explain(y, {"grows": _response(_GROWS), "same": _response(_SAME)}).parts == ()


def test_a_part_stops_where_there_is_no_less_of_it() -> None:
    """A time of 2 cannot be shortened by 3: what is left stays unexplained."""
    found = explain(-3.0 * _SAME, {"same": _response(_SAME, lowest=-2.0)})
    assert found.parts[0].size == -2.0
    assert 0.8 < found.share < 0.95


def test_an_unlikely_size_loses_to_a_likely_one() -> None:
    """Of two parts that move alike, the one that need not change by a hundred times its prior is taken."""
    weak = Response(down=0.01 * _GROWS, up=0.01 * _GROWS, prior=2.0, is_factor=True)
    found = explain(5.0 * _GROWS, {"weak": weak, "grows": _response(_GROWS)})
    assert found.parts[0].name == "grows"
    assert "weak" not in found.parts[0].rivals


def test_added_seconds_move_what_is_short_more() -> None:
    """Of a part that adds seconds, the size is found where it triples one prediction and hardly moves another."""
    predicted = np.array([0.01, 0.1, 1.0])
    down, up = np.log1p(-0.004 / predicted), np.log1p(0.01 / predicted)
    added = Response.of(down, up, (-0.004, 0.01), is_factor=False, prior=0.05)
    found = explain_whitened(np.log1p(0.02 / predicted), np.eye(3) / 0.02, {"added": added})
    assert found.parts[0].size == pytest.approx(0.02, rel=0.02)
    assert found.share > 0.99
