"""No test row chooses in studies either: predictions read the rows that a grid's cells train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from taskscout.methods.gains import Gains
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.studies.predictions import Materials, predict
from taskscout.tasks.catalogue import Catalogue
from tests.small import fresh_bench
from tests.studies.conftest import write_catalogue
from tests.test_choosing import spoiled, with_official_splits


def test_predictions_of_a_study_are_the_same_whatever_the_test_rows(
    small_pool: Pool, small_bench: Workbench, tmp_path: Path
):
    task = with_official_splits()
    gains = Gains.of(
        ["none", "reviews", "topics", "stars"], ["target"] * 4, [0.5, 0.6, 0.5, 0.4], [0] * 4
    )
    methods = ["all", "two-stage(esm-logme,logme)", "rrf(logme,vocabulary)"]
    found = []
    for name, each in (("one", task), ("other", spoiled(task))):
        folder = tmp_path / name
        folder.mkdir()
        write_catalogue(folder, [each])
        materials = Materials(Catalogue.open(folder), small_pool, {"target": 50}, tune=True)
        found.append(predict(gains, methods, materials, fresh_bench(small_bench)))
    one, other = found
    assert len(one.predicted) > 20  # all that the small pool or the catalogue can feed
    assert {"lora", "logme"} <= {p.method for p in one.predicted}
    for mine, theirs in zip(one.predicted, other.predicted, strict=True):
        assert mine.method == theirs.method
        assert mine.scores.tobytes() == theirs.scores.tobytes(), mine.method
        assert mine.none.tobytes() == theirs.none.tobytes(), mine.method


def test_predictions_read_the_rows_that_the_cells_train_on(plan_of):
    plan = plan_of(sizes="16, all")
    materials = Materials(plan.catalogue, None, {"gamma": 16, "number": 0})
    for name, size in (("gamma", 16), ("number", 0)):
        trained = replace(
            plan.target(name, size), tables={"train": plan.target(name, size).tables["train"]}
        )
        target = materials.target(name)
        assert target is not None
        assert target.splits == ("train",)
        assert target.fingerprint == trained.fingerprint
