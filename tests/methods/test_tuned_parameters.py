"""Tuned parameters as embeddings: formulas transcribed slowly, and the whole way once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods import lora_parameters, prompt_parameters, tuned_parameters
from taskscout.methods.fusion import ReciprocalRank
from taskscout.methods.joint import announce
from taskscout.methods.lora_parameters import Lora, LoraProduct, products
from taskscout.methods.method import Description, Method
from taskscout.methods.prompt_parameters import (
    PromptBigram,
    PromptFlatten,
    PromptMean,
    PromptUnigram,
    TupatePrompt,
)
from taskscout.methods.tuned_parameters import (
    BitFit,
    Prefix,
    TaskVector,
    TunedParameters,
    cosines,
    half,
)
from taskscout.models.adapting import digest
from taskscout.models.cache import NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.recipe import Recipe
from taskscout.models.tuned_model import TunedModel
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from tests.tiny import TOPICS, tiny_encoder, toy_task

METHODS = {
    **prompt_parameters.METHODS,
    **tuned_parameters.METHODS,
    **lora_parameters.METHODS,
}

Named = dict[str, NDArray[Any]]
FORMS = ("raw", "relative", "centred")
#: Numbers at which half precision stands.
HALF = {"rtol": 0, "atol": 2e-3}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


class Bench(Workbench):
    """A workbench whose tuned models are given, not tuned."""

    def __init__(self, encoder: Encoder, models: dict[str, TunedModel], recipe: Recipe) -> None:
        super().__init__(encoder, cache=NoCache(), recipe=recipe)
        self.models = models

    def tuned(self, task: Task, recipe: Recipe | None = None) -> TunedModel:
        assert recipe is not None
        assert recipe.tuning == self.models[task.name].recipe.tuning
        return self.models[task.name]


def model(initial: Named, parameters: Named, recipe: Recipe, *, early: Named = {}) -> TunedModel:  # noqa: B006
    checkpoints = {0.5: early} if early else {}
    return TunedModel(
        lambda: pytest.fail("the model itself is not needed"),
        recipe, parameters, initial, digest(initial), {}, 0.0, 0, checkpoints,
    )  # fmt: skip


SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "prompt": {"prompt": (6, 5)},
    "p-tuning-v2": {"prefix": (3, 8)},
    "bitfit": {"b.bias": (4,), "a.bias": (7,)},
}
TASKS = ("target", "one", "two", "three")


def world(encoder: Encoder, tuning: str, *, seed: int = 0) -> tuple[Bench, list[Description]]:
    """Four tasks with random parameters near one initialisation; three are described."""
    rng = np.random.default_rng(seed)

    def draw(size: float) -> Named:
        return {k: rng.normal(0, size, s).astype(np.float32) for k, s in SHAPES[tuning].items()}

    initial = draw(1)
    recipe = Recipe(tuning=tuning)  # type: ignore[arg-type]
    models = {}
    for name in TASKS:
        moved, early = draw(0.5), draw(0.2)
        models[name] = model(
            initial,
            {k: initial[k] + moved[k] for k in initial},
            recipe,
            early={k: initial[k] + early[k] for k in initial},
        )
    return Bench(encoder, models, recipe), []


def task(name: str) -> Task:
    return replace(toy_task(n=4), name=name)


def described(method: Method, bench: Bench) -> list[Description]:
    return [method.describe(task(n), bench) for n in TASKS[1:]]


# -- the formulas, slowly ---------------------------------------------------------------


def cosine(a: NDArray[Any], b: NDArray[Any]) -> float:
    a, b = a.astype(float).ravel(), b.astype(float).ravel()
    return float(sum(x * y for x, y in zip(a, b, strict=True))) / (
        float(sum(x * x for x in a)) ** 0.5 * float(sum(y * y for y in b)) ** 0.5
    )


def normalised(prompt: NDArray[Any]) -> NDArray[Any]:
    return np.array([token / np.sqrt((token**2).sum()) for token in prompt.astype(float)])


def slow_mean(p: NDArray[Any]) -> list[NDArray[Any]]:
    return [sum(normalised(p)) / len(p)]


def slow_tokens(p: NDArray[Any]) -> list[NDArray[Any]]:
    return [sum(p.astype(float)) / len(p)]


def slow_flatten(p: NDArray[Any]) -> list[NDArray[Any]]:
    return [np.concatenate(list(normalised(p)))]


def slow_unigram(p: NDArray[Any]) -> list[NDArray[Any]]:
    return [np.array([sum(t) / len(t) for t in normalised(p)])]


def slow_bigram(p: NDArray[Any]) -> list[NDArray[Any]]:
    tokens = normalised(p)
    return [np.concatenate([tokens[i], tokens[i + 1]]) for i in range(0, len(tokens) - 1, 2)]


Slow = Callable[[NDArray[Any]], list[NDArray[Any]]]
PROMPTS: tuple[tuple[type[TunedParameters], Slow], ...] = (
    (TupatePrompt, slow_tokens),
    (PromptMean, slow_mean),
    (PromptFlatten, slow_flatten),
    (PromptUnigram, slow_unigram),
    (PromptBigram, slow_bigram),
)


def slow_scores(embedded: dict[str, list[NDArray[Any]]], *, centred: bool) -> list[float]:
    """Mean of aligned cosines with the target, after the sources' mean is subtracted or not."""
    names = TASKS[1:]
    parts = range(len(embedded["target"]))
    mean = [np.mean([embedded[n][i] for n in names], 0) if centred else 0.0 for i in parts]
    return [
        float(np.mean([
            cosine(embedded[n][i] - mean[i], embedded["target"][i] - mean[i]) for i in parts
        ]))
        for n in names
    ]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("cls", "slow"), PROMPTS)
def test_prompts_against_a_transcription(
    tiny: Encoder, cls: type[TunedParameters], slow: Slow, form: Any
) -> None:
    bench, _ = world(tiny, "prompt")
    method = cls(form=form)
    minus = bench.models["target"].initial["prompt"] if form == "relative" else 0.0
    embedded = {n: slow(m.parameters["prompt"] - minus) for n, m in bench.models.items()}
    found = method.score(task("target"), described(method, bench), bench)
    np.testing.assert_allclose(found, slow_scores(embedded, centred=form == "centred"), **HALF)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("cls", "tuning", "embed"),
    [
        (Prefix, "p-tuning-v2", lambda a: np.mean(list(a["prefix"]), 0)),
        (BitFit, "bitfit", lambda a: np.array([*a["a.bias"], *a["b.bias"]])),
    ],
)
def test_linear_embeddings_against_a_transcription(
    tiny: Encoder, cls: type[TunedParameters], tuning: str, embed: Any, form: Any
) -> None:
    bench, _ = world(tiny, tuning)
    method = cls(form=form)
    initial = embed(bench.models["target"].initial) if form == "relative" else 0.0
    embedded = {n: [embed(m.parameters) - initial] for n, m in bench.models.items()}
    found = method.score(task("target"), described(method, bench), bench)
    np.testing.assert_allclose(found, slow_scores(embedded, centred=form == "centred"), **HALF)


def test_a_long_token_weighs_more_in_the_papers_embedding_alone(tiny: Encoder) -> None:
    bench, _ = world(tiny, "prompt")
    sources = described(PromptMean(), bench)
    target = bench.models["target"].parameters["prompt"]
    before = [cls().score(task("target"), sources, bench) for cls in (TupatePrompt, PromptMean)]
    target[0] *= 50
    after = [cls().score(task("target"), sources, bench) for cls in (TupatePrompt, PromptMean)]
    assert np.abs(after[0] - before[0]).max() > 0.01
    np.testing.assert_allclose(after[1], before[1], atol=1e-6)


def test_flatten_is_the_mean_of_aligned_cosines(tiny: Encoder) -> None:
    bench, _ = world(tiny, "prompt")
    flatten, bigram = (
        m.score(task("target"), described(m, bench), bench)
        for m in (PromptFlatten(), PromptBigram())
    )
    target = bench.models["target"].parameters["prompt"]
    one = bench.models["one"].parameters["prompt"]
    expected = np.mean([cosine(p, q) for p, q in zip(one, target, strict=True)])
    assert flatten[0] == pytest.approx(expected, abs=2e-3)
    np.testing.assert_allclose(bigram, flatten, atol=1e-6)


# -- LoRA ---------------------------------------------------------------------------------


def adapter(rng: np.random.Generator, rank: int, layers: Sequence[str] = ("x", "y")) -> Named:
    sizes = {"x": (5, 4), "y": (3, 6)}
    out = {}
    for layer in layers:
        rows, columns = sizes[layer]
        out[f"{layer}.lora_A"] = rng.normal(size=(rank, columns)).astype(np.float32)
        out[f"{layer}.lora_B"] = rng.normal(size=(rows, rank)).astype(np.float32)
    return out


def update(a: Named) -> NDArray[Any]:
    """B A of both layers, formed and joined; zero where a layer has none."""
    parts = []
    for layer, shape in (("x", (5, 4)), ("y", (3, 6))):
        there = f"{layer}.lora_A" in a
        product = a[f"{layer}.lora_B"].astype(float) @ a[f"{layer}.lora_A"] if there else None
        parts.append(np.zeros(shape).ravel() if product is None else product.ravel())
    return np.concatenate(parts)


def lora_world(
    encoder: Encoder, ranks: Sequence[int] = (2, 2, 2, 2), *, initialisation: bool = True
) -> tuple[Bench, list[Description]]:
    """Adapters as any pool keeps them, under the key ``tuned``."""
    rng = np.random.default_rng(1)
    recipe = Recipe(rank=ranks[0])
    initial = adapter(rng, ranks[0])
    models = {n: model(initial, adapter(rng, r), recipe) for n, r in zip(TASKS, ranks, strict=True)}
    header: dict[str, Any] = {"encoder": encoder.fingerprint, "center": 0.0, "scale": 7.0}
    if initialisation:
        header["initialisation"] = digest(initial)
    sources = [
        Description(
            "tuned",
            n,
            header,
            {
                **{k: v.astype(np.float16) for k, v in models[n].parameters.items()},
                "head.weight": np.ones((2, 4), np.float16),
                "head.bias": np.ones(2, np.float16),
            },
        )
        for n in TASKS[1:]
    ]
    return Bench(encoder, models, recipe), sources


@pytest.mark.parametrize("initialisation", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_raw_factors_against_their_concatenation(
    tiny: Encoder, form: Any, initialisation: bool
) -> None:
    bench, sources = lora_world(tiny, initialisation=initialisation)

    def joined(arrays: Named) -> NDArray[Any]:
        return np.concatenate([arrays[k].astype(float).ravel() for k in sorted(arrays)])

    minus = joined(bench.models["target"].initial) if form == "relative" else 0.0
    embedded = {n: [joined(m.parameters) - minus] for n, m in bench.models.items()}
    found = Lora(form=form).score(task("target"), sources, bench)
    np.testing.assert_allclose(found, slow_scores(embedded, centred=form == "centred"), **HALF)


@pytest.mark.parametrize("ranks", [(2, 2, 2, 2), (3, 1, 2, 4)])
@pytest.mark.parametrize("form", ["relative", "centred"])
def test_products_against_formed_products(
    tiny: Encoder, form: Any, ranks: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, sources = lora_world(tiny, ranks)
    embedded = {n: [update(m.parameters)] for n, m in bench.models.items()}
    expected = slow_scores(embedded, centred=form == "centred")
    method = LoraProduct(form=form)
    np.testing.assert_allclose(method.score(task("target"), sources, bench), expected, **HALF)
    monkeypatch.setattr(tuned_parameters, "_BATCH", 1)
    np.testing.assert_allclose(method.score(task("target"), sources, bench), expected, **HALF)


def test_inner_products_of_updates_exactly() -> None:
    rng = np.random.default_rng(3)
    adapters = [adapter(rng, 2), adapter(rng, 3, ["y"]), adapter(rng, 1, ["x"])]
    other = adapter(rng, 2, ["x"])
    mean = {"x": rng.normal(size=(5, 4))}
    m = np.concatenate([mean["x"].ravel(), np.zeros(18)])
    found = products(adapters, other, mean)
    for i, a in enumerate(adapters):
        assert found.inner[i] == pytest.approx((update(a) - m) @ (update(other) - m), rel=1e-6)
        assert found.squares[i] == pytest.approx(((update(a) - m) ** 2).sum(), rel=1e-6)


def test_products_do_not_see_how_they_are_factored(tiny: Encoder) -> None:
    bench, sources = lora_world(tiny)
    turn = np.array([[2.0, 1.0], [0.5, 3.0]])
    turned = [
        replace(s, arrays={
            k: (np.linalg.inv(turn) @ a.astype(float) if k.endswith("A")
                else a.astype(float) @ turn if k.endswith("B") else a)
            for k, a in s.arrays.items()
        })
        for s in sources
    ]  # fmt: skip
    target = task("target")
    method = LoraProduct()
    np.testing.assert_allclose(
        method.score(target, turned, bench), method.score(target, sources, bench), rtol=1e-6
    )
    assert not np.allclose(
        Lora().score(target, turned, bench), Lora().score(target, sources, bench), atol=1e-2
    )


# -- what does not fit ------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_compared_has_no_score(tiny: Encoder, form: Any) -> None:
    bench, _ = world(tiny, "prompt")
    method = PromptMean(form=form)
    good = described(method, bench)
    elsewhere = [
        replace(good[0], header={**good[0].header, "encoder": "another"}),
        replace(good[1], arrays={**good[1].arrays, "prompt": good[1].arrays["prompt"][:4]}),
    ]
    scores = method.score(task("target"), [*elsewhere, *good], bench)
    assert np.isnan(scores[:2]).all()
    np.testing.assert_array_equal(scores[2:], method.score(task("target"), good, bench))
    assert np.isnan(method.score(task("target"), elsewhere, bench)).all()
    assert method.score(task("target"), [], bench).shape == (0,)
    # Another initialisation: only what is relative to it can be compared.
    moved = replace(good[2], header={**good[2].header, "initialisation": "another"})
    scores = method.score(task("target"), [*good, moved], bench)
    assert np.isnan(scores[3]) == (form != "relative")
    if form == "relative":
        assert scores[3] == scores[2]


def test_factors_of_another_beginning_have_no_score(tiny: Encoder) -> None:
    bench, sources = lora_world(tiny)
    other = replace(sources[0], header={**sources[0].header, "initialisation": "another"})
    for form in FORMS:
        scores = Lora(form=form).score(task("target"), [other, *sources], bench)  # type: ignore[arg-type]
        assert np.isnan(scores[0])
        assert np.isfinite(scores[1:]).all()
    assert np.isfinite(LoraProduct().score(task("target"), [other], bench)).all()


@pytest.mark.parametrize("name", [n for n in METHODS if not n.startswith(("lora", "task"))])
def test_scores_do_not_depend_on_order_or_batches(
    tiny: Encoder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    method: Any = METHODS[name]()
    bench, _ = world(tiny, method.tuning)
    sources = described(method, bench)
    scores = method.score(task("target"), sources, bench)
    order = [2, 0, 1]
    turned = method.score(task("target"), [sources[i] for i in order], bench)
    np.testing.assert_allclose(turned, scores[order], rtol=1e-6)
    monkeypatch.setattr(tuned_parameters, "_BATCH", 1)
    np.testing.assert_allclose(method.score(task("target"), sources, bench), scores, rtol=1e-5)


def test_early_checkpoints(tiny: Encoder) -> None:
    bench, _ = world(tiny, "prompt")
    initial = bench.models["target"].initial["prompt"]
    late = described(PromptMean(), bench)
    embedded = {n: slow_mean(m.parameters["prompt"] - initial) for n, m in bench.models.items()}
    embedded["target"] = slow_mean(bench.models["target"].checkpoints[0.5]["prompt"] - initial)
    found = PromptMean(form="relative", at=0.5).score(task("target"), late, bench)
    np.testing.assert_allclose(found, slow_scores(embedded, centred=False), **HALF)
    both = PromptMean(form="relative", at=0.5, source_at=0.5)
    assert both.key == "prompt@0.5"
    embedded = {
        n: slow_mean(m.checkpoints[0.5]["prompt"] - initial) for n, m in bench.models.items()
    }
    found = both.score(task("target"), described(both, bench), bench)
    np.testing.assert_allclose(found, slow_scores(embedded, centred=False), **HALF)
    assert both.recipe(bench, 0.5).checkpoints == (0.5,)


def test_options_that_cannot_be_are_refused() -> None:
    for make in (
        lambda: PromptMean(form="absolute"),  # type: ignore[arg-type]
        lambda: PromptMean(at=0.0),
        lambda: PromptMean(source_at=1.5),
        lambda: LoraProduct(form="raw"),  # type: ignore[arg-type]
    ):
        with pytest.raises(MethodError):
            make()


# -- half precision -------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-12, 1e-4, 1.0, 1e9])
def test_half_precision_keeps_small_and_large_numbers(size: float) -> None:
    x = np.random.default_rng(0).normal(size=1000) * size
    halves, scale = half({"x": x})
    assert halves["x"].dtype == np.float16
    assert np.log2(scale) == int(np.log2(scale))
    back = halves["x"].astype(float) * scale
    assert np.abs(back - x).max() <= np.abs(x).max() * 2.0**-11
    assert half({"x": np.zeros(3)})[1] == 1.0


def test_cosines_of_nothing_are_nan() -> None:
    assert np.isnan(cosines(np.zeros((1, 3)), np.ones(3))).all()
    assert cosines(np.ones((1, 3)), np.ones(3)) == pytest.approx(1)


# -- the whole way ----------------------------------------------------------------------------


def test_every_name_has_its_method() -> None:
    assert len(METHODS) == 29
    for name, factory in METHODS.items():
        method = factory()
        assert isinstance(method, Method)
        assert method.name == name
        assert "Reference" in (inspect.getdoc(type(method)) or "")
        assert method.cost == "tuning"
        assert method.none(None) is None  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def real(tiny: Encoder) -> Workbench:
    """Really tunes, on toy tasks."""
    recipe = Recipe(least_steps=10, examples=40, batch_size=8)
    return Workbench(tiny, cache=NoCache(), recipe=recipe)


TARGET = toy_task("target", n=40, seed=5)
SOURCES = (
    replace(TARGET.take({"train": np.arange(38)}), name="copy"),
    toy_task("topics", n=40, seed=7, words=TOPICS),
    toy_task("crossed", n=40, seed=8, words=(TOPICS[0][:2] + TOPICS[1][:2], TOPICS[0][2:])),
)


@pytest.mark.parametrize(
    ("name", "key", "arrays"),
    [
        ("prompt-mean", "prompt", {"prompt": (100, 32), "vocabulary": (100,)}),
        ("prefix", "prefix", {"mean": (2 * 2 * 32,)}),
        ("bitfit", "bitfit", {"biases": (2 * (7 * 32 + 64 + 32) + 32 - 32 * 1,)}),
        ("task-vector", "task-vector", None),
        ("lora", "tuned", None),
    ],
)
def test_descriptions(
    tiny: Encoder, real: Workbench, name: str, key: str, arrays: dict[str, tuple[int, ...]] | None
) -> None:
    made = METHODS[name]().describe(SOURCES[0], real)
    assert (made.key, made.source) == (key, "copy")
    assert made.header["encoder"] == tiny.fingerprint
    assert made.header["recipe"]["seed"] == made.header["seed"] == 0
    if arrays is not None and name != "bitfit":
        assert {k: a.shape for k, a in made.arrays.items()} == arrays
    assert {a.dtype for k, a in made.arrays.items() if k != "vocabulary"} == {np.dtype(np.float16)}


def test_lora_describes_as_pools_do(real: Workbench) -> None:
    from taskscout.pools.build import describe_tuned

    ours, theirs = METHODS["lora"]().describe(SOURCES[0], real), describe_tuned(SOURCES[0], real)
    assert ours.key == theirs.key
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name in ours.arrays:
        np.testing.assert_array_equal(ours.arrays[name], theirs.arrays[name])
    assert all(ours.header[k] == v for k, v in theirs.header.items())


@pytest.mark.parametrize("form", FORMS)
def test_task_vectors_against_the_models_weights(tiny: Encoder, real: Workbench, form: Any) -> None:
    before = dict(tiny.load_model().named_parameters())
    recipe = real.recipe.with_tuning("full")

    def embedded(t: Task) -> list[NDArray[Any]]:
        after = dict(real.tuned(t, recipe).model.body.named_parameters())
        minus = 0.0 if form == "raw" else 1.0
        parts = [
            (after[n] - minus * before[n]).detach().numpy().ravel()
            for n in sorted(before)
            if not n.startswith("pooler")
        ]
        return [np.concatenate(parts)]

    names = dict(zip(TASKS[1:], SOURCES, strict=True)) | {"target": TARGET}
    expected = slow_scores({n: embedded(t) for n, t in names.items()}, centred=form == "centred")
    method = TaskVector(form=form)
    found = method.score(TARGET, [method.describe(s, real) for s in SOURCES], real)
    np.testing.assert_allclose(found, expected, **HALF)
    assert method.describe(SOURCES[0], real).size == 2 * embedded(SOURCES[0])[0].size


def test_one_run_serves_every_fraction_that_was_announced(tiny: Encoder, real: Workbench) -> None:
    late, early = BitFit(), BitFit(form="relative", at=0.25)
    described = [late.describe(s, real) for s in SOURCES]
    found = {}
    for announced in (True, False):
        bench = Workbench(tiny, cache=NoCache(), recipe=real.recipe)
        if announced:
            announce([late, ReciprocalRank([early, BitFit(at=0.5)])], bench)
        found[announced] = [m.score(TARGET, described, bench) for m in (late, early)]
        assert bench.tunings == (1 if announced else 2)
    np.testing.assert_array_equal(found[True], found[False])
    kept = bench.tuned(TARGET, late.recipe(bench, 1)).checkpoints
    assert kept.keys() == {0.25}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_same_task_comes_first(real: Workbench, name: str) -> None:
    method = METHODS[name]()
    sources = [method.describe(s, real) for s in SOURCES]
    scores = method.score(TARGET, sources, real)
    assert np.isfinite(scores).all()
    assert (np.abs(scores) <= 1 + 1e-6).all()
    # A random encoder gives a prompt little to hold on to: noise decides where it goes.
    if name.startswith(("lora", "bitfit", "task-vector")) and name != "task-vector-raw":
        assert scores.argmax() == 0, scores
    # A task is its own nearest.
    own = [*sources, method.describe(TARGET, real)]
    if "centred" not in name:
        assert method.score(TARGET, own, real).argmax() == 3
