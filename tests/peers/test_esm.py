"""hf-dataset-selector reads the maps that we write, and we those that it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from taskscout import Pool, Workbench
from taskscout.methods.evidence_rows import evidence_rows
from taskscout.methods.method import get_method
from taskscout.pools.esm_files import pool_of_esms, read_esm, write_esms
from tests.tiny import toy_task


def test_it_reads_ours(
    peer: Callable[[str], ModuleType], small_pool: Pool, small_bench: Workbench, tmp_path: Path
):
    hfselect = peer("hfselect")
    base = small_bench.embeddings(toy_task("mine", n=40))
    for folder in write_esms(small_pool, tmp_path / "maps"):
        esm = hfselect.ESM.from_pretrained(folder)
        with torch.no_grad():
            theirs = esm(torch.from_numpy(base)).numpy()
        kept = small_pool.description(folder.name, "space-map")
        ours = get_method("esm-logme").backend.features(
            evidence_rows(toy_task("mine", n=40)), kept, small_bench
        )
        np.testing.assert_allclose(theirs, ours, atol=1e-5)
        assert esm.create_config().is_valid


def test_we_read_its(peer: Callable[[str], ModuleType], small_bench: Workbench, tmp_path: Path):
    hfselect = peer("hfselect")
    d = small_bench.encoder.dimension
    config = hfselect.ESMConfig(
        base_model_name="owner/tiny", task_id="owner/films", esm_architecture="linear",
        esm_embedding_dim=d,
    )  # fmt: skip
    torch.manual_seed(0)
    esm = hfselect.ESM(architecture="linear", embedding_dim=d, config=config)
    esm.save_pretrained(tmp_path / "films")
    about, weight, bias = read_esm(tmp_path / "films")
    assert about["task_id"] == "owner/films"
    assert (weight == esm.model.weight.detach().numpy()).all()
    assert (bias == esm.model.bias.detach().numpy()).all()
    pool, left_out = pool_of_esms([tmp_path / "films"], tmp_path / "pool", small_bench.encoder)
    assert not left_out
    target = toy_task("mine", n=40)
    kept = pool.description("films", "space-map")
    ours = get_method("esm-logme").backend.features(evidence_rows(target), kept, small_bench)
    with torch.no_grad():
        theirs = esm(torch.from_numpy(small_bench.embeddings(target))).numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
