"""Scores on source models and on space maps, with a tiny encoder that is really tuned."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from taskscout.errors import DataError, MethodError
from taskscout.methods import scores as s
from taskscout.methods.evidence import logme
from taskscout.methods.evidence_rows import evidence_rows
from taskscout.methods.expression import parse_method
from taskscout.methods.feature_score import FeatureScore, label_columns_of
from taskscout.methods.method import Description, Method, get_method
from taskscout.methods.source_features import SourceModels, SpaceMaps, describe_tuned
from taskscout.methods.space_map import SpaceMap
from taskscout.methods.transferability import METHODS
from taskscout.models.cache import EmbeddingCache, NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from tests.methods.conftest import permuted
from tests.tiny import BAD, GOOD, TOPICS, tiny_encoder, toy_task

Array = NDArray[np.float64]

#: Enough for a tiny encoder to learn a task of a few words.
RECIPE = Recipe(least_steps=60, batch_size=16, learning_rate=6e-3, head_learning_rate=6e-3)

SENTIMENT = toy_task("sentiment", n=96)
TOPIC = toy_task("topic", n=96, words=TOPICS)
#: Its values follow the sentiment.
VALUE = toy_task("value", n=96, regression=True)
SOURCES = (SENTIMENT, TOPIC, VALUE)


def three_classes() -> Task:
    """Sentiment and one topic: no source knows all three classes."""
    return toy_task("three", n=60, seed=5, words=(GOOD, BAD, TOPICS[0]))


TARGETS = {
    "classes": toy_task("target", n=60, seed=5),
    "three": three_classes(),
    "values": toy_task("values", n=60, seed=5, regression=True),
    "pairs": toy_task("pairs", n=60, seed=5, pairs=True),
}


@dataclass
class Made:
    """A bench, and what every source is described by."""

    bench: Workbench
    tuned: list[Description]
    maps: list[Description]
    layered: list[Description]

    def of(self, method: Method) -> list[Description]:
        known = {"tuned": self.tuned, "space-map": self.maps, "layered-map": self.layered}
        return known[method.key]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def made(tiny: Encoder) -> Made:
    bench = Workbench(tiny, cache=NoCache(), recipe=RECIPE)
    return Made(
        bench,
        [get_method("logme").describe(t, bench) for t in SOURCES],
        [get_method("esm-logme").describe(t, bench) for t in SOURCES],
        [get_method("layered-esm-logme").describe(t, bench) for t in SOURCES],
    )


def merged_by_hand(encoder: Encoder, description: Description) -> Any:
    """A fresh model whose state holds W + B A."""
    import torch

    model = encoder.load_model()
    state = model.state_dict()
    for name, a in description.arrays.items():
        if name.endswith(".lora_A"):
            layer = name.removesuffix(".lora_A")
            b = description.arrays[f"{layer}.lora_B"]
            change = b.astype(np.float64) @ a.astype(np.float64)
            state[f"{layer}.weight"] = state[f"{layer}.weight"] + torch.tensor(change).float()
    model.load_state_dict(state)
    return model


#: What a method computes of features (in a fixed order) and labels; None where predictions count.
PLAIN: dict[str, Callable[[Array, NDArray[Any]], float]] = {
    "h-score": s.h_score,
    "nleep": s.nleep,
    "transrate": lambda f, y: s.transrate(f, y),
    "gbc": s.gbc,
    "parc": s.parc,
    "knn": s.knn,
    "linear-probe": s.linear_probe,
    "frozen-transfer": s.frozen_transfer,
}
HEADS: dict[str, Callable[[Array, NDArray[Any]], float]] = {
    "leep": lambda logits, y: s.leep(softmax(logits, axis=1), y),
    "nce": lambda logits, y: s.nce(logits.argmax(1), y),
}


def plain_logme(f: Array, target: Task) -> float:
    columns = label_columns_of(target.labels("train"), compat=False)[evidence_rows(target).order()]
    return logme(f, columns, centring="both", unit_norm=True)


def expected(name: str, features: Array, target: Task, source: Description) -> float:
    """The score by its own function, on features in the target's own order of rows."""
    order = evidence_rows(target).order()
    f, y = np.asarray(features, np.float64)[order], target.labels("train")[order]
    if name == "logme":
        return plain_logme(f, target)
    if name in HEADS:
        if source.header["kind"] != "classification":
            return float("nan")
        weight = source.arrays["head.weight"].astype(np.float64)
        return HEADS[name](f @ weight.T + source.arrays["head.bias"], y)
    return PLAIN[name](f, y)


def serves(name: str) -> list[str]:
    return [k for k, t in TARGETS.items() if t.kind in get_method(name).kinds]


NAMES = ("logme", *PLAIN, *HEADS)
PAIRS = [(n, t) for n in NAMES for t in serves(n) if t in ("three", "values")]


def test_every_score_exists_twice() -> None:
    assert set(METHODS) == {*NAMES, *(f"esm-{n}" for n in NAMES), "layered-esm-logme"}
    for name, factory in METHODS.items():
        method = factory()
        assert isinstance(method, Method)
        assert method.name == name
        assert isinstance(method, FeatureScore)
        assert isinstance(method.backend, SpaceMaps if "esm-" in name else SourceModels)
        assert "labels" in method.needs
        assert ("tuned source" in method.needs) == (method.key == "tuned")
        assert method.cost == ("source models" if method.key == "tuned" else "embedding")
        assert method.kinds == get_method(name.rpartition("esm-")[2]).kinds
        assert method.paper


@pytest.mark.parametrize("name", METHODS)
def test_every_method_explains_itself_in_half_a_page(name: str) -> None:
    text = inspect.getdoc(get_method(name))
    assert text is not None
    assert 10 <= len(text.splitlines()) <= 45
    own = "*Source models*", "*Space maps*", "*Layered maps*"
    assert [part in text for part in own] == [
        "esm-" not in name,
        name.startswith("esm-"),
        name.startswith("layered-"),
    ]
    for part in ("score =", "*Cost.*", "*Fails*", "*Reference.*"):
        assert part in text, part


# -- source models -------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_source_model_is_the_encoder_with_the_adapter_merged(
    made: Made, tiny: Encoder, name: str, kind: str
) -> None:
    target = TARGETS[kind]
    found = get_method(name).score(target, made.tuned, made.bench)
    for score, source in zip(found, made.tuned, strict=True):
        model = merged_by_hand(tiny, source)
        features = tiny.encode(*target.inputs("train"), model=model)
        # Merging in another precision moves embeddings in their last digits.
        tolerance = 0.05 if name in ("knn", "linear-probe", "nleep", "frozen-transfer") else 1e-3
        np.testing.assert_allclose(
            score, expected(name, features, target, source), rtol=1e-3, atol=tolerance
        )
    assert not np.isnan(found[:2]).any()


def test_source_embeddings_are_those_of_the_tuned_model(made: Made) -> None:
    for task, source in zip(SOURCES, made.tuned, strict=True):
        found = made.bench.source_embeddings(task, source.arrays)
        np.testing.assert_allclose(found, made.bench.tuned_embeddings(task), atol=5e-3)
        assert np.abs(found - made.bench.embeddings(task)).max() > 0.05


def test_pairs_are_embedded_as_pairs(made: Made, tiny: Encoder) -> None:
    target = TARGETS["pairs"]
    source = made.tuned[0]
    texts, pairs = target.inputs("train")
    assert pairs is not None
    model = merged_by_hand(tiny, source)
    np.testing.assert_allclose(
        made.bench.source_embeddings(target, source.arrays),
        tiny.encode(texts, pairs, model=model),
        atol=1e-5,
    )


def test_the_base_model_comes_back_untouched(made: Made, tiny: Encoder) -> None:
    bench = Workbench(tiny, cache=NoCache())
    own = {k: v.clone() for k, v in tiny.load_model().state_dict().items()}
    before = bench.embeddings(SENTIMENT).copy()

    def unchanged(model: Any) -> bool:
        state = model.state_dict()
        return state.keys() == own.keys() and all((state[k] == own[k]).all() for k in own)

    places = {n: p.data_ptr() for n, p in bench._carrier.named_parameters()}
    for source in (*made.tuned, *made.tuned):
        bench.source_embeddings(SENTIMENT, source.arrays)
        assert unchanged(bench._carrier)
    assert {n: p.data_ptr() for n, p in bench._carrier.named_parameters()} == places
    assert unchanged(tiny._model)

    adapter = {k: a for k, a in made.tuned[0].arrays.items() if "lora" in k}
    lent = bench._adapted_model(adapter)
    assert not unchanged(lent.__enter__())
    assert not lent.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert unchanged(bench._carrier)
    broken = {"encoder.layer.0.attention.self.query.lora_A": np.ones((2, 7), np.float32)}
    with pytest.raises(KeyError):
        bench.source_embeddings(TOPIC, broken)
    assert unchanged(bench._carrier)
    bench.forget(SENTIMENT)
    np.testing.assert_array_equal(bench.embeddings(SENTIMENT), before)


def test_a_second_run_embeds_nothing(
    made: Made, tiny: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = TARGETS["classes"]
    first = Workbench(tiny, cache=EmbeddingCache(tmp_path))
    found = get_method("logme").score(target, made.tuned, first)
    distinct = len(set(target.inputs("train")[0]))
    assert first.recalled < 3 * 60
    assert first.embedded >= 3 * distinct
    other = Encoder(tiny.folder, max_length=32, precision="fp32", device="cpu")
    monkeypatch.setattr(other, "load_model", lambda: pytest.fail("a model was loaded"))
    second = Workbench(other, cache=EmbeddingCache(tmp_path))
    again = get_method("logme").score(target, made.tuned, second)
    assert (second.embedded, second.recalled) == (0, 3 * 60)
    np.testing.assert_array_equal(again, found)
    # Neither sources nor the base are taken for one another.
    spaces = second.cache.info().spaces
    assert len(spaces) == 3
    assert sorted(x.label.rpartition(" ")[2] for x in spaces) == ["sentiment", "topic", "value"]


def test_a_bench_asks_a_source_model_once(made: Made, tiny: Encoder) -> None:
    bench = Workbench(tiny, cache=NoCache())
    target = TARGETS["classes"]
    for name in ("logme", "h-score", "leep"):
        get_method(name).score(target, made.tuned, bench)
    assert bench.embedded == 3 * 60


def test_memory_for_source_embeddings_is_bounded(
    made: Made, tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taskscout.models.workbench._SOURCE_BYTES", 2 * 60 * 32 * 4)
    bench = Workbench(tiny, cache=NoCache())
    target = TARGETS["classes"]
    for _ in range(2):
        get_method("logme").score(target, made.tuned, bench)
    assert bench.embedded == (3 + 1) * 60
    bench.forget(target)
    get_method("logme").score(target, made.tuned[2:], bench)
    get_method("logme").score(target, made.tuned[2:], bench)
    assert bench.embedded == (3 + 1 + 1) * 60


def test_the_same_rows_in_another_order_are_not_mixed_up(made: Made) -> None:
    target = TARGETS["classes"]
    n = 60
    order = np.random.default_rng(0).permutation(n)
    shuffled = target.take({"train": order})
    assert shuffled.fingerprint == target.take({"train": np.arange(n)}).fingerprint
    arrays = made.tuned[0].arrays
    np.testing.assert_allclose(
        made.bench.source_embeddings(shuffled, arrays),
        made.bench.source_embeddings(target, arrays)[order],
        atol=1e-5,
    )


# -- space maps ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_space_map_stands_for_the_source_model(made: Made, name: str, kind: str) -> None:
    target = TARGETS[kind]
    found = get_method(f"esm-{name}").score(target, made.maps, made.bench)
    base = made.bench.embeddings(target)
    for score, source in zip(found, made.maps, strict=True):
        arrays = source.arrays
        mapped = SpaceMap(
            source.header["scale"], arrays["inner"], arrays["outer"], arrays["offset"]
        )(base)
        np.testing.assert_allclose(score, expected(name, mapped, target, source), rtol=1e-6)
    assert not np.isnan(found[:2]).any()


@pytest.mark.parametrize("name", ["esm-logme", "layered-esm-logme"])
@pytest.mark.parametrize("validation", [True, False])
def test_a_map_of_some_rows_is_of_the_model_of_all(
    tiny: Encoder, name: str, validation: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map is fitted on a part of a source's texts, to the model tuned on all of them."""
    source = SENTIMENT
    if not validation:
        source = replace(source, tables={"train": source.tables["train"]})
    bench = Workbench(tiny, cache=NoCache(), recipe=RECIPE)
    model = bench.tuned(source)
    method = get_method(name)
    assert isinstance(method, FeatureScore)
    maps = method.backend
    assert isinstance(maps, SpaceMaps)
    monkeypatch.setattr(maps, "examples", 40)
    monkeypatch.setattr(maps, "rank", 32)
    found = method.describe(source, bench)
    assert bench.tunings == 1
    arrays = found.arrays
    space_map = SpaceMap(found.header["scale"], arrays["inner"], arrays["outer"], arrays["offset"])
    rows = source.sample(40)
    mapped = space_map(bench.embeddings(rows, middle=maps.middle))
    wanted = tiny.encode(*rows.inputs("train"), model=model.model.body).astype(np.float64)
    other = bench.tuned_embeddings(rows).astype(np.float64)  # of a model of these rows alone
    assert bench.tunings == 2
    assert ((mapped - wanted) ** 2).sum() < 0.5 * ((mapped - other) ** 2).sum()


@pytest.mark.parametrize(("name", "kind"), [p for p in PAIRS if p[0] not in HEADS])
def test_none_is_the_untouched_encoder(made: Made, name: str, kind: str) -> None:
    target = TARGETS[kind]
    methods = get_method(name), get_method(f"esm-{name}")
    nones = [m.none(made.bench) for m in methods]
    assert all(n is not None and n.source == "none" for n in nones)
    found = [m.score(target, [n], made.bench)[0] for m, n in zip(methods, nones, strict=True) if n]
    assert found[0] == pytest.approx(found[1], rel=1e-9)
    base = made.bench.embeddings(target)
    assert found[0] == pytest.approx(expected(name, base, target, made.tuned[0]), rel=1e-7)


@pytest.mark.parametrize("kind", ["three", "values"])
def test_compat_is_as_released(made: Made, kind: str) -> None:
    """Neither centring nor unit norm nor standardised values, unless they are asked for."""
    target = TARGETS[kind]
    base = made.bench.embeddings(target)
    labels = target.labels("train")
    for name in ("logme", "esm-logme"):
        none = get_method(name).none(made.bench)
        assert none is not None
        released = parse_method(f"{name}(compat=true)").score(target, [none], made.bench)[0]
        assert released == pytest.approx(logme(base, labels, compat=True), rel=1e-6)
        ours = parse_method(f"{name}(compat=true, centring=both, unit_norm=true)")
        found = ours.score(target, [none], made.bench)[0]
        wanted = logme(base, labels, compat=True, centring="both", unit_norm=True)
        assert found == pytest.approx(wanted, rel=1e-6)
        assert abs(found - released) > 1e-3


@pytest.mark.parametrize("compat", [False, True])
def test_logme_of_none_is_the_same_number_on_both_sides(made: Made, compat: bool) -> None:
    found = []
    for name in ("logme", "esm-logme", "layered-esm-logme"):
        method = get_method(name, compat=compat)
        none = method.none(made.bench)
        assert none is not None
        found.append(method.score(TARGETS["classes"], [none], made.bench)[0])
    assert found == pytest.approx([found[0]] * 3, rel=1e-10)


@pytest.mark.parametrize("kind", ["three", "values", "pairs"])
def test_a_layered_map_reads_the_middle_layer(made: Made, kind: str) -> None:
    target = TARGETS[kind]
    found = get_method("layered-esm-logme").score(target, made.layered, made.bench)
    base = made.bench.embeddings(target, middle=True)
    for score, source in zip(found, made.layered, strict=True):
        arrays = source.arrays
        assert source.header["rank"] == 8
        assert {k: a.shape for k, a in arrays.items()} == {
            "inner": (64, 8), "outer": (32, 8), "offset": (32,),
            "words.inner": (64, 8), "words.outer": (32, 8), "words.offset": (32,),
        }  # fmt: skip
        layered = SpaceMap(
            source.header["scale"], arrays["inner"], arrays["outer"], arrays["offset"]
        )
        wanted = expected("logme", layered(base), target, source)
        np.testing.assert_allclose(score, wanted, rtol=1e-6)
        # What the middle layer tells plays a part, unless no features tell these labels: then
        # the best weights are none.
        alone = layered(np.hstack([base[:, :32], np.zeros_like(base[:, 32:])]))
        least = 1e-10 if kind == "pairs" else 1e-5
        assert abs(expected("logme", alone, target, source) - score) > least


@pytest.mark.parametrize("name", ["leep", "nce", "esm-leep", "esm-nce"])
def test_the_untouched_encoder_predicts_nothing(made: Made, name: str) -> None:
    assert get_method(name).none(made.bench) is None


def test_unregularised_h_scores_of_maps(made: Made) -> None:
    method = get_method("esm-h-score", shrinkage=None)
    found = method.score(TARGETS["classes"], made.maps, made.bench)
    np.testing.assert_allclose(found, found[0], rtol=1e-4)


# -- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
def test_orders_play_no_part(made: Made, tiny: Encoder, name: str) -> None:
    method, target = get_method(name), TARGETS["classes"]
    sources = made.of(method)
    straight = method.score(target, sources, made.bench)
    reverse = method.score(target, sources[::-1], made.bench)
    np.testing.assert_allclose(reverse[::-1], straight, rtol=1e-9)
    alone = [method.score(target, [x], made.bench)[0] for x in sources]
    np.testing.assert_allclose(alone, straight, rtol=1e-9)
    other = Workbench(tiny, cache=NoCache())
    shuffled = method.score(permuted(target.take({"train": np.arange(60)})), sources, other)
    np.testing.assert_allclose(shuffled, straight, rtol=1e-4, atol=1e-6)


OWN = [
    "logme",
    "esm-logme",
    "layered-esm-logme",
    "h-score",
    "gbc",
    "parc",
    "linear-probe",
    "leep",
    "nce",
    "esm-leep",
]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("own", [0, 1])
def test_a_source_is_the_best_for_its_own_task(made: Made, name: str, own: int) -> None:
    method = get_method(name)
    # The regression source was tuned on the same question as the first.
    sources = made.of(method)[:2]
    # A probe needs no source for tasks that are a bag of words.
    none = method.none(made.bench) if name != "linear-probe" else None
    task = replace(SOURCES[own], tables={"train": SOURCES[own].tables["train"].slice(0, 60)})
    found = method.score(task, [*sources, *([] if none is None else [none])], made.bench)
    assert int(np.argmax(found)) == own


@pytest.mark.parametrize("name", METHODS)
def test_nan_where_a_score_does_not_apply(made: Made, name: str) -> None:
    method = get_method(name)
    good, _, value = made.of(method)
    foreign = replace(good, header={**good.header, "encoder": "another"})
    arrays = {k: np.full_like(a, np.nan) for k, a in good.arrays.items()}
    broken = replace(good, arrays=arrays)
    found = method.score(TARGETS["classes"], [good, foreign, value, broken], made.bench)
    assert not np.isnan(found[0])
    assert np.isnan(found[[1, 3]]).all()
    assert np.isnan(found[2]) == (name.rpartition("esm-")[2] in HEADS)
    on_values = method.score(TARGETS["values"], [good], made.bench)
    assert np.isnan(on_values).all() == ("regression" not in method.kinds)


@pytest.mark.parametrize("name", METHODS)
def test_one_class_is_an_error(made: Made, name: str) -> None:
    method = get_method(name)
    train = TARGETS["classes"].tables["train"]
    one = train.filter(pa.compute.equal(train["label"], 1))
    task = replace(TARGETS["classes"], tables={"train": one})
    with pytest.raises(DataError, match="All labels are the same"):
        method.score(task, made.of(method), made.bench)


@pytest.mark.parametrize("name", METHODS)
def test_random_state_is_left_alone(made: Made, name: str) -> None:
    import torch

    method = get_method(name)
    found = []
    for seed in (1, 2):
        np.random.seed(seed)
        torch.manual_seed(seed)
        before = np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        found.append(method.score(TARGETS["classes"], made.of(method), made.bench))
        assert before == (np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    np.testing.assert_array_equal(*found)


# -- what is kept of a source --------------------------------------------------------------------


def test_a_source_is_kept_as_adapter_and_head(made: Made) -> None:
    source, tuned = made.tuned[0], made.bench.tuned(SENTIMENT)
    assert source.key == "tuned"
    assert source.header["kind"] == "classification"
    assert source.header["tuning"] == "lora"
    assert set(source.arrays) == {*tuned.adapter, "head.weight", "head.bias"}
    assert all(a.dtype == np.float16 for a in source.arrays.values())
    value = made.tuned[2]
    labels = VALUE.labels("train")
    assert value.header["center"] == pytest.approx(labels.mean())
    assert value.header["scale"] == pytest.approx(labels.std())


def test_a_source_tuned_without_an_adapter_is_refused_or_passed_over(
    made: Made, tiny: Encoder
) -> None:
    full = Workbench(tiny, cache=NoCache(), recipe=Recipe(tuning="full", least_steps=2))
    with pytest.raises(MethodError, match="'full'"):
        get_method("logme").describe(SENTIMENT, full)
    kept = {k: a for k, a in made.tuned[0].arrays.items() if k.startswith("head")}
    header = {**made.tuned[0].header, "tuning": "full"}
    lost = Description("tuned", "lost", header, kept)
    unsaid = Description("tuned", "unsaid", {**header, "tuning": None}, kept)
    method = get_method("logme")
    assert np.isnan(method.score(TARGETS["classes"], [lost, unsaid], made.bench)).all()


def test_a_source_whose_head_alone_was_tuned_has_the_base_features(tiny: Encoder) -> None:
    bench = Workbench(tiny, cache=NoCache(), recipe=Recipe(tuning="head", least_steps=4))
    source = describe_tuned(SENTIMENT, bench)
    method = get_method("logme")
    none = method.none(bench)
    assert none is not None
    found = method.score(TARGETS["classes"], [source, none], bench)
    assert found[0] == found[1]
    assert np.isfinite(get_method("leep").score(TARGETS["classes"], [source], bench)).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("logme", {"centring": "all"}, "none, features, both"),
        ("esm-nleep", {"energy": 1.0}, "between 0 and 1"),
        ("nleep", {"components": 0}, "1 or more"),
        ("h-score", {"shrinkage": "oas"}, "ledoit-wolf"),
        ("transrate", {"eps": 0.0}, "eps"),
        ("esm-transrate", {"bins": 1}, "2 or more"),
        ("gbc", {"covariance": "full"}, "spherical, diagonal"),
        ("gbc", {"components": 0}, "components"),
        ("parc", {"rows": 2}, "rows"),
        ("knn", {"k": 0}, "k 0"),
        ("esm-knn", {"metric": "manhattan"}, "euclidean, cosine"),
        ("linear-probe", {"folds": 1}, "folds"),
        ("frozen-transfer", {"epochs": 0}, "epochs"),
        ("leep", {"folds": 3}, "no option"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        get_method(name, **options)
