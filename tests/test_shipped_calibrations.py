"""The calibrations that come with taskscout: made of committed results, and sane on real data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from benchmarks.forecast import READS, file_name, fitted

from taskscout.methods.calibration import Calibration
from taskscout.models.cache import NoCache
from taskscout.models.encoder import Encoder
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.pools.builtin import builtin_folder
from taskscout.pools.calibrations import FOLDER, calibrations_of
from taskscout.ranking import rank
from taskscout.tasks import Task
from taskscout.tasks.catalogue import Catalogue


def shipped(reads: str) -> Calibration:
    return Calibration.load(builtin_folder() / FOLDER / f"{file_name(reads)}.safetensors")


def test_they_lie_beside_the_built_in_pool():
    found = {c.methods: c for c in calibrations_of(Pool.builtin())}
    assert set(found) == set(READS.values())
    for each in found.values():
        assert each.setting["encoder"] == Encoder().fingerprint
        assert each.setting["kinds"] == ["classification", "regression"]
        assert (each.setting["tuning"], each.setting["size"]) == ("lora", 200)
        # What it reports of itself, out of sample.
        assert 0.75 < each.report["rows covered"] < 0.9
        assert 0.7 < each.report["picks covered"] < 0.95
        assert each.report["brier"] < each.report["brier of the base rate"]


@pytest.mark.parametrize("reads", READS)
def test_each_is_the_fit_of_committed_results(reads: str):
    kept = shipped(reads)
    again = fitted(kept.setting["block"], READS[reads], dict(kept.report))
    assert again.sources == kept.sources
    assert again.setting == kept.setting
    for name in ("mean", "own_variances", "residuals", "pick_residuals", "centres"):
        np.testing.assert_allclose(getattr(again, name), getattr(kept, name), rtol=1e-5, atol=1e-7)


@pytest.mark.data
@pytest.mark.encoder
def test_shuffled_labels_of_a_real_task_get_no_confident_advice(catalogue: Catalogue):
    real = catalogue.task("rotten_tomatoes").for_choosing(200)
    table = real.tables["train"]
    order = pa.array(np.random.default_rng(0).permutation(table.num_rows))
    at = table.column_names.index("label")
    dealt = Task("dealt", real.kind, {
        "train": table.set_column(at, "label", table["label"].take(order))
    }, real.label_names)  # fmt: skip
    bench = Workbench(Encoder(), cache=NoCache())
    found = rank(replace(real, name="films"), bench=bench)
    # Film reviews are what half a dozen sources are made of, and one holds these very texts.
    assert found.advice.source is not None
    assert found.advice.source != "rotten_tomatoes"
    assert found.source("rotten_tomatoes").overlap > 0.5
    assert found.advice.expected > 1
    none = rank(dealt, bench=bench)
    assert none.advice.source is None
    assert none.advice.sentence.startswith("Train directly: no source is expected to gain more")
    assert all(row.gain is None for row in none.sources)
