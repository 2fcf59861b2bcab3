"""``taskscout study`` as a user meets it: what it prints where, and with which exit code."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from taskscout.cli import main
from taskscout.tasks.catalogue import ENVIRONMENT_VARIABLE
from tests.small import SOURCES
from tests.tiny import toy_task

TARGETS = ("films", "plots")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TASKSCOUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)

    def _run(*arguments):
        monkeypatch.setattr(sys, "argv", ["taskscout", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        out, err = capsys.readouterr()
        return code, out, err

    return _run


@pytest.fixture
def grid(tmp_path):
    """Two settings, two sizes, two seeds; the target-only runs have no strategy."""
    rng = np.random.default_rng(0)
    rows = []
    for tuning in ("full", "lora"):
        for size in (20, 60):
            for target in TARGETS:
                for source in ("none", *SOURCES):
                    for seed in (0, 1):
                        rows.append(
                            {
                                "source": source,
                                "target": target,
                                "encoder": "tiny",
                                "strategy": "none" if source == "none" else "sequential",
                                "tuning": tuning,
                                "size": size,
                                "seed": seed,
                                "score": float(rng.uniform(0.5, 0.9)),
                                "seconds": 5.0,
                            }
                        )
    path = tmp_path / "grid.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture
def catalogue(tmp_path):
    """A catalogue of the two targets."""
    folder = tmp_path / "data"
    folder.mkdir()
    entries = []
    for seed, name in enumerate(TARGETS):
        task = toy_task(name, seed=50 + seed, n=80)
        parts = [
            t.append_column("split", pa.array([s] * t.num_rows)) for s, t in task.tables.items()
        ]
        pq.write_table(pa.concat_tables(parts), folder / f"{name}.parquet")
        entries.append(
            {
                "task_id": name,
                "kind": "classification",
                "category": "sentiment",
                "file": f"{name}.parquet",
                "label_names": list(task.label_names),
            }
        )
    (folder / "tasks.json").write_text(json.dumps({"tasks": entries}))
    return folder


@pytest.fixture
def ours(catalogue, small_pool, small_bench):
    return [
        "--catalogue", catalogue, "--pool", small_pool.folder,
        "--encoder", small_bench.encoder.folder, "--max-length", "32",
    ]  # fmt: skip


CHOSEN = ("--where", "strategy=sequential", "--where", "tuning=lora", "--where", "size=60")


def test_run(run, grid, ours, tmp_path):
    out = tmp_path / "results" / "study"
    code, said, err = run(
        "study", "run", grid, *CHOSEN, *ours, "--method", "esm-logme,size", "--method",
        "taskshop(vocabulary)", "--out", out, "--title", "Tiny",
    )  # fmt: skip
    assert code == 0, err
    for word in ("esm-logme", "size", "source-prior", "random order", "honest oracle"):
        assert word in said
    assert "4 sources, 2 targets, 2 seeds" in said
    assert "written to" in err
    assert {p.name for p in out.iterdir()} == {
        "scores.parquet", "scores.csv", "metrics.parquet", "metrics.csv", "differences.csv",
        "study.json", "table.md", "report.html",
    }  # fmt: skip
    assert "<title>Tiny</title>" in (out / "report.html").read_text()
    assert (out / "table.md").read_text().startswith("| method |")
    scores = pq.read_table(out / "scores.parquet").to_pylist()
    runs = pq.read_table(grid).to_pylist()
    row = next(r for r in scores if (r["source"], r["target"]) == ("topics", "films"))
    true = [
        r["score"]
        for r in runs
        if (r["source"], r["target"], r["tuning"], r["size"]) == ("topics", "films", "lora", 60)
    ]
    assert row["true_score"] == pytest.approx(100 * np.mean(true))


def test_json_alone_on_stdout(run, grid, ours):
    code, said, _ = run(
        "study", "run", grid, *CHOSEN, *ours, "--method", "size", "--metric",
        "regret@1,spearman", "--by", "spearman", "--json",
    )  # fmt: skip
    assert code == 0
    found = json.loads(said)
    assert list(found["metrics"]) == ["spearman", "regret@1"]
    assert found["settings"] == {
        "grid": "grid.parquet", "strategy": "sequential", "tuning": "lora", "size": "60"
    }  # fmt: skip
    assert found["seeds"] == [0, 1]
    assert {r["method"] for r in found["rows"]} == {
        "size", "source-prior", "random order"
    }  # fmt: skip
    assert found["costs"]["size"]["seconds_per_target"] > 0


def test_ready_made_scores_need_no_data(run, grid, tmp_path):
    path = tmp_path / "scores.csv"
    rows = [f"mine,{t},{s},{i}" for t in TARGETS for i, s in enumerate(SOURCES)]
    path.write_text("method,target,source,score\n" + "\n".join(rows) + "\n")
    code, said, err = run("study", "run", grid, *CHOSEN, "--predictions", path, "--json")
    assert code == 0, err
    assert "mine" in json.loads(said)["methods"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--where", "tuning"), "--where is 'tuning'"),
        (("--where", "size=60", "--where", "size=20"), "has a value already"),
        ((), "more than one tuning: full, lora"),
        (("--where", "tuning=lora"), "--where size=20"),
        ((*CHOSEN, "--metric", "accuracy"), "no metric 'accuracy'"),
        ((*CHOSEN, "--unit", "points"), "--unit is 'points'"),
        ((*CHOSEN, "--method", "esm-logm"), "no method 'esm-logm'"),
        ((*CHOSEN, "--method", "size"), "none of the 2 targets are at hand"),
        ((*CHOSEN, "--exclude-overlap", "0.1"), "without a catalogue"),
        ((*CHOSEN, "--column", "score=f1"), "no column 'f1'"),
    ],
)
def test_mistakes(run, grid, small_pool, arguments, message):
    code, said, err = run("study", "run", grid, "--pool", small_pool.folder, *arguments)
    assert code == 2
    assert said == ""
    assert message in " ".join(err.split())
    assert "why:" in err
    assert "do:" in err


def test_a_missing_grid(run, tmp_path):
    code, said, err = run("study", "run", tmp_path / "nothing.parquet")
    assert (code, said) == (2, "")
    assert "There is no file" in err


def test_calibrate_makes_what_rank_reads(run, small_pool, small_bench, tmp_path):
    folder, targets = tmp_path / "six", [f"t{i}" for i in range(6)]
    folder.mkdir()
    rng = np.random.default_rng(1)
    entries, rows = [], []
    for seed, name in enumerate(targets):
        task = toy_task(name, seed=70 + seed, n=60)
        parts = [
            t.append_column("split", pa.array([s] * t.num_rows)) for s, t in task.tables.items()
        ]
        pq.write_table(pa.concat_tables(parts), folder / f"{name}.parquet")
        entries.append({"task_id": name, "kind": "classification", "category": "sentiment",
                        "file": f"{name}.parquet", "label_names": list(task.label_names)})  # fmt: skip
        for seed in (0, 1):
            alone = rng.uniform(0.6, 0.7)
            rows.append({"source": "none", "target": name, "seed": seed, "score": alone})
            for i, source in enumerate(SOURCES):
                score = alone + 0.03 * (2 - i) + rng.normal(0, 0.005)
                rows.append({"source": source, "target": name, "seed": seed, "score": score})
    (folder / "tasks.json").write_text(json.dumps({"tasks": entries}))
    grid, out = tmp_path / "grid.parquet", tmp_path / "mine.safetensors"
    table = pa.Table.from_pylist([{**r, "tuning": "lora", "size": 40} for r in rows])
    pq.write_table(table, grid)
    pool = ["--pool", small_pool.folder, "--encoder", small_bench.encoder.folder,
            "--max-length", "32"]  # fmt: skip
    code, printed, err = run("study", "calibrate", grid, "--out", out, "--catalogue", folder, *pool)
    assert code == 0, err
    assert "Fitted on 4 sources, 6 targets of 40 examples (lora)" in printed
    assert "On targets left out, intervals of 80% held" in printed
    file = tmp_path / "films.csv"
    task = toy_task("films", seed=90, n=60)
    texts, labels = task.inputs("train")[0], task.labels("train")
    file.write_text("text,label\n" + "\n".join(
        f"{t},{task.label_names[c]}" for t, c in zip(texts, labels, strict=True)
    ))  # fmt: skip
    code, printed, err = run("rank", file, *pool, "--calibration", out, "--text", "text", "--json")
    assert code == 0, err
    data = json.loads(printed)
    assert data["advice"]["source"] == data["sources"][0]["name"] == next(iter(SOURCES))
    assert 3 < data["advice"]["expected"] < 9  # the grid gave it six points
    command = shlex.split(data["advice"]["command"])
    assert command[:3] == ["taskscout", "train", str(file)]
    assert command[3:] == [
        "--text", "text", "--pool", str(small_pool.folder), "--encoder",
        str(small_bench.encoder.folder), "--max-length", "32", "--sources", next(iter(SOURCES)),
        "--out", "films-model",
    ]  # fmt: skip
    code, printed, err = run("study", "calibrate", grid, "--out", out, "--catalogue", folder, *pool,
                             "--method", "cards", "--json")  # fmt: skip
    assert code == 0, err
    assert json.loads(printed)["setting"]["kinds"] == ["classification"]


def test_variance(run, grid, tmp_path):
    code, said, err = run("study", "variance", grid, *CHOSEN)
    assert code == 0, err
    assert "4 sources, 2 targets, 2 seeds" in said
    for part in ("source", "interaction", "target", "seed", "run", "noise"):
        assert any(line.startswith(part) for line in said.splitlines())
    code, said, _ = run("study", "variance", grid, *CHOSEN, "--json")
    found = json.loads(said)
    assert (found["sources"], found["targets"], found["seeds"]) == (4, 2, 2)
    assert found["run"]["value"] / 2 == pytest.approx(found["noise"]["value"])
    code, said, err = run("study", "variance", grid, *CHOSEN, "--unit", "points")
    assert (code, said) == (2, "")
    one = tmp_path / "one.csv"
    one.write_text("source,target,score\nnone,t,50\na,t,60\nb,t,70\n")
    code, said, err = run("study", "variance", one)
    assert (code, said) == (2, "")
    assert "no two of which share two sources" in " ".join(err.split())


def test_metrics(run):
    code, said, _ = run("study", "metrics")
    assert code == 0
    assert "ndcg-rank" in said
    code, said, _ = run("study", "metrics", "--json")
    assert {m["name"] for m in json.loads(said)} >= {"regret@3", "negative-rate+none"}


@pytest.mark.data
def test_taskweb(run):
    folder = Path(__file__).resolve().parents[3] / "shared" / "published"
    if not folder.is_dir():
        pytest.skip("no published results beside the repository")
    code, said, _ = run("study", "taskweb", folder)
    assert code == 0
    line = next(line for line in said.splitlines() if line.startswith("taskshop_roe"))
    assert line.split()[-3:] == ["71.54", "/", "2.66"]
    code, said, _ = run("study", "taskweb", folder, "--json")
    assert json.loads(said)["roe"]["all"]["ndcg"] == pytest.approx(64.52, abs=0.005)
    code, _, err = run("study", "taskweb", folder / "elsewhere")
    assert code == 2
    assert "There is no file" in err
