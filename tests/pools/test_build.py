"""Making sources: what a pool gets of a task, what it refuses, and builds that go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskscout.errors import PoolError
from taskscout.methods.evidence_rows import evidence_rows
from taskscout.methods.method import get_method
from taskscout.methods.topics import TopicModel
from taskscout.models.cache import EmbeddingCache, NoCache
from taskscout.models.recipe import Recipe
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool, build
from taskscout.pools.build import (
    add_source,
    build_pool,
    describe_overlap,
    describe_pool,
    encoder_header,
)
from taskscout.ranking import rank
from taskscout.tasks import Task
from taskscout.tasks.catalogue import Catalogue
from tests.small import RECIPE, SOURCES, fresh_bench, source_task
from tests.tiny import toy_task


def refused(call: Callable[[], Any]) -> PoolError:
    with pytest.raises(PoolError) as caught:
        call()
    for part in (caught.value.found, caught.value.why, caught.value.remedy):
        assert part.strip()
    return caught.value


@pytest.fixture
def empty(small_bench: Workbench, tmp_path: Path) -> Pool:
    return Pool.create(tmp_path / "pool", encoder=encoder_header(small_bench.encoder))


# -- one source ------------------------------------------------------------------------------


def test_what_a_source_gets(small_pool: Pool, small_bench: Workbench):
    assert small_pool.names == tuple(sorted(SOURCES))
    assert small_pool.verify() == []
    fingerprint = small_bench.encoder.fingerprint
    for source in small_pool:
        task = source_task(source.name)
        assert source.card == task.card
        assert source.headers.keys() == {"tuned", "overlap", "space-map", "layered-map"}
        assert source.tuning["fingerprint"] == task.fingerprint
        assert source.tuning["trained_on"] == 128
        assert Recipe(**source.tuning["recipe"]) == RECIPE
        scores = source.tuning["scores"]
        if not task.is_pair:  # to compare two texts is too much for so small a model
            assert scores["score"] > scores["baseline"] + scores["error"]
        tuned, mapped = (small_pool.description(source.name, k) for k in ("tuned", "space-map"))
        for each in (tuned, mapped):
            assert each.header["encoder"] == fingerprint
            assert each.header["kind"] == task.kind
            assert each.header["seconds"] > 0
            outputs = task.n_classes or 1
            assert each.arrays["head.weight"].shape == (outputs, 32)
            assert each.arrays["head.bias"].shape == (outputs,)
            assert all(a.dtype == np.float16 for a in each.arrays.values())
        assert mapped.arrays["inner"].shape == mapped.arrays["outer"].shape == (32, 16)
        assert mapped.header["explained"] > 0.2
        factors = [a for n, a in tuned.arrays.items() if n.endswith(".lora_A")]
        assert len(factors) == 12  # six linear layers in each of two blocks
        assert {a.shape[0] for a in factors} == {4}
        sketch = small_pool.description(source.name, "overlap").arrays["sketch"]
        np.testing.assert_array_equal(sketch, describe_overlap(task).arrays["sketch"])


@pytest.mark.parametrize("name", SOURCES)
def test_the_tuned_source_can_be_used(name: str, small_pool: Pool, small_bench: Workbench):
    """Adapter and head out of the pool do on the test rows what the tuned model did."""
    task = source_task(name)
    tuned = small_pool.description(name, "tuned")
    features = small_bench.source_embeddings(task, tuned.arrays, "test")
    out = features @ tuned.arrays["head.weight"].astype(np.float64).T + tuned.arrays["head.bias"]
    scores, labels = small_pool.source(name).tuning["scores"], task.labels("test")
    if task.kind == "regression":
        predicted = out[:, 0] * tuned.header["scale"] + tuned.header["center"]
        assert np.corrcoef(predicted, labels)[0, 1] == pytest.approx(scores["pearson"], abs=0.01)
        assert np.abs(predicted.mean() - labels.mean()) < 0.5
    else:
        accuracy = (out.argmax(1) == labels).mean()
        assert accuracy == pytest.approx(scores["accuracy"], abs=0.02)


@pytest.mark.parametrize("name", ["esm-logme", "layered-esm-logme"])
def test_a_map_stands_for_the_tuned_model(small_pool: Pool, small_bench: Workbench, name: str):
    """On rows it has not seen, mapped embeddings are nearer to the tuned model's than base ones."""
    task = source_task("reviews")
    base = small_bench.embeddings(task, "test").astype(np.float64)
    method = get_method(name)
    test = replace(task, tables={"train": task.tables["test"]})
    mapped = method.backend.features(
        evidence_rows(test), small_pool.description("reviews", method.key), small_bench
    )
    assert mapped.shape == base.shape
    wanted = small_bench.tuned_embeddings(task, "test").astype(np.float64)
    assert ((mapped - wanted) ** 2).sum() < 0.7 * ((base - wanted) ** 2).sum()


class KilledError(BaseException):
    """Ends a run where a kill would."""


def test_a_source_is_the_same_whatever_comes_from_the_cache(
    small_bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that was killed at any moment, and made again, ends with the numbers of one that was
    not: those of the tuned model on disk, of embeddings on disk, and of neither."""
    task = toy_task("reviews", seed=1, n=120)
    whole = EmbeddingCache.put

    def arrays(cache: EmbeddingCache | NoCache, name: str) -> dict[str, bytes]:
        encoder = fresh_bench(small_bench).encoder
        # A scale that is no power of two, so that the order of its products shows.
        bench = Workbench(encoder, cache=cache, recipe=replace(RECIPE, alpha=7))
        pool = Pool.create(tmp_path / name, encoder=encoder_header(encoder))
        add_source(pool, task, bench)
        found = [pool.description(task.name, key) for key in pool.source(task.name).headers]
        return {f"{d.key}/{n}": a.tobytes() for d in found for n, a in d.arrays.items()}

    undisturbed = arrays(NoCache(), "undisturbed")
    kills = 0
    for puts in range(20):
        folder, left = tmp_path / f"cache {puts}", [puts]

        def put(self: EmbeddingCache, *values: Any, left: list[int] = left) -> None:
            if not left[0]:
                raise KilledError
            left[0] -= 1
            whole(self, *values)

        monkeypatch.setattr(EmbeddingCache, "put", put)
        try:
            arrays(EmbeddingCache(folder), f"killed {puts}")
        except KilledError:
            kills += 1
        else:
            break
        finally:
            monkeypatch.undo()
        assert len(list((folder / "tuned").glob("*.safetensors"))) == 1
        assert arrays(EmbeddingCache(folder), f"again {puts}") == undisturbed
    assert kills > 1
    assert arrays(EmbeddingCache(folder), "all from the cache") == undisturbed


def test_another_encoder_is_refused(empty: Pool, small_bench: Workbench):
    other = fresh_bench(small_bench, pooling="cls")
    error = refused(lambda: add_source(empty, toy_task(), other))
    assert "pooling mean" in error.found
    assert "pooling cls" in error.why
    assert other.tunings == 0
    assert len(empty) == 0


def test_refused_before_any_work(empty: Pool, small_bench: Workbench, monkeypatch: Any):
    def fail(*_: Any) -> None:
        raise AssertionError("a model was tuned")

    monkeypatch.setattr(Workbench, "tuned", fail)
    texts = pa.table({"prompt": ["a"] * 4, "completion": ["b"] * 4})
    outputs = Task("outputs", "text_to_text", {"train": texts})
    assert "text_to_text" in refused(lambda: add_source(empty, outputs, small_bench)).found
    refused(lambda: add_source(empty, toy_task("a name"), small_bench))
    empty.add(toy_task("taken").card, {}, [])
    error = refused(lambda: add_source(empty, toy_task("taken"), small_bench))
    assert "--replace" in error.remedy


def test_one_that_does_not_learn(empty: Pool, small_bench: Workbench):
    task = toy_task("noise", seed=8, shuffled=True)
    reason = add_source(empty, task, small_bench, only_if_it_learns=True)
    assert reason is not None
    assert "baseline" in reason
    assert len(empty) == len(Pool.open(empty.folder)) == 0
    assert add_source(empty, task, small_bench) is None  # the user's own is the user's business
    assert empty.names == ("noise",)


def test_topics_are_fitted_once_for_the_pool(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pool = small_pool.unpack(tmp_path / "described")
    describe_pool(
        pool,
        ["topics-kl"],
        lambda s: source_task(s.name),
        small_bench,
    )
    assert pool.described("terms") == pool.names
    path = pool.attached("topics")
    assert path is not None
    assert TopicModel.read(path).topics == 20
    assert [s.card.pair for s in pool] == [n == "matching" for n in pool.names]
    monkeypatch.setattr(TopicModel, "fit", None)  # a ranking reads the model, and fits none
    found = rank(toy_task("target", n=40, seed=9), pool, "topics-kl", bench=small_bench)
    assert len(found) == len(pool)


def test_without_test_rows(empty: Pool, small_bench: Workbench):
    task = toy_task("own", n=40)
    task = replace(task, tables={"train": task.tables["train"]})
    assert add_source(empty, task, small_bench) is None
    assert empty.source("own").tuning["scores"] == {}
    assert empty.described("space-map") == ("own",)


# -- a catalogue ------------------------------------------------------------------------------

NAMES = ("sentiment", "noise", "secret", "licensed", "outputs")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalogue with one task that trains, one that does not, two withheld, one of a kind
    that no pool keeps.
    """
    folder = tmp_path_factory.mktemp("catalogue")
    tasks = {
        "sentiment": toy_task("sentiment", seed=11),
        "noise": toy_task("noise", seed=12, shuffled=True),
        "secret": toy_task("secret", seed=13),
        "licensed": toy_task("licensed", seed=14),
    }
    entries = []
    for name in NAMES:
        kind = "classification" if name in tasks else "text_to_text"
        entry = {
            "task_id": name,
            "kind": kind,
            "file": f"{name}.parquet",
            "category": "sentiment",
            "domain": "reviews",
            "licence": "MIT",
            "homepage": f"https://example.org/{name}",
            "label_names": ["bad", "good"],
        }
        if name == "secret":
            entry["licence_concern"] = "redistribution restricted by the owner"
        if name == "licensed":
            entry["licence_concern"] = "text from the LDC"
        entries.append(entry)
        parts = []
        for split, table in tasks[name].tables.items() if name in tasks else ():
            parts.append(table.append_column("split", pa.array([split] * table.num_rows)))
        table = (
            pa.concat_tables(parts)
            if parts
            else pa.table({"prompt": ["a"], "completion": ["b"], "split": ["train"]})
        )
        pq.write_table(table, folder / f"{name}.parquet")
    (folder / "tasks.json").write_text(json.dumps({"tasks": entries}))
    return folder


CHANGES = {"learning_rate": 1e-2, "head_learning_rate": 1e-2, "least_steps": 48}


@pytest.fixture(scope="module")
def built(
    data: Path, small_bench: Workbench, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pool, list[str]]:
    """The catalogue's pool, built by two processes, and what was reported."""
    lines: list[str] = []
    pool = build_pool(
        data,
        tmp_path_factory.mktemp("built") / "pool",
        encoder=small_bench.encoder,
        recipe=CHANGES,
        processes=2,
        report=lines.append,
    )
    return pool, lines


def test_a_pool_from_a_catalogue(built: tuple[Pool, list[str]], data: Path):
    pool, lines = built
    assert pool.names == ("sentiment",)
    assert pool.verify() == []
    assert pool.source("sentiment").card == Catalogue.open(data).task("sentiment").card
    assert pool.source("sentiment").tuning["recipe"]["least_steps"] == 48
    assert list(pool.left_out) == ["licensed", "noise", "outputs", "secret"]
    assert pool.left_out["outputs"].startswith("of kind text_to_text")
    assert pool.left_out["secret"] == "licence: redistribution restricted by the owner"
    assert pool.left_out["licensed"] == "licence: text from the LDC"
    assert "does not train above its trivial baseline" in pool.left_out["noise"]
    assert lines[0] == "4 tasks, 0 done before, 4 to do"
    assert len(lines) == 5
    assert sum("left out" in line for line in lines) == 3
    assert sum(line.endswith("sentiment: added") for line in lines) == 1
    assert Pool.open(pool.folder).left_out == pool.left_out


def test_a_build_goes_on_where_it_was(
    built: tuple[Pool, list[str]], data: Path, small_bench: Workbench, monkeypatch: Any
):
    pool, _ = built
    done: list[str] = []
    monkeypatch.setattr(build, "build_one", lambda job: done.append(job.name))

    def again() -> list[str]:
        done.clear()
        encoder = small_bench.encoder
        lines: list[str] = []
        build_pool(data, pool.folder, encoder=encoder, recipe=CHANGES, report=lines.append)
        return lines

    assert again() == ["4 tasks, 4 done before, 0 to do"]
    assert done == []
    removed = {
        p: p.read_bytes()
        for p in (
            pool.folder / "sources" / "sentiment.safetensors",
            pool.folder / "sources" / "noise.left_out.json",
        )
    }
    for path in removed:
        path.unlink()
    assert again()[0] == "4 tasks, 2 done before, 2 to do"
    assert done == ["sentiment", "noise"]
    for path, content in removed.items():
        path.write_bytes(content)


def test_a_build_of_some(data: Path, small_bench: Workbench, tmp_path: Path):
    folder = tmp_path / "pool"
    pool = build_pool(data, folder, encoder=small_bench.encoder, names=["secret"])
    assert len(pool) == 0
    # What was not asked for is told from what was tried.
    assert list(pool.left_out) == ["licensed", "noise", "outputs", "secret", "sentiment"]
    assert pool.left_out["secret"] == "licence: redistribution restricted by the owner"
    assert "not built yet" in pool.left_out["sentiment"]


# -- more descriptions ------------------------------------------------------------------------


def test_describe_pool(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """More descriptions for sources whose tuned models are in the pool: nothing is tuned again."""
    pool = small_pool.pack(tmp_path / "packed").unpack(tmp_path / "loose")
    benches: list[Workbench] = []
    lines: list[str] = []
    real = build.describe

    def watched(task: Task, bench: Workbench, *given: Any, **options: Any) -> Any:
        assert bench.recipe == RECIPE
        benches.append(bench)
        return real(task, bench, *given, **options)

    monkeypatch.setattr(build, "describe", watched)

    def describe() -> None:
        describe_pool(
            pool,
            ["terms-cosine", "size", "esm-logme", "logme"],
            lambda source: source_task(source.name),
            small_bench,
            report=lines.append,
        )

    describe()
    assert lines[0] == "4 sources, 0 described before, 4 to do"
    assert len(lines) == 5
    assert sum(b.tunings for b in benches) == 0
    opened = Pool.open(pool.folder)
    assert opened.verify() == []
    for source in opened:
        before = small_pool.source(source.name)
        assert source.headers.keys() == {"tuned", "overlap", "space-map", "layered-map", "terms"}
        assert (source.card, source.tuning) == (before.card, before.tuning)
        for key in before.headers:
            assert source.headers[key] == before.headers[key]
            old, new = (p.description(source.name, key).arrays for p in (small_pool, opened))
            for name in old:
                np.testing.assert_array_equal(old[name], new[name])
    lines.clear()
    describe()
    assert lines == ["4 sources, 4 described before, 0 to do"]
    assert len(benches) == 4


def test_maps_from_a_pool_s_tuned_models(small_pool: Pool, small_bench: Workbench, tmp_path: Path):
    """A map fitted to the model that a pool carries is the map fitted to the model itself."""
    pool = Pool.create(tmp_path / "pool", encoder=small_pool.encoder)
    source = small_pool.source("reviews")
    kept = [small_pool.description("reviews", k) for k in ("tuned", "overlap")]
    pool.add(source.card, source.tuning, kept)
    describe_pool(
        pool,
        ["esm-logme"],
        lambda source: source_task(source.name),
        small_bench,
    )
    one, other = (p.description("reviews", "space-map") for p in (pool, small_pool))
    assert one.header["explained"] == pytest.approx(other.header["explained"], abs=0.01)
    assert one.header["scale"] == pytest.approx(other.header["scale"], abs=0.01)
    weights = [
        d.arrays["inner"].astype(float) @ d.arrays["outer"].astype(float).T for d in (one, other)
    ]
    np.testing.assert_allclose(weights[0], weights[1], atol=0.05)
