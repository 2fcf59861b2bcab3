"""Gains against hand counts, and against the published TaskWeb numbers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskscout.errors import DataError, MethodError
from taskscout.methods.gains import Gains, required

#: source, target, seed, score
RUNS = [
    ("none", "t1", 0, 0.50),
    ("none", "t1", 1, 0.60),
    ("none", "t2", 0, 0.80),
    ("a", "t1", 0, 0.55),
    ("a", "t1", 1, 0.58),
    ("a", "t2", 0, 0.90),
    ("b", "t1", 1, 0.66),
    ("b", "t1", 2, 0.10),  # no target-only run of this seed
    ("t1", "t2", 0, 0.60),
    ("t2", "t1", 0, float("nan")),  # failed
]


def gains_of(runs, **options):
    source, target, seed, score = zip(*runs, strict=True)
    return Gains.of(source, target, score, seed, **options)


def test_gains_pair_runs_by_seed():
    gains = gains_of(RUNS)
    assert gains.sources == ("a", "b", "t1", "t2")
    assert gains.targets == ("t1", "t2")
    assert gains.gain("a", "t1") == pytest.approx((5 - 2) / 2)
    assert gains.gain("a", "t2") == pytest.approx(10)
    assert gains.gain("b", "t1") == pytest.approx(6)
    assert np.isnan(gains.gain("b", "t2"))
    assert np.isnan(gains.gain("t2", "t1"))
    assert np.isnan(gains.gain("unknown", "t1"))
    i = gains.sources.index("a")
    assert gains.relative[i, 0] == pytest.approx((0.05 / 0.5 - 0.02 / 0.6) / 2)
    assert gains.positive[i, 0] == 0.5
    assert gains.seeds[i].tolist() == [2, 1]


def test_percent_and_fractions_are_one():
    percent = gains_of([(s, t, k, 100 * x) for s, t, k, x in RUNS])
    np.testing.assert_allclose(percent.points, gains_of(RUNS).points)
    # Correlations may be negative, and are fractions all the same.
    low = gains_of([("none", "t", 0, -0.1), ("a", "t", 0, 0.2)])
    assert low.gain("a", "t") == pytest.approx(30)
    assert gains_of(RUNS, unit="percent").gain("a", "t2") == pytest.approx(0.1)


@given(st.permutations(RUNS))
def test_the_order_of_runs_does_not_matter(runs):
    for name in ("points", "relative", "positive", "seeds"):
        np.testing.assert_allclose(
            getattr(gains_of(runs), name), getattr(gains_of(RUNS), name), rtol=1e-12
        )


def test_prior_leaves_out_target_and_self():
    gains = gains_of(RUNS)
    np.testing.assert_allclose(gains.prior(["a", "b", "t1", "x"], "t1"), [10, np.nan, -20, np.nan])
    np.testing.assert_allclose(gains.prior(["a", "t1"], "t2"), [1.5, np.nan])
    np.testing.assert_allclose(gains.prior(["a"], "elsewhere"), [(1.5 + 10) / 2])


def _write(path, columns):
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        from pyarrow import csv

        options = csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        csv.write_csv(table, path, options)


def _columns(runs=RUNS):
    source, target, seed, score = map(list, zip(*runs, strict=True))
    return {"source": source, "target": target, "seed": seed, "score": score}


@pytest.mark.parametrize("name", ["runs.csv", "runs.tsv", "runs.parquet"])
def test_read(tmp_path, name):
    _write(tmp_path / name, {**_columns(), "model": ["m"] * len(RUNS)})
    gains = Gains.read(tmp_path / name)
    np.testing.assert_allclose(gains.points, gains_of(RUNS).points)


def test_read_chooses_rows(tmp_path):
    twice = {k: v + v for k, v in _columns().items()}
    twice["score"] = [*twice["score"][: len(RUNS)], *([0.3] * len(RUNS))]
    twice["setting"] = ["x"] * len(RUNS) + ["y"] * len(RUNS)
    twice["good"] = [1] * len(RUNS) + [0] * len(RUNS)
    _write(tmp_path / "runs.csv", twice)
    gains = Gains.read(tmp_path / "runs.csv", where={"setting": "x", "good": "1"})
    np.testing.assert_allclose(gains.points, gains_of(RUNS).points)
    with pytest.raises(DataError, match=r"more than one run .* seed 0.*where="):
        Gains.read(tmp_path / "runs.csv")
    with pytest.raises(DataError, match="no row left with setting = 'z'"):
        Gains.read(tmp_path / "runs.csv", where={"setting": "z"})
    with pytest.raises(DataError, match="no column 'nothing'"):
        Gains.read(tmp_path / "runs.csv", where={"nothing": "z"})


def test_scores_of_all_runs_are_kept():
    gains = gains_of(RUNS)
    assert gains.seed_names == (0, 1, 2)
    np.testing.assert_allclose(gains.alone, [[50, 60, np.nan], [80, np.nan, np.nan]])
    np.testing.assert_allclose(gains.scores[gains.sources.index("b"), 0], [np.nan, 66, 10])
    # Means take every run; gains only those that have a partner.
    np.testing.assert_allclose(gains.mean_scores[:2], [[56.5, 90], [38, np.nan]])
    np.testing.assert_allclose(gains.mean_alone, [55, 80])
    one = gains.with_seeds([1])
    assert one.seed_names == (1,)
    assert one.gain("a", "t1") == pytest.approx(-2)
    assert np.isnan(one.gain("a", "t2"))
    other = gains.with_targets(["t2", "elsewhere"])
    assert other.targets == ("t2",)
    assert other.gain("a", "t2") == pytest.approx(10)
    fewer = other.with_sources(["b", "a", "elsewhere"])
    assert fewer.sources == ("a", "b")
    assert fewer.gain("a", "t2") == pytest.approx(10)
    np.testing.assert_array_equal(fewer.scores, other.scores[:2])


def test_target_only_runs_serve_every_strategy(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(
        "source,target,score,seed,strategy,size,seconds\n"
        "none,t,0.5,0,none,200,1\nnone,t,0.6,1,none,200,1\n"
        "a,t,0.7,0,sequential,200,10\na,t,0.7,1,sequential,200,30\n"
        "a,t,0.9,0,multitask,200,5\n"
    )
    gains = Gains.read(path, where={"strategy": "sequential"})
    assert gains.gain("a", "t") == pytest.approx(15)
    assert gains.seconds.tolist() == [[20]]
    assert Gains.read(path, where={"strategy": "multitask"}).gain("a", "t") == pytest.approx(40)
    with pytest.raises(DataError, match=r"more than one strategy: multitask, sequential.*--where"):
        Gains.read(path)
    path.write_text(
        "source,target,score,size\nnone,t,0.5,200\na,t,0.5,200\na,t,0.6,1000\nnone,u,0.5,90\n"
    )
    with pytest.raises(DataError, match="--where size=200"):
        Gains.read(path)


def test_columns_of_other_names(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("from,to,acc,run\nbaseline,t,50,1\na,t,60,1\n")
    columns = {"source": "from", "target": "to", "score": "acc", "seed": "run"}
    gains = Gains.read(path, columns=columns, none="baseline")
    assert gains.sources == ("a",)
    assert gains.gain("a", "t") == pytest.approx(10)
    with pytest.raises(DataError, match=r"no column 'accuracy'.*columns=\{'score'"):
        Gains.read(path, columns={**columns, "score": "accuracy"})
    with pytest.raises(DataError, match="has no 'epoch'"):
        Gains.read(path, columns={"epoch": "run"})
    alone = Gains.read(path, columns=columns, alone_required=False)
    assert np.isnan(alone.points).all()
    assert alone.mean_scores.tolist() == [[60], [50]]


def test_read_says_what_is_wrong(tmp_path):
    path = tmp_path / "runs.csv"
    with pytest.raises(DataError, match="There is no file"):
        Gains.read(path)
    path.write_text("source,target\nnone,t\n")
    with pytest.raises(DataError, match="no column 'score'"):
        Gains.read(path)
    path.write_text("source,target,score\na,t,0.5\n")
    with pytest.raises(DataError, match="no run with source 'none'"):
        Gains.read(path)
    path.write_text("source,target,score\nnone,t,0.5\na,t,high\n")
    with pytest.raises(DataError, match="row 2: the score is 'high'"):
        Gains.read(path)
    path.write_text("source,target,score\nnone,t,0.5\nnone,t,0.6\n")
    with pytest.raises(DataError, match="add a column 'seed'"):
        Gains.read(path)
    (tmp_path / "runs.parquet").write_bytes(b"not parquet")
    with pytest.raises(DataError, match="cannot be read"):
        Gains.read(tmp_path / "runs.parquet")
    path.write_text("source,target,score\nnone,t,0.5\na,t,\nb,t,0.7\n")
    gains = Gains.read(path)
    assert np.isnan(gains.gain("a", "t"))
    assert gains.gain("b", "t") == pytest.approx(20)


def test_names_stay_text(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("source,target,score\nnone,1,0.5\nnull,1,0.6\n")
    gains = Gains.read(path)
    assert gains.sources == ("null",)
    assert gains.targets == ("1",)


def test_required(tmp_path):
    with pytest.raises(MethodError, match="--grid"):
        required(None, "source-prior")
    gains = gains_of(RUNS)
    assert required(gains, "source-prior") is gains
    _write(tmp_path / "runs.csv", _columns())
    assert required(tmp_path / "runs.csv", "source-prior").sources == gains.sources


@pytest.mark.data
def test_published_transfer_is_reproduced(published):
    setting = {"setting": "t5l_finetune", "in_taskweb": 1}
    gains = Gains.read(published / "taskweb_grid.parquet", where=setting)
    assert len(gains.sources) == 22
    assert len(gains.targets) == 21
    rows = pq.read_table(
        published / "taskweb_grid.parquet",
        filters=[("setting", "=", "t5l_finetune"), ("in_taskweb", "=", 1)],
    ).to_pylist()
    rows = [r for r in rows if r["source"] != "none"]
    at = [(gains.sources.index(r["source"]), gains.targets.index(r["target"])) for r in rows]
    # Published to six digits.
    ours = np.array([gains.relative[i] for i in at])
    np.testing.assert_allclose(ours, [r["published_pc"] for r in rows], atol=1e-6)
    np.testing.assert_allclose(
        [gains.positive[i] for i in at], [r["published_pm"] for r in rows], atol=1e-9
    )
