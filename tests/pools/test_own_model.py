"""A pool for any model: built like another, found by the model, and a hint where there is none."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks._carry import Carried
from benchmarks._grids import block
from benchmarks.encoders import NAME, SECOND
from benchmarks.mean_gains import mean_gains as measured_gains

from taskscout import Encoder, Pool, Workbench, rank, train
from taskscout.errors import DataError, PoolError
from taskscout.models import sizing
from taskscout.models.cache import NoCache
from taskscout.models.objectives import objective_of
from taskscout.models.recipe import Recipe
from taskscout.models.session import Session
from taskscout.models.sizing import count_parameters, sized_recipe
from taskscout.models.tuning import tune
from taskscout.pools import estimate
from taskscout.pools.estimate import estimate_build, require_room
from taskscout.pools.like import NO_DATA, build_like, chosen_sources, mean_gains
from taskscout.pools.own import CARRIED_OVER, folder_for, own_pool
from taskscout.pools.source_data import data_of, hub_arguments
from taskscout.tasks import TaskCard
from taskscout.tasks.catalogue import Catalogue
from tests.small import RECIPE, source_task
from tests.tiny import tiny_encoder, toy_task


@pytest.fixture
def pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of pools, empty."""
    folder = tmp_path / "user" / "pools"
    monkeypatch.setenv("TASKSCOUT_POOLS", str(folder))
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Another model than that of the small pool."""
    return tiny_encoder(tmp_path_factory.mktemp("models") / "other", seed=7)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """A catalogue that has two of the small pool's four sources."""
    folder, entries = tmp_path_factory.mktemp("catalogue"), []
    for name in ("reviews", "topics"):
        task = source_task(name)
        parts = [t.append_column("split", pa.array([s] * len(t))) for s, t in task.tables.items()]
        pq.write_table(pa.concat_tables(parts), folder / f"{name}.parquet")
        entries.append(
            {"task_id": name, "kind": task.kind, "file": f"{name}.parquet", "category": "x",
             "label_names": list(task.label_names)}
        )  # fmt: skip
    (folder / "tasks.json").write_text(json.dumps({"tasks": entries}))
    return Catalogue.open(folder)


@pytest.fixture
def built(small_pool: Pool, other: Encoder, data: Catalogue, pools: Path) -> tuple[Pool, list[str]]:
    lines: list[str] = []
    pool = build_like(
        small_pool, folder_for(other), encoder=other, recipe=RECIPE, catalogue=data,
        report=lines.append,
    )  # fmt: skip
    return pool, lines


def test_a_pool_like_another(
    built: tuple[Pool, list[str]], small_pool: Pool, other: Encoder, data: Catalogue
):
    """The sources whose data are at hand, tuned on the other model; the rest with the reason."""
    pool, lines = built
    assert pool.names == ("reviews", "topics")
    assert pool.verify() == []
    assert pool.encoder["fingerprint"] == other.fingerprint != small_pool.encoder["fingerprint"]
    for source in pool:
        assert source.card == small_pool.source(source.name).card  # licence and all
        described = small_pool.source(source.name).headers.keys()
        assert source.headers.keys() == {*described, "texts"}
        assert Recipe(**source.tuning["recipe"]) == RECIPE
        assert source.tuning["precision"] == "fp32"
        assert source.tuning["scores"]["score"] > 0.9
    assert pool.left_out.keys() == {"stars", "matching"}
    assert all(reason.startswith(NO_DATA) for reason in pool.left_out.values())
    assert "example/matching" in pool.left_out["matching"]
    assert lines[0] == "4 sources, 0 done before, 4 to do"
    again: list[str] = []
    before = {p: p.stat().st_mtime_ns for p in pool.folder.glob("sources/*")}
    build_like(
        small_pool, pool.folder, encoder=other, recipe=RECIPE, catalogue=data, report=again.append
    )
    assert again[0] == "4 sources, 2 done before, 2 to do"  # data may be had the next time
    assert before == {p: p.stat().st_mtime_ns for p in pool.folder.glob("sources/*")}
    with pytest.raises(PoolError, match="was begun with"):
        build_like(small_pool, pool.folder, encoder=tiny_encoder(pool.folder.parent / "third"))


@pytest.mark.usefixtures("built")
def test_the_pool_of_a_model_is_found(other: Encoder, tmp_path: Path):
    """By its fingerprint: whatever its folder is called, and with its pooling alone."""
    target = toy_task("mine", seed=30, n=60)
    moved = shutil.copytree(other.folder, tmp_path / "the same model elsewhere")
    settings: dict[str, Any] = {"max_length": 32, "precision": "fp32", "device": "cpu"}
    bench = Workbench(Encoder(moved, **settings), cache=NoCache(), recipe=RECIPE)
    ranking = rank(target, bench=bench)
    assert {r.name for r in ranking.sources} == {"reviews", "topics", "none"}
    assert ranking.sources[0].name == "reviews"
    assert not any("only a hint" in note for note in ranking.notes)
    result = train(target, bench=bench, seeds=1, recipe=replace(RECIPE, epochs=1, max_steps=4))
    assert [card.name for card in result.sources] == ["reviews"]
    assert all(run.source_seconds == 0 for run in result.runs)  # it has the pool's adapter
    assert own_pool(Encoder(moved, pooling="cls", **settings)) is None
    assert own_pool(tiny_encoder(tmp_path / "third", seed=8)) is None


def test_the_data_of_a_source(data: Catalogue, tmp_path: Path):
    """From the catalogue, else the card's file, else as its loading line says, by ``datasets``."""
    assert data_of(TaskCard("reviews"), data).fingerprint == source_task("reviews").fingerprint
    task = toy_task("far", n=30)
    hub = tmp_path / "owner" / "far"
    hub.mkdir(parents=True)
    for split, table in task.tables.items():
        rows = [{"text": r["text"], "label": f"class {r['label']}"} for r in table.to_pylist()]
        (hub / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = f'datasets.load_dataset("{hub}")'
    card = TaskCard("far", load=line, licence="MIT", label_names=("class 0", "class 1"), pair=False)
    found = data_of(card)
    assert found.tables["test"]["text"].to_pylist() == task.tables["test"]["text"].to_pylist()
    assert found.card.licence == "MIT"
    with pytest.raises(DataError, match="2 classes, the source has 3"):
        data_of(replace(card, label_names=("a", "b", "c")))
    with pytest.raises(DataError, match="1 texts per example, the source has 2"):
        data_of(replace(card, pair=True))
    with pytest.raises(DataError, match="not at hand"):
        data_of(TaskCard("nowhere", homepage="https://example.org"))
    with pytest.raises(DataError, match="several configurations"):
        data_of(TaskCard("many", load='datasets.load_dataset("a/b", "stance_*")'))


@pytest.mark.parametrize(
    ("card", "given"),
    [
        ({"load": 'datasets.load_dataset("a/b", "c")'}, {"hub_id": "a/b", "config": "c"}),
        ({"load": 'load_dataset("a", split="x")'}, {"hub_id": "a", "split": "x"}),
        ({"load": 'load_dataset(path="a", name="c")'}, {"hub_id": "a", "config": "c"}),
        ({"load": "https://example.org/a", "hub_id": "a:c"}, {"hub_id": "a", "config": "c"}),
        ({"load": "load_dataset(open('x'))"}, {}),
        ({"load": "rm -r *"}, {}),
    ],
)
def test_a_loading_line(card: dict[str, str], given: dict[str, str]):
    """Read, never run."""
    assert hub_arguments(TaskCard("x", **card)) == given


def test_recipes_scale_with_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers import BertConfig

    default, plain = Encoder(), Recipe()
    assert sized_recipe(default) == plain
    assert sized_recipe(default, rank=8) == replace(plain, rank=8, alpha=16)
    sizes = {"vocab_size": 90, "num_hidden_layers": 1, "num_attention_heads": 4}
    wide = tiny_encoder(
        tmp_path / "wide", config=BertConfig(hidden_size=768, intermediate_size=64, **sizes)
    )
    assert count_parameters(wide) == sum(p.numel() for p in wide.load_model().parameters())
    recipe = sized_recipe(wide, examples=300)
    assert (recipe.learning_rate, recipe.rank, recipe.alpha) == (1e-3, 8, 16)
    assert (recipe.batch_size, recipe.accumulation, recipe.recompute) == (32, 1, False)
    assert recipe.examples == 300
    monkeypatch.setattr(sizing, "count_parameters", lambda _: 7e9)
    large = sized_recipe(wide)
    assert (large.batch_size, large.accumulation, large.recompute) == (4, 8, True)
    assert sized_recipe(wide, "prompt").learning_rate == Recipe(tuning="prompt").learning_rate


def test_recomputed_activations_change_nothing(other: Encoder):
    """Gradient checkpointing saves memory: the parameters come out as without it."""
    task, short = toy_task(n=40), replace(RECIPE, max_steps=3)
    kept = tune(task, other, short, evaluate=None)
    recomputing = replace(short, recompute=True)
    body = Session(objective_of(task, other, recomputing), recomputing).body
    assert any(getattr(module, "gradient_checkpointing", False) for module in body.modules())
    again = tune(task, other, recomputing, evaluate=None)
    for name, array in kept.parameters.items():
        np.testing.assert_allclose(again.parameters[name], array, atol=1e-6)


def test_those_that_helped_most_come_first():
    gains = mean_gains()
    assert gains == measured_gains()  # what the grid says
    builtin = Pool.builtin()
    chosen = [s.name for s in chosen_sources(builtin, top=5)]
    assert chosen == sorted(gains, key=lambda n: -gains[n])[:5]
    assert len(chosen_sources(builtin, top=1000)) == len(builtin)
    assert [s.name for s in chosen_sources(builtin, names=["sst2", "mnli"], top=1)] == ["mnli"]


def test_what_a_build_will_take(
    small_pool: Pool, other: Encoder, data: Catalogue, monkeypatch: pytest.MonkeyPatch
):
    sources = chosen_sources(small_pool)
    once = estimate_build(sources, other, RECIPE, catalogue=data)
    assert once.sources == ("matching", "reviews", "stars", "topics")
    assert once.downloads == {"matching": None}  # no network says its size
    assert once.no_place.keys() == {"stars"}
    assert 0 < once.step_seconds < 3600 * once.hours
    size = sum(p.stat().st_size for p in small_pool.folder.glob("sources/*"))
    assert size < once.disk < 50 * size
    monkeypatch.setattr(estimate, "_measured", lambda *_: (0.01, 0.001, 0.5))
    chosen = [small_pool.source("reviews")]
    known = estimate_build(chosen, other, RECIPE, catalogue=data, processes=2)
    # 48 steps of 32 examples, 128 test rows, 1,000 rows embedded twice; 9 tokens each.
    seconds = 9 * (48 * 32 * 0.01 + (128 + 2000) * 0.001)
    assert known.hours == pytest.approx(seconds / 2 / 3600, rel=0.02)
    full = namedtuple("usage", "total used free")(100, 0, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(PoolError, match="free"):
        require_room(Path("somewhere"), 1000)


@pytest.mark.encoder
def test_a_hint_where_a_model_has_no_pool(other: Encoder, pools: Path):
    """The scores are the default encoder's, and the first note says so, and what to do."""
    target = toy_task("mine", seed=30, n=30)
    hinted = rank(target, bench=Workbench(other, cache=NoCache()))
    own = rank(target, bench=Workbench(Encoder(precision=other.precision), cache=NoCache()))
    assert hinted.methods == own.methods
    for row in own.sources:  # in another order: a hint has no gains to be ordered by
        assert hinted.source(row.name).scores == row.scores
    assert hinted.notes[0].startswith("only a hint: no pool was made for")
    assert f"taskscout pool build --encoder {other.model_id} --like builtin" in hinted.notes[0]
    assert "taskscout train" in hinted.notes[0]
    assert "--trial 3" in hinted.notes[0]
    assert not any("only a hint" in note for note in own.notes)


def test_the_figures_of_the_hint_are_measured():
    """What is said of how far an order carries over is what ``benchmarks.encoders`` finds."""
    second = block("second-encoder", grid=SECOND, encoder=NAME)
    found = Carried.of(block(), second)
    lost, random = re.search(r"loses (\S+) points .* random (\S+)\. ", found.sentences()).groups()
    assert (len(found.sources), len(found.targets)) == (12, 6)
    assert f"by {np.mean(found.spearman):.2f} (rank" in CARRIED_OVER
    assert f"agree by {found.same[0]:.2f} and {found.same[1]:.2f})" in CARRIED_OVER
    assert f"lost {lost} points" in CARRIED_OVER
    assert CARRIED_OVER.endswith(f"at random {random}")
