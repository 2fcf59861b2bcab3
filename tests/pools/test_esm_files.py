"""Maps of hf-dataset-selector: read into a pool and written from one, without a change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from taskscout import Pool, Workbench, rank
from taskscout.errors import PoolError
from taskscout.methods.evidence import logme
from taskscout.models.encoder import Encoder
from taskscout.pools.esm_files import pool_of_esms, read_esm, write_esms
from tests.tiny import toy_task


def esm(folder: Path, weight: np.ndarray, bias: np.ndarray, *, legacy: bool = False, **about: str):
    """A map as ``ESM.save_pretrained`` writes it."""
    folder.mkdir(parents=True)
    names = (
        ("sequential.0.weight", "sequential.0.bias") if legacy else ("model.weight", "model.bias")
    )
    save_file(dict(zip(names, (weight, bias), strict=True)), folder / "model.safetensors")
    config = {"task_id": "owner/films", "esm_architecture": "linear", **about}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def maps(tmp_path: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        name: (
            (np.eye(32) + 0.3 * rng.normal(size=(32, 32))).astype(np.float32),
            rng.normal(size=32).astype(np.float32),
        )
        for name in ("films", "cars")
    }


def test_maps_become_a_pool(
    maps: dict[str, tuple[np.ndarray, np.ndarray]], small_bench: Workbench, tmp_path: Path
):
    """Under esm-logme they score as LogME of the maps' own outputs does."""
    folders = [
        esm(tmp_path / "films", *maps["films"], task_subset="long", language="de"),
        esm(tmp_path / "cars", *maps["cars"], legacy=True, task_id="cars"),
        esm(tmp_path / "wide", np.eye(8, dtype=np.float32), np.zeros(8, np.float32)),
        tmp_path / "nothing",
    ]
    pool, left_out = pool_of_esms(folders, tmp_path / "pool", small_bench.encoder)
    assert pool.names == ("cars", "films-long")
    assert "maps 8 dimensions" in left_out[str(tmp_path / "wide")]
    assert "holds no embedding space map" in left_out[str(tmp_path / "nothing")]
    card = pool.source("films-long").card
    assert (card.language, card.hub_id) == ("de", "owner/films:long")
    assert card.load == 'datasets.load_dataset("owner/films", "long")'
    target = toy_task("mine", n=60)
    ranking = rank(target, pool, "esm-logme", bench=small_bench)
    base = small_bench.embeddings(target).astype(np.float64)
    for name, (weight, bias) in zip(("films-long", "cars"), maps.values(), strict=True):
        mapped = base @ weight.astype(np.float64).T + bias
        wanted = logme(mapped, target.labels("train"), centring="both", unit_norm=True)
        assert ranking.source(name).score == pytest.approx(wanted, abs=1e-6)
    with pytest.raises(PoolError, match="No map could be read"):
        pool_of_esms(folders[2:], tmp_path / "other", small_bench.encoder)
    assert not (tmp_path / "other").exists()
    with pytest.raises(PoolError, match="was begun with"):
        pool_of_esms(folders[:1], pool.folder, Encoder(small_bench.encoder.folder, pooling="cls"))


def test_maps_of_a_pool_are_written(small_pool: Pool, small_bench: Workbench, tmp_path: Path):
    folders = write_esms(small_pool, tmp_path / "maps", base_model="owner/tiny")
    assert [f.name for f in folders] == list(small_pool.names)
    config, weight, bias = read_esm(tmp_path / "maps" / "reviews")
    assert config["base_model_name"] == "owner/tiny"
    assert config["task_id"] == "example/reviews"
    assert (config["esm_architecture"], config["esm_embedding_dim"]) == ("linear", 32)
    kept = small_pool.description("reviews", "space-map")
    inner, outer = (kept.arrays[a].astype(np.float64) for a in ("inner", "outer"))
    x = np.random.default_rng(1).normal(size=(5, 32))
    mapped = kept.header["scale"] * x + x @ inner @ outer.T + kept.arrays["offset"]
    np.testing.assert_allclose(x @ weight.T + bias, mapped, atol=1e-5)
    back, _ = pool_of_esms(folders, tmp_path / "back", small_bench.encoder)
    target = toy_task("mine", n=60)
    one, other = (rank(target, p, "esm-logme", bench=small_bench) for p in (small_pool, back))
    for row in other.sources:
        name = {"small": "reviews"}.get(row.name, row.name)
        assert row.score == pytest.approx(one.source(name).score, abs=1e-5)
    with pytest.raises(PoolError, match="exists already"):
        write_esms(small_pool, tmp_path / "maps")
