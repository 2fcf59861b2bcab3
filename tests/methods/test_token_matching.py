"""MAX against a loop over tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.method import Method
from taskscout.methods.token_matching import METHODS, Max, best_matches
from taskscout.models.encoder import Encoder
from tests.methods.test_tuned_parameters import (
    HALF,
    TASKS,
    cosine,
    described,
    normalised,
    task,
    tiny,
    world,
)

__all__ = ["tiny"]  # a fixture


def slow(source: NDArray[Any], target: NDArray[Any], direction: str = "source") -> float:
    """Mean over one prompt's tokens of the best cosine with one of the other's."""
    if direction == "both":
        return (slow(source, target) + slow(target, source)) / 2
    ours, others = (source, target) if direction == "source" else (target, source)
    total = 0.0
    for p in ours:
        total += max(cosine(p, q) for q in others)
    return total / len(ours)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99))
def test_matches_against_a_loop(n: int, k: int, other: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    sources, target = rng.normal(size=(n, k, 3)), rng.normal(size=(other, 3))
    units = np.array([normalised(s) for s in sources])
    for direction in ("source", "target", "both"):
        found = best_matches(units, normalised(target), direction)  # type: ignore[arg-type]
        expected = [slow(s, target, direction) for s in sources]
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("direction", ["source", "target", "both"])
@pytest.mark.parametrize("form", ["raw", "relative", "centred"])
def test_the_method_against_a_transcription(tiny: Encoder, direction: Any, form: Any) -> None:
    bench, _ = world(tiny, "prompt")
    method = Max(direction=direction, form=form)
    prompts = {n: m.parameters["prompt"].astype(float) for n, m in bench.models.items()}
    if form == "relative":
        prompts = {n: p - bench.models[n].initial["prompt"] for n, p in prompts.items()}
    if form == "centred":
        prompts = {n: normalised(p) for n, p in prompts.items()}
        mean = np.mean([prompts[n] for n in TASKS[1:]], 0)
        prompts = {n: p - mean for n, p in prompts.items()}
    expected = [slow(prompts[n], prompts["target"], direction) for n in TASKS[1:]]
    found = method.score(task("target"), described(method, bench), bench)
    np.testing.assert_allclose(found, expected, **HALF)


def test_a_prompt_matches_itself_wherever_its_tokens_stand(tiny: Encoder) -> None:
    bench, _ = world(tiny, "prompt")
    tokens = bench.models["target"].parameters["prompt"]
    bench.models["two"].parameters = {"prompt": tokens[[3, 1, 5, 0, 2, 4]]}
    for name in ("max", "max-reverse", "max-symmetric"):
        method = METHODS[name]()
        scores = method.score(task("target"), described(method, bench), bench)
        assert scores[1] == pytest.approx(1, abs=1e-3)
        assert scores.argmax() == 1


def test_both_directions_mirror_each_other() -> None:
    rng = np.random.default_rng(0)
    a, b = (normalised(rng.normal(size=(5, 4))) for _ in range(2))
    assert best_matches(a[None], b, "source") == pytest.approx(best_matches(b[None], a, "target"))
    assert best_matches(a[None], b, "both") == pytest.approx(best_matches(b[None], a, "both"))
    assert best_matches(a[None], b, "source") != pytest.approx(best_matches(b[None], a, "source"))


def test_order_does_not_matter(tiny: Encoder) -> None:
    bench, _ = world(tiny, "prompt")
    for factory in METHODS.values():
        method = factory()
        sources = described(method, bench)
        scores = method.score(task("target"), sources, bench)
        turned = method.score(task("target"), sources[::-1], bench)
        np.testing.assert_allclose(turned, scores[::-1], rtol=1e-6)


def test_names_and_options() -> None:
    for name, factory in METHODS.items():
        method = factory()
        assert isinstance(method, Method)
        assert (method.name, method.key) == (name, "prompt")
    with pytest.raises(MethodError):
        Max(direction="sideways")  # type: ignore[arg-type]
