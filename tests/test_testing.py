"""What strangers test their methods with: ours pass, the page's does, and broken ones do not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import taskscout.testing
from taskscout.methods.method import BaseMethod, Description, get_method
from taskscout.models.cache import NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.workbench import Workbench
from taskscout.testing import check_method
from tests.tiny import tiny_encoder

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "write-a-method.md"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    encoder: Encoder = tiny_encoder(tmp_path_factory.mktemp("tiny"))
    recipe = Recipe(least_steps=5, examples=30, batch_size=8)
    return Workbench(encoder, cache=NoCache(), recipe=recipe)


@pytest.mark.parametrize(
    "name",
    ["format", "size", "vocabulary", "terms-cosine", "text-embedding", "nearest-example",
     "embeddings-frechet", "logme", "esm-logme", "layered-esm-logme", "h-score", "lora-product"],
)  # fmt: skip
def test_ours_pass(bench: Workbench, name: str) -> None:
    check_method(get_method(name), bench=bench, tolerance=1e-5)


def test_the_page(bench: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    code, test = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(code[code.index("class ") :].splitlines()) < 40
    used: dict[str, object] = {}
    monkeypatch.setattr(
        taskscout.testing,
        "check_method",
        lambda m: used.update(m=m) or check_method(m, bench=bench),
    )
    exec(compile(code + test, str(PAGE), "exec"), {})
    assert used["m"].name == "energy-distance"  # type: ignore[attr-defined]


class Good(BaseMethod):
    """Mean of embeddings."""

    name = key = "good"

    def describe(self, source, bench):
        mean = bench.embeddings(source).mean(0)
        return Description(self.key, source.name, {}, {"mean": mean})

    def own(self, target, bench):
        return bench.embeddings(target).mean(0)

    def score(self, target, sources, bench):
        own = self.own(target, bench)
        return np.array([float(s.arrays["mean"] @ own) for s in sources])


class OrderOfRows(Good):
    def own(self, target, bench):
        return bench.embeddings(target)[0]


class OrderOfClasses(Good):
    def own(self, target, bench):
        return bench.embeddings(target)[target.labels("train") == 0].mean(0)


class Together(Good):
    def score(self, target, sources, bench):
        out = super().score(target, sources, bench)
        return out - out.mean() if len(out) else out


class AnotherKey(Good):
    def describe(self, source, bench):
        return Description("other", source.name, {}, {"mean": bench.embeddings(source).mean(0)})


class Hidden(Good):
    def describe(self, source, bench):
        return Description(self.key, source.name, {}, {"mean": bench.tuned_embeddings(source)[0]})


class OneColumn(Good):
    def score(self, target, sources, bench):
        return super().score(target, sources, bench)[:, None]


class Bare:
    name = "bare"


def test_a_good_one_passes(bench: Workbench) -> None:
    check_method(Good(), bench=bench, tolerance=1e-5)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (OrderOfRows(), "order of the rows"),
        (OrderOfClasses(), "order of the classes"),
        (Together(), "asked together"),
        (AnotherKey(), "describes 'other'"),
        (Hidden(), "texts are enough"),
        (OneColumn(), "shape"),
        (Bare(), "extend BaseMethod"),
    ],
)
def test_a_broken_rule_is_named(bench: Workbench, method: Good, message: str) -> None:
    fresh = Workbench(bench.encoder, cache=NoCache(), recipe=bench.recipe)
    with pytest.raises(AssertionError, match=message):
        check_method(method, bench=fresh, tolerance=1e-5)


def test_comparing_sources_is_allowed_where_it_is_said(bench: Workbench) -> None:
    check_method(Together(), bench=bench, independent=False, tolerance=1e-5)
