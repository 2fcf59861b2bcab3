"""A target's statistics: one pass, sums that merge, and a second run without any pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from taskscout.methods import statistics as module
from taskscout.methods.evidence_rows import evidence_rows
from taskscout.methods.feature_score import label_columns_of
from taskscout.methods.labels import label_columns
from taskscout.methods.method import get_method
from taskscout.methods.statistics import TargetStatistics, target_statistics
from taskscout.models.cache import EmbeddingCache
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from tests.small import fresh_bench
from tests.tiny import toy_task

TARGET = toy_task("target", n=60, seed=31)
NAMES = ("n", "gram", "total", "cross", "label_total", "label_square")


def data(n: int = 50, d: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 0.5, label_columns(rng.integers(3, size=n))


def assert_same(a: TargetStatistics, b: TargetStatistics, *, rtol: float = 1e-12) -> None:
    for name in NAMES:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=rtol, atol=rtol)


def test_are_the_sums_written_out():
    f, y = data()
    got = TargetStatistics.of(f, y)
    wanted = TargetStatistics(50, f.T @ f, f.sum(0), f.T @ y, y.sum(0), (y**2).sum(0))
    assert_same(got, wanted)


@pytest.mark.parametrize("block", [1, 7, 50, 64])
def test_a_pass_in_blocks_is_the_same(block: int, monkeypatch: pytest.MonkeyPatch):
    f, y = data()
    whole = TargetStatistics.of(f, y)
    monkeypatch.setattr(module, "_BLOCK", block)
    assert_same(TargetStatistics.of(f, y), whole)


def test_only_one_block_is_held_at_a_time():
    """Blocks are taken from the iterator as they are summed."""
    f, y = data()
    alive = []

    def blocks():
        for i in range(0, 50, 10):
            alive.append(i)
            yield f[i : i + 10], y[i : i + 10]

    assert_same(TargetStatistics.streamed(blocks()), TargetStatistics.of(f, y))
    assert alive == [0, 10, 20, 30, 40]
    with pytest.raises(ValueError, match="no blocks"):
        TargetStatistics.streamed(iter(()))


@pytest.mark.parametrize("centring", ["none", "features", "both"])
def test_with_a_constant(centring):
    f, y = data()
    got = TargetStatistics.of(f, y).with_constant()
    assert_same(got, TargetStatistics.of(np.hstack([f, np.ones((50, 1))]), y))


def test_to_and_from_a_vector():
    f, y = data()
    statistics = TargetStatistics.of(f, y)
    vector = statistics.to_vector()
    for name in NAMES:
        np.testing.assert_array_equal(
            getattr(TargetStatistics.from_vector(vector, 6, 3), name), getattr(statistics, name)
        )
    with pytest.raises(ValueError, match="numbers"):
        TargetStatistics.from_vector(vector, 7, 3)


# -- kept on disk ---------------------------------------------------------------------------------


def cached(bench: Workbench, folder: Path) -> Workbench:
    out = fresh_bench(bench)
    out.cache = EmbeddingCache(folder)
    return out


def test_a_second_run_makes_no_pass(small_bench: Workbench, tmp_path: Path, monkeypatch):
    columns = label_columns_of(TARGET.labels("train"), compat=False)
    first = target_statistics(evidence_rows(TARGET), columns, cached(small_bench, tmp_path))
    bench = cached(small_bench, tmp_path)

    def refuse(*_, **__):
        raise AssertionError("a pass over the rows")

    monkeypatch.setattr(Workbench, "embed", refuse)
    monkeypatch.setattr(TargetStatistics, "streamed", refuse)
    second = target_statistics(evidence_rows(TARGET), columns, bench)
    for name in NAMES:  # to the last bit
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert (bench.embedded, bench.recalled) == (0, 60)
    assert target_statistics(evidence_rows(TARGET), columns, bench) is second
    assert bench.recalled == 60
    monkeypatch.undo()
    bench.embeddings(TARGET)  # the same texts, read by another method
    assert (bench.embedded, bench.recalled) == (0, 60)


def test_other_labels_and_other_texts_are_other_statistics(small_bench: Workbench, tmp_path: Path):
    columns = label_columns_of(TARGET.labels("train"), compat=False)
    found = []
    bench = cached(small_bench, tmp_path)
    other = toy_task("target", n=60, seed=32)
    turned = replace(TARGET, tables={k: v.slice(1) for k, v in TARGET.tables.items()})
    for task, y in ((TARGET, columns), (TARGET, columns[:, ::-1]), (other, columns)):
        found.append(target_statistics(evidence_rows(task), y, bench))
    assert not np.array_equal(found[0].cross, found[1].cross)
    np.testing.assert_array_equal(found[0].gram, found[1].gram)
    assert not np.array_equal(found[0].gram, found[2].gram)
    assert target_statistics(evidence_rows(turned), columns[1:], bench).n == 59


def test_clearing_the_cache_drops_them(small_bench: Workbench, tmp_path: Path):
    columns = label_columns_of(TARGET.labels("train"), compat=False)
    target_statistics(evidence_rows(TARGET), columns, cached(small_bench, tmp_path))
    labels = [s.label for s in EmbeddingCache(tmp_path).info().spaces]
    assert any("statistics" in label for label in labels)
    EmbeddingCache(tmp_path).clear()
    bench = cached(small_bench, tmp_path)
    target_statistics(evidence_rows(TARGET), columns, bench)
    assert bench.embedded == 60


def test_large_targets_are_embedded_block_by_block(
    small_bench: Workbench, monkeypatch: pytest.MonkeyPatch
):
    columns = label_columns_of(TARGET.labels("train"), compat=False)
    whole = target_statistics(evidence_rows(TARGET), columns, fresh_bench(small_bench))
    monkeypatch.setattr(module, "_BLOCK", 8)
    bench = fresh_bench(small_bench)
    sizes = []
    real = Workbench.embed
    monkeypatch.setattr(
        Workbench, "embed", lambda s, t, p=None, **o: sizes.append(len(t)) or real(s, t, p, **o)
    )
    assert_same(target_statistics(evidence_rows(TARGET), columns, bench), whole, rtol=1e-5)
    assert sizes == [8] * 7 + [4]


def test_ranking_from_statistics_alone_gives_the_same_scores(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path
):
    sources = small_pool.descriptions("space-map")
    first, second = (
        get_method("esm-logme").score(TARGET, sources, cached(small_bench, tmp_path))
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert np.isfinite(first).all()
