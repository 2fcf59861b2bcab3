"""Two stages: who is on the short list, in which order all come, and what is asked of whom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods.expression import parse_method
from taskscout.methods.joint import Joint, Parts, join
from taskscout.methods.method import BaseMethod, Description, Method, get_method
from taskscout.methods.two_stage import (
    RefinedLogME,
    TwoStage,
    chained,
    refined,
)
from taskscout.models.cache import NoCache
from taskscout.models.workbench import Workbench
from taskscout.tasks import Kind, Task
from tests.tiny import tiny_encoder, toy_task

TARGET = toy_task("target", n=40)
NAN = float("nan")


class Stub(BaseMethod):
    """Scores what its descriptions say, and remembers whom it was asked about."""

    def __init__(self, name: str, key: str, **scores: float) -> None:
        self.name, self.key, self.scores = name, key, scores
        self.asked: list[str] = []

    def describe(self, source: Task, bench: Workbench) -> Description:
        return Description(self.key, source.name)

    def none(self, bench: Workbench) -> Description | None:
        return Description(self.key, "none") if "none" in self.scores else None

    def score(
        self, target: Task, sources: Sequence[Description], bench: Workbench
    ) -> NDArray[np.float64]:
        assert all(s.key == self.key for s in sources)
        self.asked += [s.source for s in sources]
        return np.array([self.scores[s.source] for s in sources])


def bench() -> Workbench:
    return Workbench(cache=NoCache())


def described(*names: str, keys: Sequence[str] = ("a", "b")) -> list[Description]:
    return [join(n, [Description(k, n) for k in keys]) for n in names]


def run(
    first: Stub, second: Stub, *, keep: int, sources: Sequence[Description] | None = None
) -> dict[str, float]:
    method = TwoStage((first, second), keep=keep)
    if sources is None:
        none = method.none(bench())
        names = [n for n in first.scores if n != "none"]
        sources = [*described(*names), *([] if none is None else [none])]
    found = method.score(TARGET, sources, bench())
    return {s.source: float(x) for s, x in zip(sources, found, strict=True)}


def order(scores: dict[str, float]) -> str:
    return "".join(sorted(scores, key=lambda n: (np.isnan(scores[n]), -scores[n], n)))


def test_the_short_list_comes_first_by_the_second_method() -> None:
    first = Stub("one", "a", p=0.9, q=0.8, r=0.7, s=0.2, t=0.6)
    second = Stub("two", "b", p=10.0, q=30.0, r=20.0, s=99.0, t=99.0)
    found = run(first, second, keep=3)
    assert second.asked == ["p", "q", "r"]
    assert order(found) == "qrpts"
    assert [found[n] for n in "pqr"] == [10.0, 30.0, 20.0]
    # As far below the worst of the list (10) as first put them below its last (0.7).
    assert found["t"] == pytest.approx(10 - 0.1)
    assert found["s"] == pytest.approx(10 - 0.5)


def test_none_is_always_on_the_list_and_takes_no_place_of_it() -> None:
    first = Stub("one", "a", p=0.9, q=0.8, r=0.7, none=0.0)
    second = Stub("two", "b", p=1.0, q=3.0, r=9.0, none=2.0)
    found = run(first, second, keep=2)
    assert second.asked == ["p", "q", "none"]
    assert found == {"q": 3.0, "none": 2.0, "p": 1.0, "r": pytest.approx(0.9)}


def test_none_needs_no_score_of_the_first_method() -> None:
    first, second = Stub("one", "a", p=0.9, q=0.8), Stub("two", "b", p=1.0, q=5.0, none=2.0)
    assert run(first, second, keep=1) == {"none": 2.0, "p": 1.0, "q": pytest.approx(0.9)}
    without = Stub("two", "b", p=1.0, q=5.0)
    assert TwoStage((Stub("one", "a", none=1.0), without)).none(bench()) is None


def test_a_source_that_the_second_method_cannot_score_goes_to_the_rest() -> None:
    first = Stub("one", "a", p=0.9, q=0.8, r=0.7, s=0.6)
    second = Stub("two", "b", p=NAN, q=3.0, r=4.0)
    assert order(run(first, second, keep=3)) == "rqps"
    lacking = [
        *described("p", keys=("a",)),
        *described("q", "r", "s"),
    ]
    again = Stub("two", "b", p=99.0, q=3.0, r=4.0)
    assert order(run(first, again, keep=3, sources=lacking)) == "rqps"
    assert again.asked == ["q", "r"]


def test_a_source_that_the_first_method_cannot_score_has_no_score() -> None:
    first = Stub("one", "a", p=NAN, q=0.8, r=0.7)
    found = run(first, Stub("two", "b", p=9.0, q=3.0, r=4.0), keep=1)
    assert np.isnan(found["p"])
    assert order(found) == "qrp"
    only = [*described("p", keys=("b",)), *described("q", "r")]
    assert np.isnan(run(first, Stub("two", "b", q=1.0, r=2.0), keep=2, sources=only)["p"])


def test_ties_at_the_end_of_the_list_are_cut_by_name() -> None:
    first = Stub("one", "a", r=0.5, q=0.5, p=0.5)
    second = Stub("two", "b", p=1.0, q=2.0)
    found = run(first, second, keep=2)
    assert sorted(second.asked) == ["p", "q"]
    assert found["r"] < 1.0
    assert order(found) == "qpr"


def test_nothing_to_refine_with_is_an_error() -> None:
    first = Stub("one", "a", p=0.9, q=0.8, none=0.0)
    with pytest.raises(MethodError, match="two applies to none of the 2 sources that one puts"):
        run(first, Stub("two", "b", p=NAN, q=NAN, none=1.0), keep=5)
    with pytest.raises(MethodError, match=r"\(b\) is not kept"):
        run(first, Stub("two", "b", none=1.0), keep=5, sources=described("p", "q", keys=("a",)))


def test_both_may_read_the_same_description() -> None:
    first, second = Stub("one", "a", p=0.9, q=0.8), Stub("two", "a", p=1.0, q=2.0, none=0.5)
    method = TwoStage((first, second), keep=5)
    assert (method.reads, method.key) == (("a",), "a")
    none = method.none(bench())
    assert none == Description("a", "none")
    sources = [Description("a", "p"), Description("a", "q"), none]
    # First has no score for "none", and is not asked to have one.
    first.scores["none"] = NAN
    assert method.score(TARGET, sources, bench()).tolist() == [1.0, 2.0, 0.5]
    assert method.describe(TARGET, bench()) == Description("a", "target")


def test_what_it_needs_is_what_both_need() -> None:
    method = TwoStage(("size", "logme"), keep=10)
    assert method.reads == ("card", "tuned")
    assert method.needs == get_method("logme").needs
    assert method.cost == "source models"
    assert method.kinds == get_method("logme").kinds
    assert isinstance(method, Method)
    first, second = Stub("one", "a", p=1.0), Stub("two", "b", p=1.0)
    made = TwoStage((first, second)).describe(TARGET, bench())
    assert isinstance(made, Joint)
    assert set(made.parts) == {"a", "b"}


def test_a_kind_that_one_of_them_does_not_serve_is_not_served() -> None:
    second = Stub("two", "b")
    kinds: tuple[Kind, ...] = ("regression",)
    second.kinds = kinds
    method = TwoStage((Stub("one", "a", p=1.0), second))
    assert method.kinds == kinds


def test_three_stages() -> None:
    one = Stub("one", "a", **{n: -i for i, n in enumerate("pqrst")})
    two = Stub("two", "b", p=1, q=2, r=3, s=4)
    three = Stub("three", "c", s=1, r=2)
    method = TwoStage((TwoStage((one, two), keep=4), three), keep=2)
    sources = described(*"pqrst", keys="abc")
    found = dict(zip("pqrst", method.score(TARGET, sources, bench()).tolist(), strict=True))
    assert order(found) == "rsqpt"
    assert set(three.asked) == {"r", "s"}


@given(
    data=st.lists(
        st.tuples(
            st.one_of(st.just(NAN), st.integers(-3, 3), st.floats(-9, 9)),
            st.one_of(st.just(NAN), st.integers(-3, 3), st.floats(-9, 9)),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_chained_scores_sort_as_they_should(data: list[tuple[float, float]]) -> None:
    first, second = (np.array(x, float) for x in zip(*data, strict=True))
    found = chained(first, second)
    short = ~np.isnan(second)
    rest = ~short & ~np.isnan(first)
    np.testing.assert_array_equal(found[short], second[short])
    assert np.isnan(found[~short & ~rest]).all()
    if rest.any():
        assert np.isfinite(found[rest]).all()
        assert not short.any() or found[rest].max() < found[short].min()
        for i in np.flatnonzero(rest):
            for j in np.flatnonzero(rest):
                assert first[i] <= first[j] or found[i] >= found[j]


# -- how it is written ---------------------------------------------------------------------------


def test_how_it_is_written() -> None:
    method = parse_method("esm-logme > logme")
    assert isinstance(method, TwoStage)
    assert method.name == "esm-logme>logme"
    assert method.reads == ("space-map", "tuned")
    assert method.keep == 10
    for text in (
        "logme",
        "size>esm-logme>logme",
        "rrf(esm-logme,vocabulary)>logme",
        "rrf(esm-logme>logme,vocabulary)",
        "rrf(esm-logme>logme:2,vocabulary)>leep",
        "two-stage(size>esm-logme,logme,keep=3)",
        "two-stage(two-stage(size,esm-logme,keep=5),logme,keep=3)",
    ):
        assert parse_method(text).name == text
    again = get_method("two-stage", methods=["esm-h-score", "logme"], keep=3)
    assert again.name == "two-stage(esm-h-score,logme,keep=3)"


def test_none_is_a_word():
    """``centring=none`` is that option's value, not the absence of one."""
    method = parse_method("esm-logme(centring=none,unit-norm=false,compat=true)")
    assert (method.centring, method.unit_norm, method.compat) == ("none", False, True)


def test_options_reach_every_stage() -> None:
    gains = object()
    method = parse_method("source-prior>rrf(taskshop(size)>vocabulary,size)", gains=gains)
    assert isinstance(method, TwoStage)
    first, second = method.members
    assert first.gains is gains
    inner = second.members[0]
    assert inner.members[0].gains is gains


@pytest.mark.parametrize("text", ["esm-logme>", ">logme", "size>>random", ">", "rrf(size>,random)"])
def test_an_empty_stage_is_an_error(text: str) -> None:
    with pytest.raises(MethodError, match="cannot be read as a method") as caught:
        parse_method(text)
    assert caught.value.why == "The name of a method should stand there."


def test_only_the_short_list_is_read_for_the_second_method() -> None:
    """What the second method reads of the other sources is never asked of the pool."""
    read: list[tuple[str, str]] = []

    def source(name: str) -> Joint:
        def get(key: str) -> Description:
            read.append((key, name))
            return Description(key, name)

        return Joint("a+b", name, parts=Parts(("a", "b"), get))

    first = Stub("one", "a", p=0.9, q=0.8, r=0.7, s=0.2)
    second = Stub("two", "b", p=1.0, q=2.0)
    sources = [source(n) for n in "pqrs"]
    TwoStage((first, second), keep=2).score(TARGET, sources, bench())
    assert {n for k, n in read if k == "b"} == {"p", "q"}
    assert {n for k, n in read if k == "a"} == set("pqrs")
    read.clear()
    # Also inside a fusion, and where one of the stages is itself made of others.
    fusion = get_method("rrf", methods=[TwoStage((first, second), keep=1), first])
    fusion.score(TARGET, sources, bench())
    assert {n for k, n in read if k == "b"} == {"p"}


def test_wrong_arguments_are_errors() -> None:
    with pytest.raises(MethodError, match="3 methods"):
        TwoStage(("size", "logme", "leep"))
    with pytest.raises(MethodError, match="keep 0"):
        RefinedLogME(keep=0)
    empty = TwoStage()
    for call in (lambda: empty.score(TARGET, [], bench()), lambda: empty.none(bench())):
        with pytest.raises(MethodError, match="no methods"):
            call()


def test_it_is_registered_and_refines_any_method() -> None:
    for name in ("two-stage", "esm-logme>logme"):
        method = get_method(name)
        assert method.name == name
        assert type(method).__doc__ is not None
    assert refined(get_method("esm-gbc"), 5).name == "two-stage(esm-gbc,logme,keep=5)"
    assert refined(get_method("esm-gbc")).name == "esm-gbc>logme"


# -- with an encoder -----------------------------------------------------------------------------


def test_real_source_models_order_the_short_list_of_maps(tmp_path: Path) -> None:
    encoder = tiny_encoder(tmp_path)
    made = Workbench(encoder, cache=NoCache())
    rng = np.random.default_rng(0)

    def tuned(name: str) -> Description:
        arrays: dict[str, Any] = {"head.weight": np.zeros((2, 32)), "head.bias": np.zeros(2)}
        for layer in range(2):
            at = f"encoder.layer.{layer}.attention.self.query"
            arrays[f"{at}.lora_A"] = rng.standard_normal((2, 32)).astype(np.float16)
            arrays[f"{at}.lora_B"] = rng.standard_normal((32, 2)).astype(np.float16)
        header = {"kind": "classification", "encoder": encoder.fingerprint}
        return Description("tuned", name, header, arrays)

    def space_map(name: str) -> Description:
        inner, outer = rng.standard_normal((2, 32, 2))
        header = {"scale": 1.0, "rank": 2, "encoder": encoder.fingerprint}
        arrays = {"inner": inner, "outer": outer, "offset": np.zeros(32)}
        return Description("space-map", name, header, arrays)

    names = [f"source{i}" for i in range(6)]
    sources = [join(n, [space_map(n), tuned(n)]) for n in names]
    method = RefinedLogME(keep=3)
    none = method.none(made)
    assert none is not None
    found = method.score(TARGET, [*sources, none], made)
    # Three source models, and the encoder itself once for all maps.
    assert made.embedded == 4 * 40
    first, second = (
        get_method(n).score(TARGET, [s.parts[k] for s in (*sources, none)], made)
        for n, k in (("esm-logme", "space-map"), ("logme", "tuned"))
    )
    # Both are the encoder's own evidence: once from its statistics, once from its features.
    assert first[6] == pytest.approx(second[6], rel=1e-9)
    short = [*np.argsort(-first[:6])[:3], 6]
    rest = np.argsort(-first[:6])[3:]
    np.testing.assert_allclose(found[short], second[short], rtol=1e-9)
    assert found[rest].max() < found[short].min()
    assert (np.diff(found[rest]) < 0).all()
