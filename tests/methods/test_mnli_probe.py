"""The MNLI probe: one number per source, whatever the target."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from taskscout.errors import MethodError
from taskscout.methods.method import Description, get_method, method_names
from taskscout.methods.mnli_probe import MNLIProbe
from taskscout.models.workbench import Workbench
from taskscout.pools import Pool
from taskscout.pools.build import describe_pool
from taskscout.ranking import rank
from taskscout.tasks import Task
from taskscout.tasks.catalogue import ENVIRONMENT_VARIABLE
from tests.small import SOURCES, fresh_bench, source_task
from tests.tiny import toy_task


def pairs(name: str = "mnli", *, validation: bool = True) -> Task:
    """Pairs with labels; the test split is made the validation split, or left out."""
    task = toy_task(name, n=90, seed=7, pairs=True)
    tables = {"train": task.tables["train"]}
    if validation:
        tables["validation"] = task.tables["test"]
    return replace(task, tables=tables)


def direct(probe: Task, split: str, source: Task, bench: Workbench, strength: float) -> float:
    """Compute the accuracy with the source's model, batch by batch, and folds dealt by hand."""
    import torch

    body = bench.tuned(source).model.body.eval()
    tokenizer = bench.encoder.tokenizer
    features = []
    with torch.no_grad():
        for first, second in zip(*probe.inputs(split), strict=True):
            tokens = tokenizer(
                first, second, truncation=True, max_length=bench.encoder.max_length,
                return_tensors="pt",
            )  # fmt: skip
            features.append(body(**tokens).last_hidden_state[0].mean(0).numpy())
    x, y = np.stack(features).astype(np.float64), probe.labels(split)
    right = 0
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(x, y):
        mean, spread = x[train].mean(0), x[train].std(0)
        head = LogisticRegression(C=1 / strength, max_iter=200)
        head.fit((x[train] - mean) / spread, y[train])
        right += int((head.predict((x[test] - mean) / spread) == y[test]).sum())
    return right / len(y)


@pytest.mark.parametrize("validation", [True, False])
def test_the_number_is_that_of_a_direct_computation(small_bench: Workbench, validation: bool):
    probe = pairs(validation=validation)
    split = "validation" if validation else "train"
    method = MNLIProbe(probe=probe, strength=10.0)
    accuracies = {}
    for name in ("reviews", "matching"):
        source = source_task(name)
        described = method.describe(source, small_bench)
        assert (described.key, described.source) == ("mnli-probe", name)
        assert not described.arrays
        accuracies[name] = described.header["accuracy"]
        expected = direct(probe, split, source, small_bench, 10.0)
        assert accuracies[name] == pytest.approx(expected, abs=1e-5)
    assert accuracies["matching"] != accuracies["reviews"]


def test_reads_no_more_rows_than_it_says(small_bench: Workbench):
    bench = fresh_bench(small_bench)
    few = MNLIProbe(probe=pairs(), rows=40).describe(source_task("reviews"), bench)
    assert few.header["probe"].split(":")[1:] == ["validation", "40", "10000"]


def number(name: str, accuracy: float, bench: Workbench, probe: str = "rows") -> Description:
    header = {"accuracy": accuracy, "probe": probe, "encoder": bench.encoder.fingerprint}
    return Description("mnli-probe", name, header)


def test_blind_to_the_target(small_bench: Workbench):
    sources = [number("a", 0.4, small_bench), number("b", 0.6, small_bench)]
    method = get_method("mnli-probe")
    for target in (toy_task(), toy_task(seed=5, regression=True), toy_task(pairs=True)):
        assert method.score(target, sources, small_bench).tolist() == [0.4, 0.6]


def test_nan_where_there_is_no_number(small_bench: Workbench):
    method = get_method("mnli-probe")
    sources = [
        number("a", 0.4, small_bench),
        number("b", 0.6, small_bench),
        Description("mnli-probe", "nothing"),
        number("other rows", 0.9, small_bench, probe="other rows"),
        replace(number("other encoder", 0.9, small_bench), header={
            "accuracy": 0.9, "probe": "rows", "encoder": "another"}),
    ]  # fmt: skip
    scores = method.score(toy_task(), sources, small_bench)
    np.testing.assert_array_equal(scores, [0.4, 0.6, np.nan, np.nan, np.nan])
    assert np.isnan(method.score(toy_task(), sources[2:3], small_bench)).all()


def test_is_listed():
    assert "mnli-probe" in method_names()
    method = get_method("MNLI probe")
    assert isinstance(method, MNLIProbe)
    assert (method.cost, method.describes_from) == ("card", "tuned model")
    assert not method.needs


def test_without_rows_the_remedy_is_named(small_bench: Workbench, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    with pytest.raises(MethodError, match=ENVIRONMENT_VARIABLE) as caught:
        MNLIProbe().describe(source_task("reviews"), fresh_bench(small_bench))
    assert "not part of taskscout" in caught.value.why
    assert "probe=task" in caught.value.remedy


@pytest.mark.parametrize(
    "options", [{"rows": 3}, {"strength": 0.0}, {"probe": toy_task(regression=True)}]
)
def test_options_that_cannot_be(options: dict[str, object]):
    with pytest.raises(MethodError):
        MNLIProbe(**options)


def test_from_a_catalogue_into_a_pool_into_a_ranking(
    small_pool: Pool, small_bench: Workbench, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    """``pool describe`` gives every source its number, with MNLI from the user's catalogue."""
    import taskscout.tasks.catalogue as catalogue

    class OfOne:
        def task(self, name: str) -> Task:
            assert name == "mnli"
            return pairs()

    monkeypatch.setattr(catalogue.Catalogue, "find", classmethod(lambda _: OfOne()))
    pool = small_pool.unpack(tmp_path / "pool")
    bench = fresh_bench(small_bench)
    describe_pool(pool, ["mnli-probe"], lambda s: source_task(s.name), bench)
    packed = pool.pack(tmp_path / "packed")
    assert packed.verify() == []
    ranking = rank(toy_task("mine", seed=11), packed, "mnli-probe", bench=bench)
    found = {r.name: r.score for r in ranking.sources if r.name in SOURCES}
    assert found == {n: packed.header(n, "mnli-probe")["accuracy"] for n in SOURCES}
    assert list(found.values()) == sorted(found.values(), reverse=True)
