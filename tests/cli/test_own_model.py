"""A pool for one's own model, by commands alone."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from taskscout.models.encoder import Encoder
from taskscout.pools import Pool
from taskscout.tasks.catalogue import Catalogue
from tests.cli import test_cli
from tests.cli.test_cli import Run, mistake, only_json
from tests.pools import test_add_model, test_own_model

models, pool = test_add_model.models, test_add_model.pool
run, target, tiny = test_cli.run, test_cli.target, test_cli.tiny
data, other, pools = test_own_model.data, test_own_model.other, test_own_model.pools


def test_build_rank_and_list(
    run: Run, small_pool: Pool, other: Encoder, data: Catalogue, pools: Path, target: Path
):
    model = ["--encoder", other.folder, "--max-length", "32"]
    build = ["pool", "build", *model, "--like", small_pool.folder, "--catalogue", data.folder]
    dry = run(*build, "--dry-run", "--only", "reviews,stars")
    assert dry.code == 0, dry.err
    assert dry.out.startswith("2 sources to make in ")
    assert "a step of 32 examples" in dry.out
    assert "LoRA of rank 4" in dry.out
    assert "1 cannot be loaded by name" in dry.out
    assert not pools.exists()
    with pytest.MonkeyPatch.context() as patch:
        full = namedtuple("usage", "total used free")(10**9, 10**9, 1000)
        patch.setattr(shutil, "disk_usage", lambda _: full)
        assert "GB free" in mistake(run(*build))
    assert not pools.exists()
    made = run(*build, "--only", "reviews,stars", "--examples", "60")
    assert made.code == 0, made.err
    assert "added" in made.err
    (folder,) = pools.iterdir()
    assert folder.name.startswith("other")
    listed = only_json(run("pool", "list", "--pool", folder, "--json"))
    assert [s["name"] for s in listed["sources"]] == ["reviews"]
    assert "cannot be had" in listed["left_out"]["stars"]
    ranked = only_json(run("rank", target, *model, "--json"))
    assert {r["name"] for r in ranked["sources"]} == {"reviews", "none"}


def test_mistakes(run: Run, small_pool: Pool, tiny: list[str], tmp_path: Path):
    assert "--like builtin" in mistake(run("pool", "build", *tiny, "--top", "3"))
    assert "--out" in mistake(run("pool", "build", "--like", "builtin"))
    said = mistake(run("pool", "build", *tiny, "--like", small_pool.folder, "--only", "reviws"))
    assert "Close names: reviews" in said
    said = mistake(run("pool", "build", *tiny, "--like", small_pool.folder, "--only", "stars"))
    assert "None of the 1 sources could be made" in said
    gone = tmp_path / "no model"
    assert "neither a folder" in mistake(
        run("pool", "build", "--encoder", gone, "--like", "builtin")
    )


def test_add_model(run: Run, models: dict[str, Path], pool: Pool, target: Path, tmp_path: Path):
    """An adapter whose base is the pool's encoder by its weights, and what later verbs make of it."""
    own = ["--pool", pool.folder]
    added = run("pool", "add-model", models["adapter"], *own, "--name", "films")
    assert added.code == 0, added.err
    assert "its maps were fitted on 32 texts" in added.err
    data = only_json(
        run("rank", target, *own, "--encoder", pool.encoder["model"], "--max-length", "32",
            "--method", "logme,layered-esm-logme", "--json")
    )  # fmt: skip
    assert {r["name"] for r in data["sources"]} == {"films", "topics", "none"}
    described = run("pool", "describe", *own, "--method", "terms-cosine", "--only", "films")
    assert described.code == 0, described.err
    assert "passed over, models that came without data: films" in described.err
    assert (
        only_json(run("pool", "show", "films", *own, "--json"))["card"]["licence"] == "apache-2.0"
    )
    texts = tmp_path / "texts.txt"
    texts.write_text("a good film\n\nthe bus was late\n" * 6)
    again = run("pool", "add-model", models["adapter"], *own, "--replace", "--texts", texts)
    assert again.code == 0, again.err
    assert "fitted on 12 texts" in again.err
    missing = run("pool", "add-model", models["adapter"], *own, "--texts", tmp_path / "none")
    assert "cannot be read" in mistake(missing)
    assert "neither a folder" in mistake(run("pool", "add-model", tmp_path / "none", *own))


def test_maps_go_and_come(run: Run, small_pool: Pool, tiny: list[str], tmp_path: Path):
    out = run("pool", "export-maps", "--pool", small_pool.folder, "--out", tmp_path / "maps")
    assert out.code == 0, out.err
    maps = sorted((tmp_path / "maps").iterdir())
    back = run("pool", "import-maps", *maps, *tiny[:2], "--out", tmp_path / "back")
    assert back.code == 0, back.err
    assert len(Pool.open(tmp_path / "back")) == len(maps) == len(small_pool)
    (tmp_path / "empty").mkdir()
    again = run("pool", "import-maps", tmp_path / "empty", *tiny[:2], "--out", tmp_path / "other")
    assert "No map could be read" in mistake(again)
