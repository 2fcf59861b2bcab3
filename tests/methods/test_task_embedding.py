"""Fisher embeddings against backward passes written out, and fused ranks by hand."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from taskscout.errors import MethodError
from taskscout.methods import task_embedding
from taskscout.methods.method import Description, Method
from taskscout.methods.task_embedding import METHODS, TaskEmbedding, fisher, fused_ranks
from taskscout.models.cache import NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.heads import SequenceModel
from taskscout.models.recipe import Recipe
from taskscout.models.tuning import tune
from taskscout.models.workbench import Workbench
from taskscout.tasks import Task
from tests.tiny import TOPICS, tiny_encoder, toy_task


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


Rows = list[dict[str, list[int]]]
Squares = dict[str, NDArray[np.float64]]


@functools.cache
def tuned(encoder: Encoder, regression: bool = False) -> tuple[SequenceModel, Rows, NDArray[Any]]:
    task = toy_task(n=14, regression=regression)
    model = tune(task, encoder, Recipe(least_steps=3)).model
    texts = [t if i % 3 else f"{t} and so it was" for i, t in enumerate(task.inputs("train")[0])]
    return model, encoder.tokenize(texts), task.labels("train")


def slow(model: SequenceModel, rows: Rows, labels: NDArray[Any], batch_size: int) -> Squares:
    """The released algorithm by ``backward``, with the layers' outputs caught by hooks."""
    body: Any = model.body
    caught: list[torch.Tensor] = []

    def catch(_: Any, __: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        hidden.retain_grad()
        caught.append(hidden)

    hooks = [layer.register_forward_hook(catch) for layer in body.encoder.layer]
    body.requires_grad_(True)
    model.eval()
    total: Squares = {}
    for start in range(0, len(rows), batch_size):
        caught.clear()
        model.zero_grad()
        batch = model.encoder.pad(rows[start : start + batch_size])
        wanted = torch.from_numpy(labels[start : start + batch_size])
        model(labels=wanted, **batch)["loss"].backward()
        mask = batch["attention_mask"].numpy()
        now = {
            f"parameter {n}": p.grad.numpy().astype(float) ** 2
            for n, p in body.named_parameters()
            if p.grad is not None
        }
        for i, hidden in enumerate(caught, 1):
            assert hidden.grad is not None
            g = np.zeros(hidden.shape[-1])
            for row, real in zip(hidden.grad.numpy(), mask, strict=True):
                for token, there in zip(row, real, strict=True):
                    g += token * there
            now[f"layer {i}"] = g**2 / mask.sum()
        for name, square in now.items():
            total[name] = total.get(name, 0.0) + square / len(rows)
    for hook in hooks:
        hook.remove()
    return total


def assert_close(found: Squares, expected: Squares) -> None:
    for name, square in expected.items():
        scale = max(float(np.abs(square).max()), 1e-30)
        np.testing.assert_allclose(found[name] / scale, square / scale, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("batch_size", [5, 14])
def test_batch_gradients_against_backward(tiny: Encoder, batch_size: int, regression: bool) -> None:
    model, rows, labels = tuned(tiny, regression)
    expected = slow(model, rows, labels, batch_size)
    found = fisher(model, rows, labels, batch_size=batch_size)
    assert set(expected) | {"pooled"} == set(found)
    assert not any("pooler" in n for n in found)
    assert_close(found, expected)
    assert_close(
        fisher(model, rows, labels, batch_size=batch_size, parameters=False),
        {k: a for k, a in expected.items() if k.startswith("layer")},
    )


def test_the_pooled_output_in_closed_form(tiny: Encoder) -> None:
    model, rows, labels = tuned(tiny)
    found = fisher(model, rows, labels, batch_size=14, parameters=False)["pooled"]
    with torch.no_grad():
        pooled = model.encoder.pooled(model.body, model.encoder.pad(rows))
        p = model.head(pooled).softmax(1).numpy().astype(float)
    # Of the mean cross-entropy: sum of (p - y) W / n, squared, over n examples once more.
    error = p - np.eye(2)[labels]
    g = (error @ model.head.weight.detach().numpy().astype(float)).sum(0) / 14
    np.testing.assert_allclose(found, g**2 / 14, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("regression", [False, True])
def test_per_example_against_a_loop(tiny: Encoder, regression: bool) -> None:
    model, rows, labels = tuned(tiny, regression)
    expected = slow(model, rows, labels, 1)
    assert_close(fisher(model, rows, labels, per_example=True), expected)
    outputs = fisher(model, rows, labels, per_example=True, parameters=False, batch_size=4)
    assert_close(outputs, {k: a for k, a in expected.items() if k.startswith("layer")})
    one = fisher(model, rows, labels, batch_size=1, parameters=False)
    np.testing.assert_allclose(outputs["pooled"], one["pooled"], rtol=1e-3)


def test_the_model_is_left_as_it_was(tiny: Encoder) -> None:
    model, rows, labels = tuned(tiny)
    before = {n: (p.requires_grad, p.detach().clone()) for n, p in model.named_parameters()}
    model.zero_grad()
    for parameters in (True, False):
        fisher(model, rows, labels, parameters=parameters)
    for name, p in model.named_parameters():
        assert p.requires_grad == before[name][0]
        assert torch.equal(p, before[name][1])
        assert p.grad is None


# -- fused ranks ------------------------------------------------------------------------------


def test_fused_ranks_by_hand() -> None:
    table = np.array([[0.9, 0.1, 0.5], [0.8, 0.3, 0.5], [0.7, 0.2, np.nan]])
    expected = [
        1 / 61 + 1 / 63 + 1 / 61.5,
        1 / 62 + 1 / 61 + 1 / 61.5,
        1 / 63 + 1 / 62 + 1 / 63,
    ]
    np.testing.assert_allclose(fused_ranks(table), expected)


# -- the methods ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(tiny: Encoder) -> Workbench:
    return Workbench(
        tiny, cache=NoCache(), recipe=Recipe(least_steps=10, examples=40, batch_size=8)
    )


TARGET = toy_task("target", n=40, seed=5)
SOURCES = (
    toy_task("topics", n=40, seed=7, words=TOPICS),
    replace(TARGET.take({"train": np.arange(38)}), name="copy"),
    toy_task("noise", n=40, seed=8, words=TOPICS, shuffled=True),
)


def describe(method: Method, bench: Workbench) -> list[Description]:
    return [method.describe(s, bench) for s in SOURCES]


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_same_task_comes_first(bench: Workbench, name: str) -> None:
    method = METHODS[name]()
    sources = describe(method, bench)
    scores = method.score(TARGET, sources, bench)
    assert method.score(TARGET, [*sources, method.describe(TARGET, bench)], bench).argmax() == 3
    order = [2, 0, 1]
    turned = method.score(TARGET, [sources[i] for i in order], bench)
    np.testing.assert_allclose(turned, scores[order])


def test_scores_are_fused_cosines_of_components(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = TaskEmbedding(examples=40)
    sources = describe(method, bench)
    own = method.embed(TARGET, bench)
    table = np.array([
        [
            float(a @ b / np.sqrt((a @ a) * (b @ b)))
            for a, b in ((s.arrays[c].ravel().astype(float), own[c].ravel()) for c in own)
        ]
        for s in sources
    ])  # fmt: skip
    np.testing.assert_allclose(method.score(TARGET, sources, bench), fused_ranks(table))
    monkeypatch.setattr(task_embedding, "_BATCH", 1)
    np.testing.assert_allclose(method.score(TARGET, sources, bench), fused_ranks(table))


def test_descriptions(bench: Workbench) -> None:
    full, outputs = METHODS["task-embedding"](), METHODS["task-embedding-outputs"]()
    made = full.describe(SOURCES[0], bench)
    parameters = dict(bench.encoder.load_model().named_parameters())
    kept = {k.removeprefix("parameter ") for k in made.arrays if k.startswith("parameter ")}
    assert kept == {n for n in parameters if not n.startswith("pooler")}
    assert {a.dtype for a in made.arrays.values()} == {np.dtype(np.float16)}
    assert made.header["tuning"] == "full"
    exact = full.embed(SOURCES[0], bench)  # type: ignore[attr-defined]
    for name, array in made.arrays.items():
        back = array.astype(float) * made.header["scales"][name]
        assert np.abs(back - exact[name]).max() <= exact[name].max() * 2.0**-10
    small = outputs.describe(SOURCES[0], bench)
    assert small.key == "task-embedding-outputs"
    assert {k: a.shape for k, a in small.arrays.items()} == dict.fromkeys(
        ("layer 1", "layer 2", "pooled"), (32,)
    )
    assert small.header["tuning"] == "lora"


def test_rows_in_another_order_give_the_same(bench: Workbench) -> None:
    method = METHODS["task-embedding-outputs"]()
    turned: Task = SOURCES[0].take({"train": np.arange(40)[::-1], "test": np.arange(40)})
    assert turned.fingerprint == SOURCES[0].fingerprint  # so the same tuned model serves both
    a, b = (method.describe(t, bench) for t in (SOURCES[0], turned))
    for name in a.arrays:
        np.testing.assert_array_equal(a.arrays[name], b.arrays[name])


def test_what_cannot_be_compared_has_no_score(bench: Workbench) -> None:
    method = METHODS["task-embedding-outputs"]()
    sources = describe(method, bench)
    others = [
        replace(sources[0], header={**sources[0].header, "encoder": "another"}),
        replace(sources[0], header={**sources[0].header, "tuning": "full"}),
        replace(sources[0], header={**sources[0].header, "batch_size": 4}),
        replace(sources[0], arrays={"pooled": sources[0].arrays["pooled"]}),
    ]
    scores = method.score(TARGET, [*others, *sources], bench)
    assert np.isnan(scores[:4]).all()
    np.testing.assert_array_equal(scores[4:], method.score(TARGET, sources, bench))
    assert np.isnan(method.score(TARGET, others, bench)).all()


def test_names_and_options() -> None:
    for name, factory in METHODS.items():
        method = factory()
        assert isinstance(method, Method)
        assert (method.name, method.key) == (name, name)
    for wrong in ({"tuning": "prompt"}, {"tuning": "magic"}, {"examples": 0}, {"batch_size": 0}):
        with pytest.raises(MethodError):
            METHODS["task-embedding"](**wrong)
