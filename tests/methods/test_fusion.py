"""Fusion against slow counting, and the syntax in which methods are combined."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from taskscout.errors import MethodError
from taskscout.methods import expression
from taskscout.methods.fusion import (
    METHODS,
    ReciprocalRank,
    ZScore,
    parse_method,
    reciprocal_ranks,
    standardised_mean,
)
from taskscout.methods.joint import Joint, join, part, split
from taskscout.methods.method import BaseMethod, Description, Method

from .conftest import make_task

NAN = float("nan")


class Fixed(BaseMethod):
    """Scores by source name."""

    cost = "words"
    paper = "test"

    def __init__(self, name="fixed", scores=None, *, key=None, **changes):
        self.name, self.key, self.scores = name, key or name, scores or {}
        self.described = 0
        for attribute, value in changes.items():
            setattr(self, attribute, value)

    def describe(self, source, bench):
        self.described += 1
        return Description(self.key, source.name, {"made by": self.name})

    def score(self, target, sources, bench):
        assert all(s.key == self.key for s in sources)
        return np.array([self.scores.get(s.source, NAN) for s in sources])


def described(names, *methods):
    return [join(n, [Description(k, n) for m in methods for k in m.reads]) for n in names]


A = Fixed("a", {"s1": 0.9, "s2": 0.5, "s3": 0.1})
B = Fixed("b", {"s1": -5.0, "s2": 7.0})
TARGET = make_task()
NAMES = ["s1", "s2", "s3", "s4"]


def test_rrf_by_hand():
    scores = ReciprocalRank([A, B]).score(TARGET, described(NAMES, A, B), None)
    expected = [1 / 61 + 1 / 62, 1 / 62 + 1 / 61, 1 / 63, NAN]
    np.testing.assert_allclose(scores, expected)
    weighted = ReciprocalRank([A, B], weights=[1, 3], k=0)
    found = weighted.score(TARGET, described(NAMES, A, B), None)
    np.testing.assert_allclose(found, [1 + 3 / 2, 1 / 2 + 3, 1 / 3, NAN])


def test_zscore_by_hand():
    scores = ZScore([A, B], weights=[2, 1]).score(TARGET, described(NAMES, A, B), None)
    a, b = stats.zscore([0.9, 0.5, 0.1]), stats.zscore([-5.0, 7.0])
    expected = [(2 * a[0] + b[0]) / 3, (2 * a[1] + b[1]) / 3, a[2], NAN]
    np.testing.assert_allclose(scores, expected)


votes = arrays(float, (3, 5), elements=st.one_of(st.just(NAN), st.integers(-3, 3).map(float)))


@given(votes)
def test_rrf_against_a_slow_count(votes):
    found = reciprocal_ranks(votes, (1.0, 2.0, 1.0))
    for s in range(5):
        total = 0.0
        for row, weight in zip(votes, (1, 2, 1), strict=True):
            if not np.isnan(row[s]):
                better, same = np.sum(row > row[s]), np.sum(row == row[s])
                total += weight / (60 + better + (same + 1) / 2)
        if np.isnan(votes[:, s]).all():
            assert np.isnan(found[s])
        else:
            assert found[s] == pytest.approx(total)


@given(votes, st.floats(0.1, 100), st.floats(-10, 10))
def test_scale_and_order_do_not_matter(votes, scale, shift):
    order = np.random.default_rng(0).permutation(5)
    moved = votes.copy()
    moved[1] = scale * moved[1] + shift
    for fuse in (reciprocal_ranks, standardised_mean):
        found = fuse(votes, (1.0, 2.0, 1.0))
        np.testing.assert_allclose(fuse(votes[:, order], (1.0, 2.0, 1.0)), found[order])
        np.testing.assert_allclose(
            fuse(votes[[2, 0, 1]], (1.0, 1.0, 2.0)), found, rtol=1e-9, atol=1e-12
        )
    np.testing.assert_allclose(
        standardised_mean(moved, (1.0, 2.0, 1.0)),
        standardised_mean(votes, (1.0, 2.0, 1.0)),
        atol=1e-6,
    )


def test_zscore_of_equal_and_infinite_scores():
    votes = np.array([[0.1 + 0.2, 0.3, 0.3], [1.0, -np.inf, 3.0]])
    np.testing.assert_allclose(standardised_mean(votes, (1.0, 1.0)), [-0.5, 0, 0.5])


def test_one_method_keeps_its_order():
    for factory in (ReciprocalRank, ZScore):
        scores = factory([A]).score(TARGET, [Description("a", n) for n in NAMES], None)
        assert (np.diff(scores[:3]) < 0).all()
        assert np.isnan(scores[3])


def test_a_source_without_a_description_gets_no_vote():
    sources = [join("s1", [Description("a", "s1")]), *described(["s2", "s3"], A, B)]
    votes = ReciprocalRank([A, B]).votes(TARGET, sources, None)
    np.testing.assert_array_equal(votes, [[0.9, 0.5, 0.1], [NAN, 7, NAN]])


def test_a_method_of_another_kind_does_not_vote():
    tagger = Fixed("tagger", dict.fromkeys(NAMES, 1.0), kinds=("tagging",))
    fused = ReciprocalRank([A, tagger])
    assert np.isnan(fused.votes(TARGET, described(NAMES, A, tagger), None)[1]).all()
    with pytest.raises(MethodError, match="serves targets of kind classification"):
        ReciprocalRank([tagger]).score(TARGET, described(NAMES, tagger), None)


def test_what_a_fusion_declares():
    costly = Fixed("c", cost="source models", needs=frozenset({"labels"}), kinds=("regression",))
    card = Fixed("d", key="card", cost="card", needs=frozenset({"grid"}), kinds=("tagging",))
    fused = ZScore([costly, card, A], weights=[1, 2, 0.5])
    assert isinstance(fused, Method)
    assert fused.name == "zscore(c,d:2,a:0.5)"
    assert fused.reads == ("c", "card", "a")
    assert fused.key == "c+card+a"
    assert fused.cost == "source models"
    assert fused.needs == {"labels", "grid"}
    assert set(fused.kinds) == set(A.kinds)
    assert ReciprocalRank([A, B], k=10).name == "rrf(a,b,k=10)"


def test_describe_makes_shared_descriptions_once(bench):
    one, two, three = Fixed("x", key="k"), Fixed("y", key="k"), Fixed("z")
    made = ReciprocalRank([one, two, three]).describe(make_task("s"), bench)
    assert isinstance(made, Joint)
    assert [d.key for d in split(made)] == ["k", "z"]
    assert (one.described, two.described, three.described) == (1, 0, 1)
    alone = ReciprocalRank([one, two]).describe(make_task("s"), bench)
    assert alone.key == "k"
    assert not isinstance(alone, Joint)
    assert split(alone) == (alone,)


def test_none_is_there_where_all_have_it(bench):
    with_none = Fixed("n", none=lambda bench: Description("n", "none"))
    other = Fixed("m", none=lambda bench: Description("m", "none"))
    assert ReciprocalRank([A, with_none]).none(bench) is None
    assert ReciprocalRank().none(bench) is None
    both = ReciprocalRank([with_none, other]).none(bench)
    assert both.source == "none"
    assert set(both.parts) == {"n", "m"}
    assert ReciprocalRank([with_none]).none(bench).key == "n"


def test_joints():
    a, b = (
        Description("a", "s", arrays={"x": np.zeros(3)}),
        Description("b", "s", arrays={"x": np.zeros(5)}),
    )
    both = join("s", [a, None, b, a])
    assert both.key == "a+b"
    assert both.size == a.size + b.size
    assert part(both, A) is a
    assert part(a, A) is a
    assert part(a, B) is None
    assert part(join("s", [a]), B) is None
    nested = ReciprocalRank([A, Fixed("c")])
    assert part(both, nested).parts == {"a": a}
    assert part(join("s", [b]), nested) is None


def test_fusions_of_fusions():
    inner = ZScore([A, B])
    outer = ReciprocalRank([inner, A])
    scores = outer.score(TARGET, described(NAMES, A, B), None)
    z = inner.score(TARGET, described(NAMES, A, B), None)
    expected = reciprocal_ranks(np.stack([z, [0.9, 0.5, 0.1, NAN]]), (1.0, 1.0))
    np.testing.assert_allclose(scores, expected)


def test_options_that_make_no_sense():
    for wrong in ({"weights": [1.0]}, {"weights": [1.0, 0.0]}, {"weights": [1.0, NAN]}):
        with pytest.raises(MethodError, match="weight"):
            ZScore([A, B], **wrong)
    with pytest.raises(MethodError, match="k -1"):
        ReciprocalRank([A], k=-1)
    for factory in METHODS.values():
        method = factory()
        assert isinstance(method, Method)
        assert "Cost:" in inspect.getdoc(type(method))
        with pytest.raises(MethodError, match=r"was given no methods.*\(esm-logme,vocabulary\)"):
            method.score(TARGET, described(NAMES, A), None)


# -- the syntax -------------------------------------------------------------------------------


@pytest.fixture
def register(monkeypatch):
    """Only fusions and three plain methods are known."""

    def a(*, depth: int = 1, word: str = "", gains: object = None) -> Fixed:
        return Fixed("a", depth=depth, alias=word, gains=gains)

    def pivot(base: Method | None = None, *, gains: object = None) -> Fixed:
        return Fixed(f"pivot({base.name if base else ''})", base=base, gains=gains)

    known = {**METHODS, "a": a, "b-c": lambda: Fixed("b-c"), "pivot": pivot}

    def get(name, **options):
        if name not in known:
            raise MethodError(f"There is no method {name!r}.", "", "")
        return known[name](**options)

    from taskscout.methods.method import _Register

    monkeypatch.setattr(_Register, "factories", classmethod(lambda cls: known))
    monkeypatch.setattr(expression, "get_method", get)


@pytest.mark.usefixtures("register")
def test_parse():
    assert parse_method("a").name == "a"
    assert parse_method(" rrf( a , b-c ) ").name == "rrf(a,b-c)"
    assert parse_method("rrf(a:2,b-c:0.5,k=10)").name == "rrf(a:2,b-c:0.5,k=10)"
    nested = parse_method("zscore(rrf(a,b-c):3,pivot(a))")
    assert nested.name == "zscore(rrf(a,b-c):3,pivot(a))"
    assert nested.weights == (3.0, 1.0)
    assert parse_method(nested.name).name == nested.name
    method = parse_method("a(depth=3,word=some text)")
    assert (method.depth, method.alias) == (3, "some text")
    assert parse_method("rrf()").members == ()


@pytest.mark.usefixtures("register")
def test_options_reach_those_who_know_them():
    found = parse_method("rrf(a,pivot(b-c),pivot(a(gains=own)))", gains="grid")
    assert found.members[0].gains == "grid"
    assert found.members[1].gains == "grid"
    assert found.members[2].base.gains == "own"
    assert parse_method("rrf(b-c)", gains="grid").name == "rrf(b-c)"  # nobody there needs it


@pytest.mark.usefixtures("register")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "The name of a method"),
        ("rrf(", "The name of a method"),
        ("rrf(a", "A comma or a closing bracket"),
        ("rrf(a,,b-c)", "The name of a method"),
        ("rrf(a)b", "Nothing should stand"),
        ("rrf(a:x)", "A weight"),
        ("rrf(a:)", "A weight"),
        ("rrf(a,k=)", "A value of k"),
        ("rrf(unknown)", "no method 'unknown'"),
        ("b-c(a)", "It is not made of others"),
        ("pivot(a,b-c)", "It is made of one"),
        ("pivot(a:2)", "without a weight"),
    ],
)
def test_parse_says_what_is_wrong(text, message):
    with pytest.raises(MethodError, match=message):
        parse_method(text)


@given(st.text(alphabet="ab-c(),:=rf ", max_size=20))
def test_any_text_is_read_or_refused(text):
    try:
        parse_method(text)
    except MethodError:
        pass
