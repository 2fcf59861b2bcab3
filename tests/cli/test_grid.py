"""``taskscout grid``, as it is typed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from taskscout.cli import app
from taskscout.errors import StudyError
from taskscout.studies.store import CellResult, GridStore


@pytest.fixture
def grid(tmp_path):
    """A grid of two sources on one target, two seeds, and one cell that failed."""
    store = GridStore(tmp_path / "g.sqlite")
    runs = [("none", 0, 0.5), ("none", 1, 0.5), ("good", 0, 0.6), ("good", 1, 0.7), ("bad", 0, 0.4)]
    store.put(
        CellResult(
            f"{s}{seed}", s, "aim", "default", "none" if s == "none" else "sequential", "lora", 200,
            seed, score, {"score": score, "accuracy": score}, 1.5,
        )
        for s, seed, score in runs
    )  # fmt: skip
    failed = CellResult(
        "x", "bad", "aim", "default", "sequential", "lora", 200, 1, None, error="no"
    )
    store.put([failed])
    return store.path


def typed(*words: object):
    return CliRunner().invoke(app, [str(w) for w in words], catch_exceptions=False)


def test_show_draws_the_mean_gains_best_first(grid):
    out = typed("grid", "show", grid).stdout
    assert "size 200" in out
    assert out.index("good") < out.index("bad")
    assert "+15.0" in out
    assert "-10.0" in out


def test_show_as_json_is_nothing_but_json(grid):
    (found,) = json.loads(typed("grid", "show", grid, "--where", "seed=1", "--json").stdout)
    assert found["tuning"] == "lora"
    assert found["sources"] == ["good"]
    assert found["points"] == [[20.0]]


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_export_is_what_gains_read(grid, tmp_path, ending):
    from taskscout.methods.gains import Gains

    out = tmp_path / f"table.{ending}"
    assert "6 cells" in typed("grid", "export", grid, out).stdout
    gains = Gains.read(out)
    assert gains.gain("good", "aim") == pytest.approx(15)


def test_export_refuses_other_formats(grid, tmp_path):
    with pytest.raises(StudyError, match=r"\.xlsx"):
        typed("grid", "export", grid, tmp_path / "table.xlsx")
    assert not (tmp_path / "table.xlsx").exists()


def test_merge_joins(grid, tmp_path):
    out = tmp_path / "all.sqlite"
    assert "6 new cells" in typed("grid", "merge", grid, "--out", out).stdout
    assert "0 new cells" in typed("grid", "merge", grid, "--out", out).stdout


def test_a_dry_run_tells_cells_hours_and_disk(tmp_path, toy_pool):
    from tests.studies.conftest import write_catalogue
    from tests.tiny import toy_task

    write_catalogue(tmp_path, [toy_task("alpha", n=64), toy_task("beta", n=64, seed=1)])
    study = tmp_path / "s.yaml"
    encoder = toy_pool.parent / "encoder"
    study.write_text(
        f"name: s\ncatalogue: .\nsources: [alpha, beta]\ntargets: [alpha, beta]\nsizes: [16]\n"
        f"encoders: [{{model: {encoder}, max_length: 32}}]\n"
    )
    out = typed("grid", "run", study, "--dry-run", "--engine", "here").stdout
    assert "4 cells (2 sources, 2 targets), 0 done, 4 to do; 2 sources to tune" in out
    assert "about 2 minutes with 1 process (assumed" in out
    assert "MB on disk" in out
    assert not (tmp_path / "s.sqlite").exists()
    found = json.loads(typed("grid", "run", study, "--dry-run", "--json").stdout)
    assert found["cells"] == 4


def test_progress_gives_a_rate_once_it_has_one(monkeypatch, capsys):
    import sys

    module = sys.modules["taskscout.cli.grid"]
    clock = iter([1000.0, 1000.0, 1001.0, 1120.0, 1180.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    with module._live(terminal=False) as report:
        for done in (91, 92, 93, 95):
            report(done, 100, CellResult("k", "s", "t", "e", "sequential", "lora", 200, 0, 0.5))
    # From the first cell on, and not from two processes that finish theirs together.
    assert capsys.readouterr().err.split("\n") == ["93/100 cells, 60 an hour, 7 min left", ""]
